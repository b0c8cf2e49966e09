"""A kept network and a new linear classifier -> an artifact like any other, in seconds.

The network was converted before, so only the classifier is; both graphs are joined. What is published is proved as
ever: the SavedModel and the ONNX file must give what Keras gives for the golden pictures.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import tensorflow as tf

from training.artifact.body import FEATURES, Body
from training.artifact.errors import ExportError
from training.artifact.exactness import FACTOR, difference, moved
from training.artifact.golden import chosen
from training.artifact.graph import as_onnx, finish_onnx, write_saved_model
from training.artifact.publishing import prove, unwritten
from training.artifact.unfamiliarity import LIMIT, MOST, OUTPUT, Distance, scale_of
from training.artifact.versions import new_version

_JOINT = f"head_{FEATURES}"


def publish_headed(
    body: Body,
    name: str,
    *,
    labels: Sequence[str],
    kernel: np.ndarray,
    bias: np.ndarray,
    distance: Distance | None,
    output: Path,
    card: dict[str, Any],
) -> Path:
    """Publish softmax(features @ kernel + bias), kernel (D, K), as the next version of `output/name`; its folder.

    `distance` and `card` are as in `publishing.export`. The body has golden features. Raises ExportError.
    """
    weights = [tf.Variable(kernel.astype(np.float32)), tf.Variable(bias.astype(np.float32))]
    images, features, away = body.golden()

    def headed(distance: Distance | None) -> Any:
        @tf.function(input_signature=[tf.TensorSpec((None, body.size), tf.float32, name=_JOINT)], autograph=False)
        def head(features: tf.Tensor) -> dict[str, tf.Tensor]:
            logits = tf.matmul(features, weights[0]) + weights[1]
            served = {"probabilities": tf.nn.softmax(logits)}
            return served if distance is None else {**served, OUTPUT: distance(features)}

        return head

    head = headed(distance)
    golden = {key: value.numpy() for key, value in head(tf.constant(features)).items()}
    others = [{key: value.numpy() for key, value in head(tf.constant(away[k])).items()} for k in moved(weights)]
    if not all(np.isfinite(values).all() for values in golden.values()):
        raise ExportError("the model's answers are not finite numbers; nothing was published")
    widest = np.max([difference(other["probabilities"], golden["probabilities"]) for other in others], axis=0)
    taken, spread = chosen(golden["probabilities"], lambda indices: widest[list(indices)])
    golden = {key: values[taken] for key, values in golden.items()}
    if distance is not None:
        scale = scale_of(golden[OUTPUT])
        apart = max(float(np.max(np.abs(other[OUTPUT][taken] - golden[OUTPUT]) / scale)) for other in others)
        limit = max(LIMIT, FACTOR * apart)
        if limit <= MOST:
            card = {**card, OUTPUT: {**card.get(OUTPUT, {}), "float32_limit": limit}}
        else:
            print(f"warning: rounding moves the model's unfamiliarity by {limit:.1%}: it is left out")
            head, card = headed(None), {key: value for key, value in card.items() if key != OUTPUT}
            del golden[OUTPUT]

    def write(folder: Path) -> None:
        try:
            write_saved_model(weights, _whole(body, head), folder)
            _write_onnx(body, head, folder / "model.onnx", name, labels, list(golden))
            parameters = body.parameters + kernel.size + bias.size
            prove(folder, images[taken], golden, spread, name=name, labels=labels, parameters=parameters, card=card)
        except tf.errors.OpError as err:  # TensorFlow has classes of its own for a full disk
            raise unwritten(folder, err) from err

    return new_version(output, name, write)


def _whole(body: Body, head: Any) -> Any:
    extract = body.graph()

    @tf.function(input_signature=[tf.TensorSpec((None, *body.shape), tf.uint8, name="image")], autograph=False)
    def classify(image: tf.Tensor) -> dict[str, tf.Tensor]:
        return {name: tf.identity(values, name=name) for name, values in head(extract(image)).items()}

    return classify


def _write_onnx(body: Body, head: Any, path: Path, name: str, labels: Sequence[str], outputs: Sequence[str]) -> None:
    try:
        last = onnx.compose.add_prefix(
            as_onnx(head, _JOINT, outputs), "head/", rename_inputs=False, rename_outputs=False
        )
        whole = onnx.compose.merge_models(onnx.load(body.folder / "body.onnx"), last, io_map=[(FEATURES, _JOINT)])
        finish_onnx(whole, path, name, labels)
    except Exception as err:  # tf2onnx and onnx raise what they like
        reason = " ".join(str(err).split()) or type(err).__name__
        raise ExportError(f"the classifier cannot be converted to ONNX ({reason}); nothing was published") from err
