"""docs/bring-your-own.md: each command of its table and of its last part runs, on a file of the kind that it names."""

import re
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnx
import pytest
import tensorflow as tf
from keras import layers
from onnx import TensorProto, helper

from tests.fixtures.foreign import Form, network, saved
from tests.fixtures.server import ROOT
from training import export
from training import publish as publish_command

pytestmark = pytest.mark.usefixtures("exported_cheaply", "drawn_once")

PAGE = (ROOT / "docs" / "bring-your-own.md").read_text()
COMMANDS = dict(re.findall(r"^\| ([^|]+) \| `((?:make import|\.venv-dev)[^`]+)` \|$", PAGE, re.M))


def small(side: int, classes: int) -> keras.Model:
    keras.utils.set_random_seed(1)
    last = layers.Dense(classes, activation="softmax", kernel_initializer=keras.initializers.RandomNormal(stddev=0.05))
    return keras.Sequential([layers.Input((side, side, 3)), layers.Conv2D(4, 3), layers.GlobalAveragePooling2D(), last])


def torchvision(folder: Path) -> None:
    saved(network(Form(size=(32, 32))), folder)
    (folder / "labels.txt").write_text("a\nb\nc\nd\ne\nf\n")


def timm(folder: Path) -> None:
    saved(network(Form(size=(32, 32))), folder / "timm")
    config = '{"pretrained_cfg": {"mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "input_size": [3, 32, 32]}}'
    (folder / "timm" / "config.json").write_text(config)


def optimum(folder: Path) -> None:
    saved(network(Form(size=(32, 32))), folder / "vit")
    labels = ", ".join(f'"{i}": "{name}"' for i, name in enumerate("abcdef"))
    (folder / "vit" / "config.json").write_text(f'{{"id2label": {{{labels}}}}}')
    prepared = '{"size": {"height": 32, "width": 32}, "image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5]}'
    (folder / "vit" / "preprocessor_config.json").write_text(prepared)


def ultralytics(folder: Path) -> None:
    model = network(Form(size=(32, 32), batch=1, ending="probabilities"))
    helper.set_model_props(model, {"task": "classify", "names": str(dict(enumerate("abcdef"))), "imgsz": "[32, 32]"})
    saved(model, folder, "yolo-cls.onnx")


def paddle(folder: Path) -> None:
    saved(network(Form(size=("H", "W"), opset=11, ending="probabilities")), folder, "paddle.onnx")
    (folder / "labels.txt").write_text("a\nb\nc\nd\ne\nf\n")


def scikit_learn(folder: Path) -> None:
    rng = np.random.default_rng(0)
    options: dict[str, Any] = {"classlabels_ints": [0, 1, 2], "intercepts": [0.0] * 3, "post_transform": "SOFTMAX"}
    options["coefficients"] = rng.normal(0, 1, 192).tolist()
    node = helper.make_node("LinearClassifier", ["X"], ["label", "probabilities"], domain="ai.onnx.ml", **options)
    value = helper.make_tensor_value_info("X", TensorProto.FLOAT, [None, 64])
    label = helper.make_tensor_value_info("label", TensorProto.INT64, [None])
    given = helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, [None, 3])
    opsets = [helper.make_opsetid("ai.onnx.ml", 1), helper.make_opsetid("", 15)]
    graph = helper.make_graph([node], "skl", [value], [label, given])
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=8), str(folder / "sklearn.onnx"))


def teachable_machine(folder: Path) -> None:
    (folder / "converted_keras").mkdir()
    small(32, 3).save(folder / "converted_keras" / "keras_model.h5")


def lite(folder: Path) -> None:
    (folder / "model.tflite").write_bytes(tf.lite.TFLiteConverter.from_keras_model(small(16, 3)).convert())


FILES: dict[str, Callable[[Path], object]] = {
    "PyTorch, torchvision": torchvision,
    "timm, with its configuration beside": timm,
    "transformers, a folder that optimum wrote": optimum,
    "ultralytics, a classifier": ultralytics,
    "PaddlePaddle, by paddle2onnx": paddle,
    "scikit-learn, by skl2onnx": scikit_learn,
    "Keras": lambda folder: small(16, 2).save(folder / "model.keras"),
    "Keras' ResNet50 or VGG16": lambda folder: small(16, 3).save(folder / "resnet50.keras"),
    "Teachable Machine, Keras": teachable_machine,
    "TensorFlow, a SavedModel folder": lambda folder: small(16, 3).export(folder / "saved_model", verbose=False),
    "TensorFlow Lite": lite,
}


def test_every_row_is_run() -> None:
    assert set(COMMANDS) == set(FILES)


@pytest.mark.filterwarnings("ignore")  # TensorFlow's, of its own formats
@pytest.mark.parametrize("row", FILES)
def test_commands_publish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, row: str) -> None:
    FILES[row](tmp_path)
    monkeypatch.chdir(tmp_path)
    words = shlex.split(COMMANDS[row])
    if words[0] == "make":  # as the Makefile's target says
        given = dict(word.split("=", 1) for word in words[2:])
        arguments = [given["MODEL"], *shlex.split(given["ARGS"])]
    else:
        assert words[1:3] == ["-m", "training.export"]
        arguments = words[3:]
    assert export.main(arguments) == 0
    assert (tmp_path / "models" / "mine" / "1" / "model.onnx").is_file()


def test_makes_target_runs_the_command() -> None:
    recipe = re.search(r"^import: .*\n\t(.*)$", (ROOT / "Makefile").read_text(), re.M)
    assert recipe is not None
    assert recipe[1] == ".venv-import/bin/python -m training.export $(MODEL) $(ARGS)"


@pytest.mark.parametrize("command", re.findall(r"python -m training\.publish (.*)", PAGE))
def test_commands_of_the_other_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    (tmp_path / "models").symlink_to(ROOT / "models")
    monkeypatch.chdir(tmp_path)
    assert publish_command.main(shlex.split(command)) == 0
    assert len(list(tmp_path.iterdir())) == 2
