"""`python -m training.unfamiliar models/digits_cnn-mnist`: a published digit model -> its next version, which also says
how unfamiliar a picture is.

The network stays as it is, so probabilities do not change. A detector learns on its feature maps: MNIST's training
digits and drawn ones against letters, signs, scribbles and spoilt digits. Held-out digits name the threshold.
"""

import argparse
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np
import onnx
import onnxruntime

from training.artifact.card import write_card
from training.artifact.detector import Detector, fit, with_detector, with_features
from training.artifact.errors import ExportError
from training.artifact.reading import latest_version, run_outputs
from training.artifact.reference import reference
from training.artifact.triton import write_config
from training.artifact.trust import wilson_interval
from training.artifact.unfamiliarity import LIMIT, OUTPUT
from training.artifact.versions import new_version
from training.data.dataset import Dataset, DatasetError
from training.data.loading import load

SHARE = 0.0075  # of each kind of held-out digits that may be called unfamiliar
HELD_OUT = 3000  # of MNIST's training pictures: they name the threshold, and the detector does not learn from them
COUNT = 14_000  # MNIST's digits to learn from; of the other kinds there are shares of it
_ITS_OWN = ("labels", "input_shape", "parameters", "libraries", "revision", "files", "name")  # what `write_card` writes
_AT_ONCE = 500


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.unfamiliar",
        description="Publish a digit model again, with a second output that says how unfamiliar a picture is.",
    )
    parser.add_argument("model", type=Path, help="models/NAME (its latest version) or models/NAME/VERSION")
    parser.add_argument("--data", type=Path, help="mnist.npz (default: Keras fetches it)")
    parser.add_argument("--output", type=Path, help="default: the folder that MODEL is in")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    import tensorflow as tf

    tf.config.experimental.enable_op_determinism()  # so that the command gives the committed version again
    try:
        path = latest_version(args.model).resolve()
        data = load("mnist", args.data)
        print(f"published {add_detector(path, data, args.output or path.parents[1], args.seed)}")
    except (ExportError, DatasetError, OSError, ValueError) as err:
        print(f"error: {' '.join(str(err).split())}", file=sys.stderr)
        return 1
    return 0


def add_detector(path: Path, data: Dataset, output: Path, seed: int = 0, count: int = COUNT) -> Path:
    """Publish the version in `path` again, with the output, and return the new one. Raises ExportError.

    `data` are grey digits of the model's size, whose training split the network has learnt from; `count` of them, and
    shares of it of what is drawn, are learnt from here.
    """
    card = json.loads((path / "card.json").read_text())
    proto = onnx.load(str(path / "model.onnx"))
    if any(out.name == OUTPUT for out in proto.graph.output):
        raise ExportError(f"{path} has an output {OUTPUT} already")
    if tuple(card["labels"]) != tuple("0123456789") or card["input_shape"] != list(data.input_shape):
        raise ExportError(f"{path} is no model of digits of {data.input_shape}: nothing is drawn for other classes")
    values = feature_maps(proto)
    known, unknown, held_out = pictures(data, seed, count)
    print(f"learning from {len(known):,} digits and {len(unknown):,} pictures that are none", flush=True)
    features = _Features(proto, values)
    detector = fit(features(known), features(unknown), seed)
    values_of = {kind: detector(features(images)) for kind, images in held_out.items()}
    threshold = max(float(np.quantile(strange, 1 - SHARE, method="higher")) for strange in values_of.values())
    for kind, strange in values_of.items():
        print(f"{kind}: {(strange > threshold).mean():.1%} of {len(strange):,} are called unfamiliar", flush=True)
    graph = with_detector(proto, values, detector)

    def write(folder: Path) -> None:
        onnx.save(graph, str(folder / "model.onnx"))
        with np.load(path / "golden.npz") as archive:
            images, probabilities = archive["image"], archive["probabilities"]
        (before,) = run_outputs(path, images, ["probabilities"])
        again, strange = run_outputs(folder, images, ["probabilities", OUTPUT])
        if not np.array_equal(again, before) or not np.isfinite(strange).all():
            raise ExportError("the graph with the detector does not answer as without it; nothing was published")
        np.savez(folder / "golden.npz", image=images, probabilities=probabilities, unfamiliarity=strange)
        answers, values = run_outputs(folder, held_out["MNIST"], ["probabilities", OUTPUT])
        (test,) = run_outputs(folder, data.x_test, [OUTPUT])
        kept = {key: value for key, value in card.items() if key not in _ITS_OWN}
        kept[OUTPUT] = stated(detector, threshold, values, test)
        kept["reference"] = reference(answers, card["labels"], values, threshold)
        if "macs" in card:
            kept["macs"] = card["macs"] + detector.hidden.size + detector.direction.size
        weights = card["parameters"] + detector.parameters
        write_card(folder, weights, card["name"], card["labels"], card["input_shape"], kept)
        write_config(folder)

    return new_version(output, card["name"], write)


