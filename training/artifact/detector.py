"""A small network on another network's feature maps that tells pictures of none of its classes, inside its graph.

A distance is fitted on what a network knows. Where pictures of what it does not know can be had too, a classifier of
the two is better (Hendrycks et al. 2018, 1812.04606, "Outlier Exposure"). Knows ONNX graphs and features; no pictures.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from training.artifact.errors import ExportError
from training.artifact.unfamiliarity import OUTPUT

HIDDEN = 64
EPOCHS = 8
BATCH = 256
_PREFIX = "unfamiliarity/"


@dataclass(frozen=True)
class Detector:
    """-log of the probability that a picture is of a known class: (N, D) features -> (N,) float32, 0 and above.

    softplus(relu(features @ hidden + offset) @ direction + bias), with `hidden` (D, H), `offset` and `direction` (H,).
    """

    hidden: np.ndarray
    offset: np.ndarray
    direction: np.ndarray
    bias: float

    def __call__(self, features: np.ndarray) -> np.ndarray:
        return np.logaddexp(0, np.maximum(features @ self.hidden + self.offset, 0) @ self.direction + self.bias)

    @property
    def parameters(self) -> int:
        return self.hidden.size + self.offset.size + self.direction.size + 1


def fit(known: np.ndarray, unknown: np.ndarray, seed: int = 0, epochs: int = EPOCHS) -> Detector:
    """From features of pictures of the classes, (N, D), and of none of them, (M, D); half a minute for 70,000.

    The features are brought to mean 0 and variance 1 for the training, and the matrix takes that into itself.
    """
    import keras
    from keras import layers

    features = np.concatenate([known, unknown])
    mean, width = features.mean(axis=0), features.std(axis=0) + np.float32(1e-3)
    features = (features - mean) / width
    keras.utils.set_random_seed(seed)
    network = keras.Sequential(
        [
            layers.Input(features.shape[1:]),
            layers.Dropout(0.2),
            layers.Dense(HIDDEN, activation="relu"),
            layers.Dropout(0.3),
            layers.Dense(1),
        ]
    )
    rate = keras.optimizers.schedules.CosineDecay(2e-3, epochs * -(-len(features) // BATCH))
    loss = keras.losses.BinaryCrossentropy(from_logits=True, label_smoothing=0.02)
    network.compile(keras.optimizers.AdamW(rate, weight_decay=1e-3), loss)
    network.fit(features, np.arange(len(features)) >= len(known), batch_size=BATCH, epochs=epochs, verbose=0)
    first, offset, second, bias = (np.asarray(weights, np.float64) for weights in network.get_weights())
    hidden = first / width[:, None]
    single = [values.astype(np.float32) for values in (hidden, offset - mean @ hidden, second[:, 0])]
    return Detector(single[0], single[1], single[2], float(bias[0]))


def with_features(proto: onnx.ModelProto, values: Sequence[str]) -> tuple[onnx.ModelProto, str]:
    """A copy of a graph that also joins feature maps, all of their places in a row: (N, D), of this name.

    `values` name tensors (N, C, h, w). Raises ExportError for one that there is not.
    """
    copy = onnx.ModelProto()
    copy.CopyFrom(proto)
    graph, made = copy.graph, {output for node in proto.graph.node for output in node.output}
    if missing := [value for value in values if value not in made]:
        raise ExportError(f"the graph has no value {missing[0]!r}")
    flat = [f"{_PREFIX}flat{k}" for k in range(len(values))]
    for value, flattened in zip(values, flat, strict=True):
        graph.node.append(helper.make_node("Flatten", [value], [flattened], flattened, axis=1))
    name = f"{_PREFIX}features"
    graph.node.append(helper.make_node("Concat", flat, [name], name, axis=1))
    return copy, name


def with_detector(proto: onnx.ModelProto, values: Sequence[str], detector: Detector) -> onnx.ModelProto:
    """A copy of a graph with a second output, `unfamiliarity` (N,) float32: the detector on the feature maps `values`.

    The other nodes stay as they are, so that the other output does not change.
    """
    copy, features = with_features(proto, values)
    constants = {
        "hidden": detector.hidden,
        "offset": detector.offset,
        "direction": detector.direction[:, None],
        "bias": np.array([detector.bias], np.float32),
        "axis": np.array([1], np.int64),
    }
    graph = copy.graph
    graph.initializer.extend(numpy_helper.from_array(array, _PREFIX + name) for name, array in constants.items())
    steps = [
        ("Gemm", [features, _PREFIX + "hidden", _PREFIX + "offset"], "product"),
        ("Relu", [_PREFIX + "product"], "relu"),
        ("Gemm", [_PREFIX + "relu", _PREFIX + "direction", _PREFIX + "bias"], "logit"),
        ("Squeeze", [_PREFIX + "logit", _PREFIX + "axis"], "row"),
        ("Softplus", [_PREFIX + "row"], None),
    ]
    for operation, inputs, name in steps:
        output = OUTPUT if name is None else _PREFIX + name
        graph.node.append(helper.make_node(operation, inputs, [output], _PREFIX + (name or "softplus")))
    graph.output.append(helper.make_tensor_value_info(OUTPUT, TensorProto.FLOAT, ["N"]))
    onnx.checker.check_model(copy, full_check=True)
    return copy
