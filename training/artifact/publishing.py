"""A trained Keras model -> one self-contained artifact, compared in three forms before it is published.

`models/NAME/VERSION/` receives model.onnx, the SavedModel, card.json and golden.npz, or nothing at all: everything is
written under a temporary name, checked and renamed into place. Knows no network, recipe or data set: what the card
says of them is passed in.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.artifact.card import write_card
from training.artifact.errors import ExportError
from training.artifact.exactness import FACTOR, MOST, Predict, agreement, limit_for, spread_of
from training.artifact.golden import golden_inputs, warning_of_few
from training.artifact.graph import serving_function, write_onnx, write_saved_model
from training.artifact.pixels import RANGES, Pixels
from training.artifact.reading import run_outputs
from training.artifact.triton import write_config
from training.artifact.unfamiliarity import LIMIT, OUTPUT, Distance, scale_of
from training.artifact.unfamiliarity import MOST as MOST_UNFAMILIAR
from training.artifact.versions import check_name, new_version
from training.data.dataset import batch_for


def export(
    model: keras.Model,
    name: str,
    *,
    labels: Sequence[str],
    output: Path,
    card: dict[str, Any],
    input_shape: tuple[int, ...] | None = None,
    pixels: Pixels = RANGES["0-1"],
    ending: str = "probabilities",
    distance: Distance | None = None,
) -> Path:
    """Publish `model` as the next free version of `output/name` and return that folder.

    `card` holds the keys of card.json that only the caller knows; `input_shape` (H, W, C) is needed when the model
    takes flat vectors; `pixels` and `ending` say what the model takes and gives (`graph.py`). A `distance` becomes the
    output `unfamiliarity`, of which `card` holds the threshold; it is left out, with a warning, where rounding decides
    it. Raises ExportError.
    """
    check_name(name)
    outputs = tuple(model.output_shape[1:])
    classes = (2,) if outputs == (1,) and ending != "probabilities" else outputs
    if classes != (len(labels),) or len(labels) < 2:
        raise ExportError(f"the model gives {outputs} outputs but there are {len(labels)} labels (at least 2)")
    function, shape = serving_function(model, input_shape, pixels, ending, distance)

    def write(folder: Path) -> None:
        try:
            images, reference, spread = golden_inputs(shape, *_answers(model, function))
            _check_probabilities(reference)
            golden: dict[str, Any] = {"probabilities": reference}
            written_card, served = card, function
            if distance is not None:
                strange, limit = _strange(model, function, images)
                if limit <= MOST_UNFAMILIAR:
                    golden[OUTPUT] = strange
                    written_card = {**card, OUTPUT: {**card.get(OUTPUT, {}), "float32_limit": limit}}
                else:
                    print(f"warning: rounding moves the model's unfamiliarity by {limit:.1%}: it is left out")
                    served, _ = serving_function(model, input_shape, pixels, ending)
                    written_card = {key: value for key, value in card.items() if key != OUTPUT}
            write_saved_model(model, served, folder)
            write_onnx(served, folder / "model.onnx", name, labels)
            prove(
                folder,
                images,
                golden,
                spread,
                name=name,
                labels=labels,
                parameters=model.count_params(),
                card=written_card,
            )
        except tf.errors.OpError as err:  # TensorFlow has classes of its own for a full disk
            raise unwritten(folder, err) from err

    return new_version(output, name, write)


def unwritten(folder: Path, err: tf.errors.OpError) -> ExportError:
    reason = next(iter(str(err).splitlines()), type(err).__name__)
    return ExportError(f"cannot write to {folder}: {reason}; nothing was published")


def prove(
    folder: Path,
    images: np.ndarray,
    golden: dict[str, Any],
    spread: np.ndarray,
    *,
    name: str,
    labels: Sequence[str],
    parameters: int,
    card: dict[str, Any],
) -> None:
    """Compare the SavedModel and the ONNX file in `folder` with `golden`, and write what an artifact has beside them.

    The arguments are those of `compare`. Raises ExportError.
    """
    if warning := warning_of_few(golden["probabilities"]):
        print(warning)
    exactness = compare(folder, images, golden, spread, card.get(OUTPUT, {}).get("float32_limit", LIMIT))
    np.savez(folder / "golden.npz", image=images, **golden)
    write_card(folder, parameters, name, labels, images.shape[1:], {**card, "exactness": exactness})
    write_config(folder)


def _outputs(function: Any, images: np.ndarray) -> dict[str, np.ndarray]:
    """The outputs of the served graph for images (N, H, W, C), a batch at a time."""
    part = batch_for(images.shape[1:])
    answers = [function(tf.constant(images[i : i + part])) for i in range(0, len(images), part)]
    return {name: np.concatenate([np.asarray(answer[name]) for answer in answers]) for name in answers[0]}


def _answers(model: keras.Model, function: Any) -> tuple[Predict, Predict]:
    """What the served graph answers to images, and how far rounding moves that."""

    def predict(images: np.ndarray) -> np.ndarray:
        return _outputs(function, images)["probabilities"]

    return predict, lambda images: spread_of(images, predict, model.variables, _coarsest(function))


def _coarsest(function: Any) -> str:
    """The coarsest precision that a graph computes in."""
    operations = function.get_concrete_function().graph.get_operations()
    precisions = {tensor.dtype.name for operation in operations for tensor in operation.outputs}
    return next((name for name in ("bfloat16", "float16") if name in precisions), "float32")


def _strange(model: keras.Model, function: Any, images: np.ndarray) -> tuple[np.ndarray, float]:
    """The unfamiliarity (N,) of golden images, and the limit of its difference, as a fraction: what rounding moves it
    by, doubled as for probabilities, and at least LIMIT; inf where it is no number."""
    values = _outputs(function, images)[OUTPUT]
    if not np.isfinite(values).all():
        return values, float("inf")
    scale = scale_of(values)

    def scaled(images: np.ndarray) -> np.ndarray:
        return (_outputs(function, images)[OUTPUT] / scale)[:, None]

    return values, max(LIMIT, FACTOR * float(spread_of(images, scaled, model.variables, _coarsest(function)).max()))


def compare(
    folder: Path, images: np.ndarray, golden: dict[str, np.ndarray], spread: np.ndarray, unfamiliar: float = LIMIT
) -> dict[str, float]:
    """The card's `exactness`. Raises ExportError unless SavedModel and ONNX give `golden` for `images`.

    It holds `probabilities` (N, K) and perhaps `unfamiliarity` (N,). Probabilities agree within the limit that follows
    from `spread` (N,), with the same best class wherever it leads by more; unfamiliarity within the fraction
    `unfamiliar`.
    """
    if not spread.max() <= MOST:
        raise ExportError(
            f"rounding decides this model's answers: weights that are moved in their last place change a probability "
            f"by {spread.max():.2g} (at most {MOST}), so no two runtimes would agree. "
            "Train it for longer or with a smaller learning rate; nothing was published"
        )
    limit, reference = limit_for(spread), golden["probabilities"]
    signature = tf.saved_model.load(str(folder)).signatures["serving_default"]
    answers = {
        "SavedModel": _outputs(lambda part: signature(image=part), images),
        "ONNX": dict(zip(golden, run_outputs(folder, images, list(golden)), strict=True)),
    }
    largest = 0.0
    for form, answer in answers.items():
        difference, changed = agreement(answer["probabilities"], reference, limit)
        if not difference <= limit or changed:
            raise ExportError(
                f"{form} disagrees with Keras on {len(images)} drawn pictures: largest difference {difference:.2g} "
                f"(limit {limit:.2g}), {changed} answers changed; nothing was published"
            )
        largest = max(largest, difference)
        if OUTPUT in golden:
            off = float(np.max(np.abs(answer[OUTPUT] - golden[OUTPUT]) / scale_of(golden[OUTPUT])))
            if not off <= unfamiliar:
                raise ExportError(
                    f"{form} disagrees with Keras on {len(images)} drawn pictures: unfamiliarity differs by {off:.2g} "
                    f"of its size (limit {unfamiliar:.2g}); nothing was published"
                )
    return {"float32_limit": limit, "spread": float(spread.max()), "difference": largest}


def _check_probabilities(reference: np.ndarray) -> None:
    if not np.isfinite(reference).all():
        raise ExportError("the model's answers are not finite numbers; nothing was published")
    if reference.min() < 0 or np.abs(reference.sum(axis=1) - 1).max() > 1e-3:
        raise ExportError("the model's outputs are no probabilities (a row must sum to 1): end it with a softmax")
