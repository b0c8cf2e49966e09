"""Keras and TensorFlow files of other days: published by the command, and they answer as their own runtime does."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
import keras
import numpy as np
import pytest
import tensorflow as tf
from keras import layers

from tests.fixtures.foreign import card_of, pictures, publish
from training.artifact.reading import run_onnx
from training.export import main

pytestmark = pytest.mark.usefixtures("exported_cheaply", "drawn_once")

SIDE, CLASSES = 16, 5
SHAPE = (SIDE, SIDE, 3)


def small(outputs: Callable[[Any, Any], Any] = lambda y, z: y, scaled: bool = True) -> keras.Model:
    """A convolution, batch norm and two heads, of which `outputs` takes what it wants."""
    keras.utils.set_random_seed(1)
    image = layers.Input(SHAPE, name="picture")
    x = layers.Rescaling(1 / 255)(image) if scaled else image
    x = layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3, activation="relu")(x))
    wide = keras.initializers.RandomNormal(stddev=3 if scaled else 0.02)
    y = layers.Dense(CLASSES, activation="softmax", name="class", dtype="float32", kernel_initializer=wide)(x)
    z = layers.Dense(3, activation="softmax", name="aux", dtype="float32")(x)
    return keras.Model(image, outputs(y, z))


def refused(capsys: pytest.CaptureFixture[str], path: Path, *arguments: str) -> str:
    assert main([str(path), "--name", "theirs", "--output", str(path.parent / "models"), *arguments]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1
    assert not (path.parent / "models").exists()
    return error


@pytest.mark.parametrize(
    ("outputs", "arguments"),
    [
        (lambda y, z: {"class": y}, []),
        (lambda y, z: {"class": y, "aux": z}, ["--output-name", "class"]),
        (lambda y, z: {"class": y, "aux": z}, ["--labels", "a,b,c,d,e"]),
        (lambda y, z: [z, y], ["--output-name", "class"]),
    ],
)
def test_one_of_the_outputs_is_taken(tmp_path: Path, outputs: Callable[..., Any], arguments: list[str]) -> None:
    small(outputs).save(tmp_path / "theirs.keras")
    artifact = publish(tmp_path / "theirs.keras", tmp_path / "models", *arguments)
    images = pictures(SHAPE)
    expected = small()(images.astype(np.float32))
    np.testing.assert_allclose(run_onnx(artifact, images), expected, atol=1e-4)


def test_several_outputs_are_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small(lambda y, z: {"class": y, "aux": z}).save(tmp_path / "theirs.keras")
    line = refused(capsys, tmp_path / "theirs.keras")
    assert "choose with --output-name" in line
    assert "class (None, 5)" in line


@pytest.mark.parametrize("policy", ["mixed_float16", "mixed_bfloat16"])
def test_mixed_precision_is_rebuilt_in_float32(tmp_path: Path, policy: str, capsys: pytest.CaptureFixture[str]) -> None:
    keras.config.set_dtype_policy(policy)
    try:
        small().save(tmp_path / "theirs.keras")
    finally:
        keras.config.set_dtype_policy("float32")
    artifact = publish(tmp_path / "theirs.keras", tmp_path / "models")
    assert f"trained in {policy}: it is rebuilt in float32" in capsys.readouterr().out
    images = pictures(SHAPE)
    expected = small()(images.astype(np.float32))  # of the same seed
    np.testing.assert_allclose(run_onnx(artifact, images), expected, atol=1e-4)


def teachable_machine(folder: Path) -> tuple[keras.Model, Path]:
    """As Teachable Machine exports: nested models, `groups` in each depthwise convolution, and labels.txt."""
    keras.utils.set_random_seed(1)
    image = layers.Input((32, 32, 3))
    x = layers.DepthwiseConv2D(3)(layers.Conv2D(8, 3, strides=2, activation="relu")(image))
    body = keras.Model(image, layers.GlobalAveragePooling2D()(x))
    head = keras.Sequential([layers.Dense(20, activation="relu"), layers.Dense(3, activation="softmax")])
    model = keras.Sequential([layers.Input((32, 32, 3)), body, head])
    folder.mkdir()
    model.save(folder / "keras_model.h5")
    with h5py.File(folder / "keras_model.h5", "r+") as file:
        text = file.attrs["model_config"].replace('"class_name": "DepthwiseConv2D", "config": {', "\\0")
        marked = text.replace("\\0", '"class_name": "DepthwiseConv2D", "config": {"groups": 1, ')
        assert marked != file.attrs["model_config"]
        file.attrs["model_config"] = marked
    (folder / "labels.txt").write_text("0 Class 1\n1 my dog\n2 background\n")
    return model, folder / "keras_model.h5"


@pytest.mark.filterwarnings("ignore:You are saving your model as an HDF5 file")
def test_teachable_machines_file_is_known(tmp_path: Path) -> None:
    model, path = teachable_machine(tmp_path / "converted_keras")
    artifact = publish(path, tmp_path / "models")
    card = card_of(artifact)
    assert card["labels"] == ["Class 1", "my dog", "background"]
    assert (card["pixels"], card["input_convention"]) == ("-1-1", "centre_crop")
    images = pictures((32, 32, 3))
    expected = model(images / np.float32(127.5) - 1)
    np.testing.assert_allclose(run_onnx(artifact, images), expected, atol=1e-4)


def behind_lambda(function: Callable[..., Any], name: str = "body") -> keras.Model:
    keras.utils.set_random_seed(1)
    image = layers.Input(SHAPE)
    inner = layers.Input(SHAPE)
    body = keras.Model(inner, layers.GlobalAveragePooling2D()(layers.Conv2D(8, 3)(inner)), name=name)
    wide = keras.initializers.RandomNormal(stddev=0.02)
    dense = layers.Dense(CLASSES, activation="softmax", kernel_initializer=wide)
    return keras.Model(image, dense(body(layers.Lambda(function)(image))))


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (keras.applications.resnet50.preprocess_input, "keras.src.applications.resnet.preprocess_input"),
        (lambda x: x[..., ::-1] - 110.0, "Python code inside the file"),
    ],
)
def test_a_lambda_runs_only_where_it_is_trusted(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], function: Callable[..., Any], told: str
) -> None:
    model = behind_lambda(function, "resnet50")
    path = tmp_path / "theirs.keras"
    model.save(path)
    line = refused(capsys, path)
    assert "holds 1 Lambda layer, which run code" in line
    assert "--trust runs it" in line
    artifact = publish(path, tmp_path / "models", "--trust", "--input-range", "0-255")
    assert told in capsys.readouterr().out
    images = pictures(SHAPE)
    expected = model(images.astype(np.float32))
    np.testing.assert_allclose(run_onnx(artifact, images), expected, atol=1e-4)


def test_a_lambda_that_nothing_explains_is_asked_about(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    behind_lambda(keras.applications.resnet50.preprocess_input).save(tmp_path / "theirs.keras")
    assert "nothing says which: --custom FILE.py" in refused(capsys, tmp_path / "theirs.keras", "--trust")


def named(name: str) -> keras.Model:
    """A network with the name that keras.applications gives, small."""
    model = small(scaled=False)
    return keras.Model(model.inputs[0], model.outputs[0], name=name)


def test_a_known_network_without_its_preparation_is_asked_about(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    named("resnet50").save(tmp_path / "theirs.keras")
    assert "--input-range caffe if it was trained with it" in refused(capsys, tmp_path / "theirs.keras")
    named("mobilenetv2_1.00_224").save(tmp_path / "theirs.keras")
    assert "--input-range=-1-1 if" in refused(capsys, tmp_path / "theirs.keras")


@pytest.mark.parametrize("mode", ["caffe", "torch", "tf"])
def test_preparation_outside_the_graph(tmp_path: Path, mode: str) -> None:
    """`keras.applications.imagenet_utils.preprocess_input` in its three modes."""
    model = named("vgg16")
    model.save(tmp_path / "theirs.keras")
    option = {"caffe": "caffe", "torch": "imagenet", "tf": "-1-1"}[mode]
    artifact = publish(tmp_path / "theirs.keras", tmp_path / "models", f"--input-range={option}")
    images = pictures(SHAPE)
    prepared = keras.applications.imagenet_utils.preprocess_input(images.astype(np.float32), mode=mode)
    np.testing.assert_allclose(run_onnx(artifact, images), model(prepared), atol=1e-4)


def test_weights_alone_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small().save_weights(tmp_path / "only.weights.h5")
    assert "save the whole model" in refused(capsys, tmp_path / "only.weights.h5")


@pytest.mark.filterwarnings("ignore")
def test_a_saved_model_folder_answers_as_tensorflow_does(tmp_path: Path) -> None:
    model = small()
    model.export(tmp_path / "saved", verbose=False)
    artifact = publish(tmp_path / "saved", tmp_path / "models", "--input-range", "0-255")
    images = pictures(SHAPE)
    signature = tf.saved_model.load(str(tmp_path / "saved")).signatures["serving_default"]
    (expected,) = signature(tf.constant(images.astype(np.float32))).values()
    np.testing.assert_allclose(run_onnx(artifact, images), expected.numpy(), atol=1e-4)


def tflite(form: str) -> bytes:
    converter = tf.lite.TFLiteConverter.from_keras_model(small(scaled=False))
    rng = np.random.default_rng(0)
    if form != "float":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if form in ("uint8", "int8"):
        converter.representative_dataset = lambda: ([255 * rng.random((1, *SHAPE), np.float32)] for _ in range(40))
        converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
        converter.inference_input_type = converter.inference_output_type = getattr(tf, form)
    return converter.convert()


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("form", ["float", "dynamic", "uint8", "int8"])
def test_a_tflite_file_answers_as_its_interpreter_does(tmp_path: Path, form: str) -> None:
    path = tmp_path / "theirs.tflite"
    path.write_bytes(tflite(form))
    arguments = [] if form in ("uint8", "int8") else ["--input-range", "0-255"]
    artifact = publish(path, tmp_path / "models", *arguments)
    interpreter = tf.lite.Interpreter(str(path))
    interpreter.allocate_tensors()
    source, output = interpreter.get_input_details()[0], interpreter.get_output_details()[0]
    images = pictures(SHAPE)
    answers = []
    for image in images:
        given = image.astype(np.int16) - (128 if form == "int8" else 0)
        interpreter.set_tensor(source["index"], given[None].astype(source["dtype"]))
        interpreter.invoke()
        answers.append(interpreter.get_tensor(output["index"])[0])
    expected = np.stack(answers).astype(np.float32)
    if form in ("uint8", "int8"):
        scale, zero = output["quantization"]
        expected = (expected - zero) * scale
    limit = card_of(artifact)["exactness"]["float32_limit"]
    assert limit <= 1e-2
    np.testing.assert_allclose(run_onnx(artifact, images), expected, atol=limit if form == "dynamic" else 1e-4)


def test_a_file_of_another_kind_is_told_without_tensorflow(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from training import export

    small().save(tmp_path / "theirs.keras")
    monkeypatch.setattr(export, "without_tensorflow", lambda: True)
    assert "takes TensorFlow to read: run this in the training environment" in refused(
        capsys, tmp_path / "theirs.keras"
    )


@pytest.mark.large
@pytest.mark.parametrize("name", ["ResNet50", "VGG16"])
def test_a_network_of_keras_with_caffes_pixels(tmp_path: Path, name: str) -> None:
    keras.utils.set_random_seed(1)
    model = getattr(keras.applications, name)(weights=None, input_shape=(48, 48, 3), classes=7)
    model.save(tmp_path / "theirs.keras")
    artifact = publish(tmp_path / "theirs.keras", tmp_path / "models", "--input-range", "caffe")
    images = pictures((48, 48, 3))
    prepared = getattr(keras.applications, name.lower()).preprocess_input(images.astype(np.float32))
    np.testing.assert_allclose(run_onnx(artifact, images), model(prepared), atol=1e-4)
