"""ONNX files of every exporter's kind: published by the command, and they answer as their own runtime does."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import quantize_dynamic
from PIL import Image

from tests.fixtures.foreign import (
    CLASSES,
    Form,
    as_imagenet,
    card_of,
    network,
    pictures,
    publish,
    saved,
    served,
    their_answers,
)
from tests.fixtures.server import ROOT
from training.artifact.reading import run_onnx

pytestmark = pytest.mark.usefixtures("drawn_once")

SHAPE = (12, 10, 3)

FORMS = {
    "plain": Form(),
    "one picture": Form(batch=1),
    "one picture, baked into a reshape": Form(batch=1, baked=True),
    "four pictures, baked into a reshape": Form(batch=4, baked=True),
    "channels last": Form(layout="NHWC"),
    "float16": Form(dtype=np.float16),
    "opset 9": Form(opset=9, batch=1, ending="probabilities"),
    "opset 11": Form(opset=11, ending="log-probabilities"),
    "opset 13": Form(opset=13),
    "opset 21": Form(opset=21, ending="probabilities"),
    "four dimensions": Form(shape="(N, K, 1, 1)"),
    "log-probabilities": Form(ending="log-probabilities"),
    "two classes": Form(classes=2),
}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_answers_as_its_own_runtime(tmp_path: Path, name: str) -> None:
    form = FORMS[name]
    path = saved(network(form), tmp_path)
    artifact = publish(path, tmp_path / "models", "--input-range", "imagenet")
    images = pictures(SHAPE)
    expected = their_answers(path, as_imagenet(images, form.layout, form.dtype), form.ending)
    assert np.ptp(expected, axis=0).max() > 0.01  # the answers depend on the picture
    for count in (1, 3, len(images)):
        np.testing.assert_allclose(run_onnx(artifact, images[:count]), expected[:count], atol=1e-4)


def test_the_graph_is_what_serving_takes(tmp_path: Path) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("".join(f"{i} name {i}\n" for i in range(CLASSES)))
    path = saved(network(Form(opset=11, batch=1)), tmp_path)
    artifact = publish(path, tmp_path / "models", "--input-range", "imagenet", "--labels", str(labels))
    session = onnxruntime.InferenceSession(artifact / "model.onnx", providers=["CPUExecutionProvider"])
    (image,), (probabilities,) = session.get_inputs(), session.get_outputs()
    assert (image.name, image.type, image.shape) == ("image", "tensor(uint8)", ["N", *SHAPE])
    assert (probabilities.name, probabilities.shape) == ("probabilities", ["N", CLASSES])
    names = [f"name {i}" for i in range(CLASSES)]
    assert session.get_modelmeta().custom_metadata_map == {"name": "theirs", "labels": json.dumps(names)}
    opsets = {entry.domain: entry.version for entry in onnx.load(artifact / "model.onnx").opset_import}
    assert opsets[""] >= 15
    card = card_of(artifact)
    assert (card["labels"], card["input_shape"]) == (names, list(SHAPE))
    assert card["metrics"] is None
    assert any("nobody measured" in warning for warning in card["warnings"])


def test_the_service_answers_as_the_original_does(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = saved(network(Form(batch=1, baked=True)), tmp_path)
    publish(path, tmp_path / "models", "--input-range", "imagenet")
    images = pictures(SHAPE)
    files = [tmp_path / f"{i}.png" for i in range(len(images))]
    for file, image in zip(files, images, strict=True):
        Image.fromarray(image).save(file)
    answers = served(tmp_path / "models", "theirs", files, monkeypatch, capsys)
    np.testing.assert_allclose(answers, their_answers(path, as_imagenet(images)), atol=1e-4)


@pytest.mark.parametrize(
    ("arguments", "prepare"),
    [
        (["--input-range", "0-1"], lambda x: x / np.float32(255)),
        (["--input-range=-1-1"], lambda x: x / np.float32(127.5) - 1),
        (["--input-range", "0-255"], lambda x: x * np.float32(1)),
        (["--input-range", "caffe"], lambda x: x[..., ::-1] - np.float32([103.939, 116.779, 123.68])),
        (["--mean", "0.5", "--std", "0.25"], lambda x: (x / np.float32(255) - np.float32(0.5)) / np.float32(0.25)),
        (["--mean", "120,110,100", "--std", "50"], lambda x: (x - np.float32([120, 110, 100])) / np.float32(50)),
        (
            ["--mean", "0.1,0.2,0.3", "--channel-order", "BGR"],
            lambda x: x[..., ::-1] / np.float32(255) - np.float32([0.1, 0.2, 0.3]),
        ),
    ],
)
def test_ranges_means_and_orders(tmp_path: Path, arguments: list[str], prepare: Any) -> None:
    model = network(Form())
    path = saved(model, tmp_path)
    artifact = publish(path, tmp_path / "models", *arguments)
    images = pictures(SHAPE)
    given = prepare(images.astype(np.float32)).transpose(0, 3, 1, 2).astype(np.float32)
    np.testing.assert_allclose(run_onnx(artifact, images), their_answers(path, given), atol=1e-4)


def test_bytes_are_taken_as_they_are(tmp_path: Path) -> None:
    path = saved(network(Form(dtype=np.uint8, layout="NHWC")), tmp_path)
    artifact = publish(path, tmp_path / "models")
    images = pictures(SHAPE)
    np.testing.assert_allclose(run_onnx(artifact, images), their_answers(path, images), atol=1e-4)


def test_grey_pictures_and_free_sizes(tmp_path: Path) -> None:
    path = saved(network(Form(size=("H", "W"), channels=1)), tmp_path)
    artifact = publish(path, tmp_path / "models", "--input-range", "0-1", "--input-size", "9,14")
    images = pictures((9, 14, 1))
    expected = their_answers(path, images.transpose(0, 3, 1, 2) / np.float32(255))
    np.testing.assert_allclose(run_onnx(artifact, images), expected, atol=1e-4)


@pytest.mark.parametrize("outside", [True, False])
def test_weights_beside_the_file_are_taken_inside(tmp_path: Path, outside: bool) -> None:
    options = {"save_as_external_data": True, "location": "model.onnx.data", "size_threshold": 0} if outside else {}
    expected_file = saved(network(Form()), tmp_path, "whole.onnx")
    path = saved(network(Form()), tmp_path, "model.onnx", **options)
    assert (tmp_path / "model.onnx.data").exists() == outside
    artifact = publish(path, tmp_path / "models", "--input-range", "imagenet")
    images = pictures(SHAPE)
    np.testing.assert_allclose(run_onnx(artifact, images), their_answers(expected_file, as_imagenet(images)), atol=1e-4)


def test_an_output_is_chosen_by_name_or_by_labels(tmp_path: Path) -> None:
    path = saved(network(Form(outputs=2)), tmp_path)
    images = pictures(SHAPE)
    by_name = publish(path, tmp_path / "models", "--input-range", "imagenet", "--output-name", "out1")
    by_labels = publish(path, tmp_path / "models", "--input-range", "imagenet", "--labels", "a,b,c,d,e,f,g")
    expected = their_answers(path, as_imagenet(images), output=1)
    for artifact in (by_name, by_labels):
        np.testing.assert_allclose(run_onnx(artifact, images), expected, atol=1e-4)


@pytest.mark.parametrize("ending", ["logits", "sigmoid"])
def test_one_output_is_the_second_class(tmp_path: Path, ending: str) -> None:
    path = saved(network(Form(classes=1, ending=ending)), tmp_path)
    artifact = publish(path, tmp_path / "models", "--input-range", "imagenet", "--labels", "no,yes")
    images = pictures(SHAPE)
    values = their_answers(path, as_imagenet(images), "as they are")
    second = np.exp(-np.logaddexp(0, -values)) if ending == "logits" else values
    np.testing.assert_allclose(run_onnx(artifact, images), np.concatenate([1 - second, second], 1), atol=1e-4)


def test_a_token_for_one_picture_goes_one_by_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As timm's ViT exported at batch 1: a token of one picture is joined to the patches, which no reshape mends."""
    rng = np.random.default_rng(0)
    constants = {
        "token": rng.normal(0, 1, (1, 1, 30)).astype(np.float32),
        "rows": np.array([1, 12, 30], np.int64),
        "weights": (0.3 * rng.normal(0, 1, (30, CLASSES))).astype(np.float32),
    }
    nodes = [
        helper.make_node("Reshape", ["data", "rows"], ["patches"]),
        helper.make_node("Concat", ["token", "patches"], ["tokens"], axis=1),
        helper.make_node("ReduceMean", ["tokens"], ["mean"], axes=[1], keepdims=0),
        helper.make_node("MatMul", ["mean", "weights"], ["out"]),
    ]
    value = helper.make_tensor_value_info("data", TensorProto.FLOAT, [1, *SHAPE])
    out = helper.make_tensor_value_info("out", TensorProto.FLOAT, [1, CLASSES])
    tensors = [numpy_helper.from_array(array, name) for name, array in constants.items()]
    graph = helper.make_graph(nodes, "vit", [value], [out], tensors)
    path = saved(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), tmp_path)
    artifact = publish(path, tmp_path / "models", "--input-range", "imagenet")
    assert "one by one" in capsys.readouterr().out
    images = pictures(SHAPE)
    expected = their_answers(path, as_imagenet(images, "NHWC"))
    np.testing.assert_allclose(run_onnx(artifact, images), expected, atol=1e-4)


