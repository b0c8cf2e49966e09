"""How tf2onnx is kept from holding many copies of a model's weights."""

import contextlib
from collections import Counter
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
from keras import layers
from tf2onnx.graph import Graph, Node

from training.artifact import graph as module
from training.artifact.graph import ExportError, serving_function, write_onnx
from training.artifact.reading import run_onnx


@pytest.fixture(scope="module")
def function() -> Any:
    """A graph that tf2onnx optimizes: transposed kernels, folded constants."""
    image = layers.Input((8, 8, 3))
    x = layers.BatchNormalization()(layers.Conv2D(4, 3, activation="relu")(image))
    model = keras.Model(image, layers.Dense(3, activation="softmax")(layers.GlobalAveragePooling2D()(x)))
    return serving_function(model, None)[0]


def written(function: Any, path: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Converts, and counts how often a node is written into its protobuf."""
    calls = []
    write = Node.update_proto
    with monkeypatch.context() as patched:
        patched.setattr(Node, "update_proto", lambda *arguments, **named: (calls.append(1), write(*arguments, **named)))
        write_onnx(function, path / "model.onnx", "toy", "abc")
    return len(calls)


def test_nodes_are_written_once_and_the_graph_is_the_same(
    function: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    once, often = tmp_path / "once", tmp_path / "often"
    for folder in (once, often):
        folder.mkdir()
    few = written(function, once, monkeypatch)
    monkeypatch.setattr(module, "_nodes_written_once", contextlib.nullcontext)
    many = written(function, often, monkeypatch)
    nodes = [onnx.load(folder / "model.onnx").graph for folder in (once, often)]
    assert few == len(nodes[0].node) + len(nodes[0].initializer) + 1  # and the input
    assert many > 10 * few
    first, second = (Counter(node.op_type for node in graph.node) for graph in nodes)
    assert first == second
    images = np.random.default_rng(0).integers(0, 256, (5, 8, 8, 3), np.uint8)
    np.testing.assert_array_equal(run_onnx(once, images), run_onnx(often, images))


def test_tf2onnx_is_left_as_it_was_when_it_fails(
    function: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = Graph.update_proto

    def fail(*arguments: object, **named: object) -> None:
        assert Graph.update_proto is not write
        raise RuntimeError("no such operation")

    monkeypatch.setattr(module.tf2onnx.convert, "from_function", fail)
    with pytest.raises(ExportError, match="cannot be converted to ONNX"):
        write_onnx(function, tmp_path / "model.onnx", "toy", "abc")
    assert Graph.update_proto is write
