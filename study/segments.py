"""A trained network cut at its blocks: gradients by depth, and accuracy without each block in turn.

Works on any model of training/networks, whose layers of block k are named `blockK_…`. Sources: Glorot & Bengio 2010,
"Understanding the difficulty of training deep feedforward neural networks", section 4.2 (back-propagated gradients by
layer); Veit et al. 2016, "Residual Networks Behave Like Ensembles of Relatively Shallow Networks", section 4.1
(deleting single layers at test time).
"""

from itertools import pairwise
from typing import Any

import keras
import numpy as np
import tensorflow as tf

BATCH = 250


def cut(model: keras.Model, blocks: int) -> list[keras.Model]:
    """[stem, block 1, …, block B, head], sharing the model's weights; applied in turn they are the model."""
    outputs = [_last(model, f"block{k}_").output for k in range(1, blocks + 1)]
    first = next(layer for layer in model.layers if layer.name.startswith("block1_"))
    edges = [model.input, first.input, *outputs, model.output]
    return [keras.Model(begin, end) for begin, end in pairwise(edges)]


def gradient_norms(
    model: keras.Model, blocks: int, loss: str, images: np.ndarray, targets: np.ndarray
) -> dict[str, list[float]]:
    """L2 norms of the gradient of the mean loss over one batch, by block from the first to the last.

    `kernel`: with respect to the block's first kernel; `output`: with respect to the block's output. `images`
    (N, H, W, C) float32 in [0, 1], `targets` (N, K) one-hot. In training mode, as a step sees it; weights unchanged.
    """
    weights = model.get_weights()  # a pass in training mode moves batch norm's averages
    parts = cut(model, blocks)
    kernels = [
        next(layer for layer in model.layers if layer.name.startswith(f"block{k}_") and layer.trainable_weights).kernel
        for k in range(1, blocks + 1)
    ]
    with tf.GradientTape() as tape:
        x = parts[0](images, training=True)
        outputs = []
        for part in parts[1:-1]:
            x = part(x, training=True)
            outputs.append(x)
        value = tf.reduce_mean(keras.losses.get(loss)(targets, parts[-1](x, training=True)))
        watched = [kernel.value for kernel in kernels]
    gradients = tape.gradient(value, [*watched, *outputs])
    norms = [float(tf.norm(gradient)) for gradient in gradients]
    model.set_weights(weights)
    return {"kernel": norms[:blocks], "output": norms[blocks:]}


def accuracy_without_blocks(model: keras.Model, blocks: int, images: np.ndarray, targets: np.ndarray) -> dict[str, Any]:
    """Accuracy of the whole network and with each block replaced by the identity; `targets` (N,) int.

    In a residual network that leaves the shortcut alone; in a plain one the layer before feeds the layer after.
    """
    stem, *middle, head = cut(model, blocks)
    before = [_apply(stem, images)]
    for part in middle:
        before.append(_apply(part, before[-1]))
    whole = _accuracy(_apply(head, before[-1]), targets)
    dropped = []
    for k in range(blocks):
        x = before[k]
        for part in middle[k + 1 :]:
            x = _apply(part, x)
        dropped.append(_accuracy(_apply(head, x), targets))
    return {"accuracy": whole, "dropped": dropped, "images": len(targets)}


def _last(model: keras.Model, prefix: str) -> keras.Layer:
    return [layer for layer in model.layers if layer.name.startswith(prefix)][-1]


def _apply(part: keras.Model, x: np.ndarray) -> np.ndarray:
    return np.concatenate([np.asarray(part(x[i : i + BATCH], training=False)) for i in range(0, len(x), BATCH)])


def _accuracy(probabilities: np.ndarray, targets: np.ndarray) -> float:
    return float((probabilities.argmax(axis=1) == targets).mean())