@pytest.mark.parametrize(("opset", "operation"), [(9, "Upsample"), (10, "Resize"), (13, "Resize")])
def test_a_resize_inside_answers_as_before(tmp_path: Path, opset: int, operation: str) -> None:
    """Its factors are floats and no weights. Before opset 11 it began at the corner."""
    model = network(Form(opset=opset))
    factors = numpy_helper.from_array(np.array([1, 1, 2, 2], np.float32), "factors")
    model.graph.initializer.append(factors)
    inputs = ["data", "factors"] if opset < 11 else ["data", "", "factors"]
    next(node for node in model.graph.node if node.op_type == "Conv").input[0] = "larger"
    model.graph.node.insert(0, helper.make_node(operation, inputs, ["larger"], mode="linear"))
    path = saved(model, tmp_path)
    artifact = publish(path, tmp_path / "models", "--input-range", "imagenet")
    images = pictures(SHAPE)
    np.testing.assert_allclose(run_onnx(artifact, images), their_answers(path, as_imagenet(images)), atol=1e-4)


@pytest.mark.parametrize("batch", ["N", 1])
def test_pixels_between_two_steps_are_rounded_as_the_original_does(tmp_path: Path, batch: int | str) -> None:
    """As ONNX Runtime quantises a network for pixels from -1 to 1: each pixel lies in the middle between two steps."""
    model = network(Form(batch=batch))
    for name, value in (("step", np.float32(2 / 255)), ("zero", np.int8(0))):
        model.graph.initializer.append(numpy_helper.from_array(np.array(value), name))
    model.graph.node[0].input[0] = "steps"
    model.graph.node.insert(0, helper.make_node("DequantizeLinear", ["whole", "step", "zero"], ["steps"]))
    model.graph.node.insert(0, helper.make_node("QuantizeLinear", ["data", "step", "zero"], ["whole"]))
    path = saved(model, tmp_path)
    artifact = publish(path, tmp_path / "models", "--input-range=-1-1")
    images = np.random.default_rng(0).integers(0, 256, (7, *SHAPE), np.uint8)
    given = (images / np.float32(127.5) - np.float32(1)).transpose(0, 3, 1, 2)
    np.testing.assert_allclose(run_onnx(artifact, images), their_answers(path, given), atol=1e-4)


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_network_that_was_quantised_dynamically_goes_one_by_one(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], batch: int | str
) -> None:
    """As optimum and transformers.js have it: onnx/model_quantized.onnx, whose answers depend on the whole batch."""
    path = saved(network(Form(batch=batch)), tmp_path, "whole.onnx")
    folder = tmp_path / "theirs"
    (folder / "onnx").mkdir(parents=True)
    file = folder / "onnx" / "model_quantized.onnx"
    quantize_dynamic(str(path), str(file))
    artifact = publish(folder, tmp_path / "models", "--input-range", "imagenet")
    assert "one by one" in capsys.readouterr().out
    images = pictures(SHAPE)
    expected = their_answers(file, as_imagenet(images))
    for count in (1, len(images)):
        np.testing.assert_allclose(run_onnx(artifact, images[:count]), expected[:count], atol=1e-4)


