"""A tiny classifier whose answers can be computed by hand, as an artifact the real runtime serves. No TensorFlow.

The graph is softmax(flatten(image) / 255 @ weights), written with onnx.helper; `effort` adds as much computing as one
wants, which changes no answer.
"""

import hashlib
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LABELS = ("red", "green", "blue")


def weights(shape: tuple[int, int, int], classes: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(0, 0.5, (int(np.prod(shape)), classes)).astype(np.float32)


def expected(images: np.ndarray, matrix: np.ndarray) -> np.ndarray:
    """What the graph must answer: (N, H, W, C) uint8 -> (N, K)."""
    z = images.reshape(len(images), -1).astype(np.float32) / 255 @ matrix
    e = np.exp(z - z.max(axis=1, keepdims=True))
    return e / e.sum(axis=1, keepdims=True)


def graph(name: str, shape: tuple[int, int, int], matrix: np.ndarray, effort: int = 0) -> bytes:
    nodes = [
        helper.make_node("Cast", ["image"], ["float"], to=TensorProto.FLOAT),
        helper.make_node("Flatten", ["float"], ["flat"]),
        helper.make_node("Mul", ["flat", "scale"], ["scaled"]),
        helper.make_node("MatMul", ["scaled", "weights"], ["logits"]),
        *_work(shape, effort),
        helper.make_node("Softmax", ["worked" if effort else "logits"], ["probabilities"], axis=1),
    ]
    model = helper.make_model(
        helper.make_graph(
            nodes,
            name,
            [helper.make_tensor_value_info("image", TensorProto.UINT8, ["N", *shape])],
            [helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["N", matrix.shape[1]])],
            [
                numpy_helper.from_array(np.array(1 / 255, np.float32), "scale"),
                numpy_helper.from_array(matrix, "weights"),
                *([numpy_helper.from_array(np.zeros((WIDTH, WIDTH), np.float32), "nothing")] if effort else []),
            ],
        ),
        opset_imports=[helper.make_opsetid("", 15)],
        ir_version=8,
    )
    onnx.checker.check_model(model)
    return model.SerializeToString()


WIDTH = 512


def _work(shape: tuple[int, int, int], effort: int) -> list[onnx.NodeProto]:
    """Every pixel of an image, repeated to a row of WIDTH numbers, times a matrix of zeros, `effort` times over; the
    mean of what comes of it, nothing, is added to the logits."""
    if not effort:
        return []
    nodes = [
        helper.make_node("Constant", [], ["rows"], value_ints=[0, -1, 1]),
        helper.make_node("Constant", [], ["repeats"], value_ints=[1, 1, WIDTH]),
        helper.make_node("Constant", [], ["last"], value_ints=[-1]),
        helper.make_node("Reshape", ["scaled", "rows"], ["pixels"]),
        helper.make_node("Tile", ["pixels", "repeats"], ["work0"]),
    ]
    nodes += [helper.make_node("MatMul", [f"work{i}", "nothing"], [f"work{i + 1}"]) for i in range(effort)]
    return [
        *nodes,
        helper.make_node("ReduceMean", [f"work{effort}"], ["done"], axes=[1, 2], keepdims=0),
        helper.make_node("Unsqueeze", ["done", "last"], ["column"]),
        helper.make_node("Add", ["logits", "column"], ["worked"]),
    ]


def write_artifact(
    models: Path,
    name: str = "toy-colours",
    version: int = 1,
    *,
    shape: tuple[int, int, int] = (8, 8, 3),
    labels: tuple[str, ...] = LABELS,
    convention: str = "plain",
    seed: int = 0,
    effort: int = 0,
    **card: Any,
) -> Path:
    """models/<name>/<version>/ with a sound card and golden inputs; `card` overrides its keys."""
    folder = models / name / str(version)
    folder.mkdir(parents=True)
    matrix = weights(shape, len(labels), seed)
    images = np.random.default_rng(1).integers(0, 256, (32, *shape), dtype=np.uint8)
    (folder / "model.onnx").write_bytes(graph(name, shape, matrix, effort))
    np.savez(folder / "golden.npz", image=images, probabilities=expected(images, matrix))
    whole = {
        "name": name,
        "labels": list(labels),
        "input_shape": list(shape),
        "input_convention": convention,
        "resample": "bilinear",
        "metrics": None,
        "files": {file: {"sha256": sha256(folder / file)} for file in ("model.onnx", "golden.npz")},
    }
    (folder / "card.json").write_text(json.dumps(whole | card))
    return folder


def sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