def stated(detector: Detector, threshold: float, values: np.ndarray, test: np.ndarray) -> dict[str, object]:
    """The card's `unfamiliarity`; `values` and `test` are those of held-out and of test digits."""
    share = float((values > threshold).mean())
    return {
        "threshold": threshold,
        "share": share,
        "interval": wilson_interval(share, len(values)),
        "test_share": float((test > threshold).mean()),
        "method": "detector",
        "features": len(detector.hidden),
        "parameters": detector.parameters,
        "validation": len(values),
        "float32_limit": LIMIT,
    }


def feature_maps(proto: onnx.ModelProto) -> list[str]:
    """The coarsest maps: what the last pooling of a part of the picture gives, and what is averaged in the end.

    They say where the network has found which strokes. A map that is not pooled yet costs more than it tells.
    """
    *_, pool, average = (node for node in proto.graph.node if node.op_type in ("MaxPool", "GlobalAveragePool"))
    return [pool.output[0], average.input[0]]


class _Features:
    """Maps images (N, H, W, C) uint8 to the graph's feature maps, (N, D) float32."""

    def __init__(self, proto: onnx.ModelProto, values: Sequence[str]):
        graph, self._name = with_features(proto, values)
        graph.graph.output.append(onnx.helper.make_tensor_value_info(self._name, onnx.TensorProto.FLOAT, ["N", "D"]))
        self._session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])

    def __call__(self, images: np.ndarray) -> np.ndarray:
        parts = [images[i : i + _AT_ONCE] for i in range(0, len(images), _AT_ONCE)]
        return np.concatenate([self._session.run([self._name], {"image": part})[0] for part in parts])


def pictures(data: Dataset, seed: int, count: int) -> tuple[np.ndarray, np.ndarray, dict[str, np.ndarray]]:
    """Pictures of digits and of none to learn from, and three kinds of digits that are held out.

    Half of each kind are as they are, half distorted as in the recipe `handwriting`.
    """
    from training.recipes import glyphs, no_digits, strokes
    from training.recipes.drawn import flagged_ones

    side, rng = data.input_shape[0], np.random.default_rng(seed)
    images, targets = data.x_train[:-HELD_OUT], data.y_train[:-HELD_OUT]
    chosen = np.sort(rng.permutation(len(images))[:count])
    images, targets = images[chosen], targets[chosen]
    drawn = [strokes.digits(count * 3 // 14, side, seed), glyphs.digits(count * 3 // 14, side, seed)]
    blurred = no_digits.coarse(images[: count // 5], seed)
    known = [images, blurred, flagged_ones(count // 12, side, seed), *drawn]
    known += [_distorted(part, seed) for part in (images, *drawn)]
    others = [strokes.no_digits(count // 2, side, seed), glyphs.no_digits(count // 2, side, seed)]
    spoilt = no_digits.spoilt(images, targets, count // 5, seed)
    unknown = [spoilt, no_digits.noise(count // 14, side, seed), *others]
    unknown += [_distorted(part, seed) for part in (spoilt, *others)]
    unknown += [no_digits.coarse(part[: count // 14], seed) for part in others]
    held_out = {
        "MNIST": data.x_train[-HELD_OUT:],
        "strokes": strokes.digits(max(10, count // 10), side, seed + 1),
        "fonts": glyphs.digits(max(10, count // 10), side, seed, held_out=True),
    }
    return np.concatenate(known), np.concatenate(unknown), held_out


def _distorted(images: np.ndarray, seed: int) -> np.ndarray:
    import tensorflow as tf

    from training.recipes.augmentation import augmented
    from training.recipes.table import recipe_for

    distortions, changed = recipe_for("digits_cnn", "mnist").augmentation, []
    for start in range(0, len(images), _AT_ONCE):
        batch = tf.cast(images[start : start + _AT_ONCE], tf.float32) / 255
        batch = augmented(batch, distortions, tf.constant([seed, start], tf.int32))
        changed.append(np.clip(np.asarray(batch) * 255 + 0.5, 0, 255).astype(np.uint8))
    return np.concatenate(changed)


if __name__ == "__main__":
    sys.exit(main())
