"""What cannot be published: one line that says what and why, exit 1, and nothing left behind."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from PIL import Image

from tests.fixtures.foreign import CLASSES, Form, network, pictures, saved
from training.export import main

pytestmark = pytest.mark.usefixtures("drawn_once")

RANGE = ["--input-range", "imagenet"]


def refused(path: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """The line that the command prints."""
    output = path.parent / "models"
    capsys.readouterr()
    assert main([str(path), "--name", "theirs", "--output", str(output), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not output.exists() or list(output.iterdir()) == []
    return error


def two_inputs() -> onnx.ModelProto:
    model = network()
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.FLOAT, [1, 2]))
    return model


def ending_in(operation: str, dims: list[Any], **attributes: Any) -> onnx.ModelProto:
    """A network that ends before its classes, with another operation and shape."""
    model = network()
    del model.graph.node[-4:]
    model.graph.node.append(helper.make_node(operation, ["relu"], ["out0"], **attributes))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out0", TensorProto.FLOAT, dims))
    return model


def detector() -> onnx.ModelProto:
    model = ending_in("Identity", ["N", 8, 5, 4])
    model.graph.node[-1].CopyFrom(helper.make_node("Reshape", ["relu", "boxes"], ["out0"]))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0, 8, 20], np.int64), "boxes"))
    model.graph.output[0].CopyFrom(helper.make_tensor_value_info("out0", TensorProto.FLOAT, ["N", 8, 20]))
    return model


def unknown_operator() -> onnx.ModelProto:
    model = network()
    model.graph.node[1].op_type, model.graph.node[1].domain = "Sparkle", "some.where"
    model.opset_import.append(helper.make_opsetid("some.where", 1))
    return model


def ultralytics_detector() -> onnx.ModelProto:
    model = network()
    helper.set_model_props(model, {"task": "detect", "names": "{0: 'a'}", "imgsz": "[12, 10]"})
    return model


def words() -> onnx.ModelProto:
    model = network()
    model.graph.input[0].type.tensor_type.elem_type = TensorProto.STRING
    return model


def followed_by(operation: str, kinds: dict[str, int], *inputs: str, **attributes: Any) -> onnx.ModelProto:
    """A network whose only outputs are those of one more operation: their names and types."""
    model = network(Form(ending="probabilities"))
    model.graph.node.append(helper.make_node(operation, ["out0", *inputs], list(kinds), **attributes))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([3], np.int64), "three"))
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, kind, None) for name, kind in kinds.items())
    return model


def in_training() -> onnx.ModelProto:
    model = network()
    at = next(i for i, node in enumerate(model.graph.node) if node.op_type == "Relu")
    constants = {"scale": np.ones(8), "bias": np.zeros(8), "mean": np.zeros(8), "var": np.ones(8)}
    for name, array in constants.items():
        model.graph.initializer.append(onnx.numpy_helper.from_array(array.astype(np.float32), name))
    model.graph.node[at].input[0] = "normal"
    node = helper.make_node("BatchNormalization", ["conv", *constants], ["normal", "m", "v"], training_mode=1)
    model.graph.node.insert(at, node)
    return model


def for_one_picture() -> onnx.ModelProto:
    """A network without an axis for several pictures."""
    model = network(Form(layout="NHWC", batch=1))
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.array([0], np.int64), "front"))
    model.graph.node[0].input[0] = "one"
    model.graph.node.insert(0, helper.make_node("Unsqueeze", ["data", "front"], ["one"]))
    model.graph.input[0].CopyFrom(helper.make_tensor_value_info("data", TensorProto.FLOAT, [12, 10, 3]))
    return model


FLOAT, INT64 = TensorProto.FLOAT, TensorProto.INT64


@pytest.mark.parametrize(
    ("make", "arguments", "told"),
    [
        (lambda: followed_by("TopK", {"best": FLOAT, "which": INT64}, "three"), RANGE, "best comes from TopK"),
        (lambda: followed_by("ArgMax", {"class": INT64}, axis=1, keepdims=0), RANGE, "without its ArgMax"),
        (in_training, RANGE, "in training mode"),
        (for_one_picture, RANGE, "data (12, 10, 3) takes one picture, without an axis for several"),
        (two_inputs, RANGE, "the model takes 2 inputs (data (?, 3, 12, 10), mask (1, 2))"),
        (lambda: ending_in("Identity", ["N", 8, 5, 4]), RANGE, "gives a map, not classes of the whole picture"),
        (detector, RANGE, "a detector, for example): out0 (2, 8, 20)"),
        (ultralytics_detector, RANGE, "the file's metadata says task detect: that is a detector"),
        (unknown_operator, RANGE, "ONNX Runtime cannot load the model: "),
        (lambda: network(Form(channels=4)), RANGE, "takes 4 or 10 channels: those are no pictures"),
        (lambda: network(Form(layout="NHWC", channels=2)), RANGE, "those are no pictures (1 or 3 channels)"),
        (words, RANGE, "ONNX Runtime cannot load the model: "),
        (network, [], "nothing says which pixels the input data expects: --input-range imagenet"),
        (network, [*RANGE, "--labels", "a,b"], "there are 2 labels, but the model gives out0: 6 classes"),
        (network, [*RANGE, "--labels", "a,b,c,d,e, a"], "must be different names, got a,b,c,d,e,a"),
        (network, [*RANGE, "--labels", "none.txt"], "--labels none.txt: no such file"),
        (network, ["--mean", "0.5,0.5"], "mean 0.5,0.5 is for 2 channels, but the model takes 3"),
        (network, ["--mean", "0.5", "--std", "0.5,0.5,0.5,0.5"], "is for 4 channels, but the model takes 3"),
        (network, ["--mean", "0.5", "--std", "0"], "each std is above 0"),
        (network, [*RANGE, "--mean", "0.5"], "imagenet has a mean and std of its own"),
        (lambda: network(Form(channels=1)), RANGE, "is for 3 channels, but the model takes 1"),
        (lambda: network(Form(size=("H", "W"))), RANGE, "takes pictures of any size: say which with --input-size"),
        (network, [*RANGE, "--input-size", "99"], "it takes H = 12, not 99"),
        (lambda: network(Form(outputs=2)), RANGE, "several outputs can be the classes (out0, out1)"),
        (network, [*RANGE, "--output-name", "other"], "the model has no output 'other'; it has out0"),
        (lambda: network(Form(ending="sigmoid")), RANGE, "the model ends in Sigmoid for each class alone"),
        (lambda: network(Form(ending="tanh")), RANGE, "the model ends in Tanh: say with --outputs"),
        (network, [*RANGE, "--resize", "crop", "--resize-to", "8"], "a crop of 12 pixels cannot be cut out of 8"),
        (network, [*RANGE, "--resize", "pad", "--resize-to", "64"], "it goes with --resize crop, not pad"),
        (network, [*RANGE, "--check", "nowhere"], "--check nowhere: no such folder"),
        (network, [*RANGE, "--expect", "nothing.jpg"], "--expect takes picture.jpg=label"),
        (network, [*RANGE, "--expect", "nothing.jpg=0"], "--expect nothing.jpg: no such file"),
        (network, [*RANGE, "--expect", "nothing.jpg=cat"], "'cat' is none of the 6 labels"),
        (lambda: network(Form(dtype=np.uint8)), ["--input-range", "0-1"], "takes pixels of 8 bits as they are"),
    ],
)
def test_one_line_says_why(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], make: Any, arguments: list[str], told: str
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(make().SerializeToString())
    assert told in refused(path, capsys, *arguments)


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.9])
def test_a_truncated_file_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], share: float) -> None:
    whole = network().SerializeToString()
    path = tmp_path / "model.onnx"
    path.write_bytes(whole[: int(share * len(whole))])
    assert str(path) in refused(path, capsys, *RANGE)


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (b"", "is truncated or no ONNX file"),
        (b"junk" * 20, "is truncated or no ONNX file"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git lfs pull"),
        (b"\n<!DOCTYPE html><title>404</title>", "a web page"),
        (b"PK\3\4" + b"\0" * 60, "an archive: unpack it"),
        (b"\x1f\x8b\x08" + b"\0" * 60, "an archive: unpack it"),
        (b"\x80\x04\x95" + b"\0" * 60, "a pickle, which is not opened"),
        (b'{"architectures": []}', "JSON, not the model"),
    ],
)
def test_a_file_of_another_kind_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], content: bytes, told: str
) -> None:
    path = tmp_path / "model.onnx"
    path.write_bytes(content)
    line = refused(path, capsys, *RANGE)
    assert str(path) in line
    assert told in line


@pytest.mark.parametrize("name", ["model.pt", "model.safetensors", "model.pkl", "model.pdmodel", "model.engine"])
def test_other_formats_are_told_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str) -> None:
    path = tmp_path / name
    path.write_bytes(b"something")
    line = refused(path, capsys)
    assert "export" in line or "publish" in line or "convert" in line


def test_a_folder_without_a_network_is_told_the_way(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "vit"
    folder.mkdir()
    for name in ("config.json", "preprocessor_config.json", "model.safetensors"):
        (folder / name).write_text("{}")
    assert "model.safetensors is weights without their network: export the model" in refused(folder, capsys, *RANGE)


@pytest.mark.parametrize("keep", [0, 40])
def test_missing_or_short_weights_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str], keep: int) -> None:
    path = saved(network(), tmp_path, save_as_external_data=True, location="weights.bin", size_threshold=0)
    weights = tmp_path / "weights.bin"
    content = weights.read_bytes()
    weights.unlink()
    if keep:
        weights.write_bytes(content[:keep])
    line = refused(path, capsys, *RANGE)
    assert ("which is missing beside it" if not keep else "is truncated: the model needs") in line


def test_weights_outside_the_folder_are_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(network(), tmp_path / "inside", save_as_external_data=True, location="weights.bin", size_threshold=0)
    (tmp_path / "inside" / "weights.bin").rename(tmp_path / "weights.bin")
    model = onnx.load(str(path), load_external_data=False)
    for tensor in model.graph.initializer:
        for entry in tensor.external_data:
            if entry.key == "location":
                entry.value = "../weights.bin"
    path.write_bytes(model.SerializeToString())
    assert "names weights outside its own folder" in refused(path, capsys, *RANGE)


def test_a_picture_that_comes_out_wrong_publishes_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = saved(network(), tmp_path)
    Image.fromarray(pictures((12, 10, 3))[0]).save(tmp_path / "shown.png")
    options = [*RANGE, "--labels", "a,b,c,d,e,f"]
    right = []
    for label in "abcdef":
        arguments = [str(path), "--name", label, "--output", str(tmp_path / "right"), *options]
        right.append(main([*arguments, "--expect", f"{tmp_path}/shown.png={label}"]))
    assert sorted(right) == [0] + [1] * (CLASSES - 1)
    label = "abcdef"[1 if right[0] == 0 else 0]
    line = refused(path, capsys, *options, "--expect", f"{tmp_path}/shown.png={label}")
    assert f"not {label} (" in line
    assert "as does the original" in line


def test_a_graph_that_answers_otherwise_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from training.foreign import importing

    wrap = importing.wrapped

    def wrong(*arguments: Any) -> onnx.ModelProto:
        graph = wrap(*arguments)
        weights = next(tensor for tensor in graph.graph.initializer if tensor.name == "weights0")
        array = onnx.numpy_helper.to_array(weights).copy()
        array[[0, 1]] = array[[1, 0]]
        weights.CopyFrom(onnx.numpy_helper.from_array(array, weights.name))
        return graph

    monkeypatch.setattr(importing, "wrapped", wrong)
    line = refused(saved(network(), tmp_path), capsys, *RANGE)
    assert "disagrees with the original" in line