def test_scikit_learns_classifier_brings_its_classes(tmp_path: Path) -> None:
    """As skl2onnx writes LogisticRegression: flat pixels, the class and a dictionary of probabilities."""
    rng = np.random.default_rng(0)
    classes = ["cat", "dog", "owl"]
    nodes = [
        helper.make_node(
            "LinearClassifier",
            ["X"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            classlabels_strings=classes,
            coefficients=rng.normal(0, 0.5, 3 * 48).tolist(),
            intercepts=[0.1, 0.2, 0.3],
            post_transform="SOFTMAX",
        ),
        helper.make_node("ZipMap", ["scores"], ["dictionary"], domain="ai.onnx.ml", classlabels_strings=classes),
    ]
    value = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 48])
    label = helper.make_tensor_value_info("label", TensorProto.STRING, [None])
    kind = helper.make_sequence_type_proto(
        helper.make_map_type_proto(TensorProto.STRING, helper.make_tensor_type_proto(TensorProto.FLOAT, []))
    )
    graph = helper.make_graph(nodes, "skl", [value], [label, helper.make_value_info("dictionary", kind)])
    opsets = [helper.make_opsetid("ai.onnx.ml", 1), helper.make_opsetid("", 15)]
    path = saved(helper.make_model(graph, opset_imports=opsets, ir_version=8), tmp_path)
    artifact = publish(path, tmp_path / "models", "--input-range", "0-1", "--input-shape", "4,4,3")
    assert card_of(artifact)["labels"] == classes
    images = pictures((4, 4, 3))
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    (rows,) = session.run(["dictionary"], {"X": images.reshape(len(images), -1) / np.float32(255)})
    expected = [[row[name] for name in classes] for row in rows]
    np.testing.assert_allclose(run_onnx(artifact, images), expected, atol=1e-4)


def test_names_that_collide_with_the_artifacts_own(tmp_path: Path) -> None:
    model = network(Form())
    for node in model.graph.node:
        for names in (node.input, node.output):
            for i, name in enumerate(names):
                names[i] = {"data": "image", "sum0": "probabilities"}.get(name, name)
    model.graph.input[0].name = "image"
    path = saved(model, tmp_path)
    artifact = publish(path, tmp_path / "models", "--input-range", "imagenet")
    images = pictures(SHAPE)
    np.testing.assert_allclose(run_onnx(artifact, images), their_answers(path, as_imagenet(images)), atol=1e-4)


def test_no_tensorflow_is_imported(tmp_path: Path) -> None:
    path = saved(network(Form()), tmp_path)
    arguments = [str(path), "--name", "light", "--output", str(tmp_path / "models"), "--input-range", "0-1"]
    code = f"""
import sys
from training.export import main
assert main({arguments!r}) == 0
heavy = [name for name in ("tensorflow", "keras", "tf2onnx", "scipy", "sklearn") if name in sys.modules]
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=True, capture_output=True)
