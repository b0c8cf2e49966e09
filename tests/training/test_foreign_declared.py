"""What a file and those beside it say is used: labels, sizes, means, crops; and what pictures prove is in the card."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
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
from training.artifact.errors import ExportError
from training.artifact.reading import run_onnx
from training.foreign.declared import declared_by
from training.foreign.labels import distinct, read_labels
from training.foreign.resizing import Resizing

pytestmark = pytest.mark.usefixtures("drawn_once")

SHAPE = (12, 12, 3)
FORM = Form(size=(12, 12))
NAMES = ["ant", "bee", "cat", "crane", "crane", "owl"]
DISTINCT = ["ant", "bee", "cat", "crane (3)", "crane (4)", "owl"]


def ultralytics(folder: Path) -> Path:
    """As `yolo export model=yolo11n-cls.pt format=onnx` writes it."""
    model = network(FORM.but(batch=1, ending="probabilities"))
    names = str(dict(enumerate(NAMES)))
    metadata = {"task": "classify", "names": names, "imgsz": "[12, 12]", "stride": "1", "author": "Ultralytics"}
    onnx.helper.set_model_props(model, metadata)
    return saved(model, folder)


def timm(folder: Path) -> Path:
    """As timm's `push_to_hf_hub` writes config.json."""
    config = {"mean": [0.5, 0.4, 0.3], "std": [0.2, 0.3, 0.4], "input_size": [3, 12, 12], "crop_pct": 0.8}
    config |= {"interpolation": "bicubic", "crop_mode": "center", "label_names": NAMES}
    path = saved(network(FORM), folder)
    (folder / "config.json").write_text(json.dumps({"architecture": "resnet_tiny", "pretrained_cfg": config}))
    return path


def transformers(folder: Path) -> Path:
    """As `optimum-cli export onnx` writes a folder."""
    saved(network(FORM), folder / "onnx")
    config = {"architectures": ["ViTForImageClassification"], "model_type": "vit"}
    config |= {"id2label": {str(i): name for i, name in enumerate(NAMES)}}
    prepared = {"do_resize": True, "size": {"height": 12, "width": 12}, "resample": 3, "do_rescale": True}
    prepared |= {"rescale_factor": 1 / 255, "do_normalize": True, "image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "preprocessor_config.json").write_text(json.dumps(prepared))
    return folder


CARDS: dict[str, tuple[Any, dict[str, Any], Any]] = {
    "ultralytics": (
        ultralytics,
        {"input_convention": "centre_crop", "resize_to": 12, "resample": "bilinear"},
        lambda x: x / np.float32(255),
    ),
    "timm": (
        timm,
        {"input_convention": "centre_crop", "resize_to": 15, "resample": "bicubic", "network": "resnet_tiny"},
        lambda x: (x / np.float32(255) - np.float32([0.5, 0.4, 0.3])) / np.float32([0.2, 0.3, 0.4]),
    ),
    "transformers": (
        transformers,
        {"input_convention": "plain", "resample": "bicubic", "network": "vit"},
        lambda x: (x / np.float32(255) - np.float32(0.5)) / np.float32(0.5),
    ),
}


@pytest.mark.parametrize("name", CARDS)
def test_what_the_files_say_is_used(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make, expected, prepare = CARDS[name]
    path = make(tmp_path / "theirs")
    artifact = publish(path, tmp_path / "models")
    card = card_of(artifact)
    assert card["labels"] == DISTINCT
    assert {key: card.get(key) for key in expected} == expected
    # A photo of another size, prepared by plain Pillow as the library does, and by the service
    photo = Image.fromarray(pictures((60, 47, 3), 1, seed=5)[0])
    photo.save(tmp_path / "photo.png")
    kind = {"plain": "squash", "centre_crop": "crop"}[card["input_convention"]]
    array = Resizing(kind, card.get("resize_to"), card["resample"]).of(photo, SHAPE)
    given = prepare(array[None].astype(np.float32)).transpose(0, 3, 1, 2).astype(np.float32)
    file = path if path.is_file() else path / "onnx" / "model.onnx"
    theirs = their_answers(file, given, "as they are" if name == "ultralytics" else "logits")
    ours = served(tmp_path / "models", "theirs", [tmp_path / "photo.png"], monkeypatch, capsys)
    np.testing.assert_allclose(ours, theirs, atol=0.02)  # a crop's decoder is exact to one level
    np.testing.assert_allclose(run_onnx(artifact, array[None]), theirs, atol=1e-4)


@pytest.mark.parametrize(("exported", "to"), [(12, 15), (16, 16), (20, 25), ("side", 16)])
def test_timms_second_size_counts_where_it_was_exported(tmp_path: Path, exported: int | str, to: int) -> None:
    """As of resnet50.a1_in1k: trained with 224 pixels, tested with 288, and exported with either."""
    config = {"mean": [0.5] * 3, "std": [0.5] * 3, "input_size": [3, 12, 12], "crop_pct": 0.8}
    config |= {"test_input_size": [3, 16, 16], "test_crop_pct": 1.0}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": config}))
    declared = declared_by(tmp_path / "model.onnx", network(FORM.but(size=(exported, exported))))
    side = 16 if exported == "side" else exported
    assert (declared.size, declared.resizing) == ((side, side), Resizing("crop", to, "bilinear"))


@pytest.mark.parametrize(
    ("file", "config", "resizing"),
    [
        ("config.json", {"crop_mode": "squash", "crop_pct": 0.9}, Resizing("squash", None, "bicubic")),
        ("config.json", {"crop_mode": "border", "crop_pct": 0.9}, Resizing("pad", None, "bicubic")),
        ("preprocessor_config.json", {"size": {"shortest_edge": 12}}, Resizing("squash", None, "bicubic")),
        ("preprocessor_config.json", {"size": 16, "crop_size": 12, "do_center_crop": True}, Resizing("crop", 16)),
        (
            "preprocessor_config.json",
            {"size": {"height": 16, "width": 16}, "crop_size": {"height": 12, "width": 12}, "do_center_crop": True},
            Resizing("crop", 16, "bicubic"),
        ),
    ],
)
def test_what_cannot_be_followed_is_told(tmp_path: Path, file: str, config: dict[str, Any], resizing: Resizing) -> None:
    common = {"mean": [0.5], "std": [0.5], "input_size": [3, 12, 12], "interpolation": "bicubic"}
    common |= {"image_mean": [0.5], "image_std": [0.5], "resample": 3}
    (tmp_path / file).write_text(json.dumps(common | config))
    declared = declared_by(tmp_path / "model.onnx", network(FORM))
    assert declared.resizing is not None
    assert (declared.resizing.kind, declared.resizing.to) == (resizing.kind, resizing.to)
    assert declared.resizing.resample == "bicubic"
    assert (len(declared.notes) == 1) == (config.get("size") != 16)


IMAGENET_STD = [0.229, 0.224, 0.225]


@pytest.mark.parametrize(
    ("config", "resizing", "prepare"),
    [
        (
            {"image_processor_type": "EfficientNetImageProcessor", "include_top": True, "image_mean": [0.1, 0.2, 0.3]}
            | {"image_std": IMAGENET_STD, "size": {"height": 12, "width": 12}, "resample": 0},
            Resizing("squash", None, "nearest"),
            lambda x: (x / 255 - np.array([0.1, 0.2, 0.3])) / np.array(IMAGENET_STD) ** 2,
        ),
        (
            {"feature_extractor_type": "LevitFeatureExtractor", "do_normalize": False, "do_center_crop": True}
            | {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "resample": 3},
            Resizing("crop", 256, "bicubic"),
            lambda x: x / 255,
        ),
        (
            {"image_processor_type": "PoolFormerImageProcessor", "crop_pct": 0.9, "do_center_crop": True}
            | {"size": {"shortest_edge": 224}, "crop_size": {"height": 224, "width": 224}, "do_normalize": False},
            Resizing("crop", 248, "bilinear"),
            lambda x: x / 255,
        ),
        (
            {"image_processor_type": "ViTImageProcessor", "size": 12, "image_mean": 0.5, "image_std": 0.25},
            Resizing("squash", None, "bilinear"),
            lambda x: (x / 255 - 0.5) / 0.25,
        ),
        ({"do_normalize": True, "size": 12}, Resizing("squash", None, "bilinear"), None),  # it is asked for
    ],
)
def test_what_transformers_classes_make_of_their_keys(
    tmp_path: Path, config: dict[str, Any], resizing: Resizing, prepare: Any
) -> None:
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(config))
    declared = declared_by(tmp_path / "model.onnx", network(FORM))
    assert declared.resizing == resizing
    if prepare is None:
        assert declared.pixels is None
    else:
        assert declared.pixels is not None
        images = pictures(SHAPE)
        np.testing.assert_allclose(declared.pixels.of(images), prepare(images.astype(np.float64)), rtol=1e-4, atol=1e-4)


def test_what_the_user_says_goes_before(tmp_path: Path) -> None:
    path = timm(tmp_path / "theirs")
    options = ["--labels", "a,b,c,d,e,f", "--input-range", "imagenet", "--resize", "squash", "--resample", "box"]
    artifact = publish(path, tmp_path / "models", *options)
    card = card_of(artifact)
    assert (card["labels"], card["input_convention"], card["resample"]) == (list("abcdef"), "plain", "box")
    images = pictures(SHAPE)
    np.testing.assert_allclose(run_onnx(artifact, images), their_answers(path, as_imagenet(images)), atol=1e-4)


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"id2label": {"0": "a", "1": "b"}, "problem_type": "multi_label_classification"}, "multi_label"),
        ({"id2label": {"0": "a", "1": "b"}, "architectures": ["DetrForObjectDetection"]}, "DetrForObjectDetection"),
        ({"id2label": {"0": "a", "2": "b"}}, "numbered from 0 without gaps"),
    ],
)
def test_what_the_files_say_can_refuse(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], config: dict[str, Any], told: str
) -> None:
    from training.export import main

    path = saved(network(FORM), tmp_path)
    (tmp_path / "config.json").write_text(json.dumps(config))
    arguments = [str(path), "--name", "theirs", "--output", str(tmp_path / "models"), "--input-range", "0-1"]
    assert main(arguments) == 1
    assert told in capsys.readouterr().err


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("ant\nbee\n", ["ant", "bee"]),
        ("0 ant\n1 big bee\n", ["ant", "big bee"]),
        ("1 ant\n2 bee\n", ["1 ant", "2 bee"]),
        ("0: ant\n1: bee, the small one\n", ["ant", "bee, the small one"]),
        ("0,ant\n1,bee\n", ["ant", "bee"]),
        ("{0: 'ant, pismire',\n 1: \"mother's bee\"}", ["ant, pismire", "mother's bee"]),
        ('["ant", "bee"]', ["ant", "bee"]),
        ('{"1": "bee", "0": "ant"}', ["ant", "bee"]),
        ('{"bee": 1, "ant": 0}', ["ant", "bee"]),
        ('{"0": ["n1", "ant"], "1": ["n2", "bee"]}', ["ant", "bee"]),
        ("\ufeffant\r\nbee\r\n\r\n", ["ant", "bee"]),
        ("crane\nowl\ncrane\n", ["crane (0)", "owl", "crane (2)"]),
    ],
)
def test_labels_in_every_form(tmp_path: Path, content: str, expected: list[str]) -> None:
    (tmp_path / "labels.txt").write_text(content)
    assert read_labels(str(tmp_path / "labels.txt")) == expected


@pytest.mark.parametrize("encoding", ["utf-16", "utf-8-sig"])
def test_labels_as_windows_writes_them(tmp_path: Path, encoding: str) -> None:
    (tmp_path / "labels.txt").write_bytes("Käfer\r\nBiene\r\n".encode(encoding))
    assert read_labels(str(tmp_path / "labels.txt")) == ["Käfer", "Biene"]
    (tmp_path / "labels.txt").write_bytes("Käfer".encode("latin-1"))
    with pytest.raises(ExportError, match="is no UTF-8"):
        read_labels(str(tmp_path / "labels.txt"))


@pytest.mark.parametrize("name", ["a\nb", "\ud800", "\0"])
def test_names_that_are_no_line_are_refused(name: str) -> None:
    with pytest.raises(ExportError, match="the name of class 1"):
        distinct(["ant", name])


@pytest.mark.parametrize("content", ["", "ant\n\nbee\n", "[]", '{"0": "a", "2": "b"}', "[1.5]", '{"a": "b"}', "[,"])
def test_labels_that_are_none(tmp_path: Path, content: str) -> None:
    (tmp_path / "labels.json").write_text(content)
    with pytest.raises(ExportError):
        read_labels(str(tmp_path / "labels.json"))


def test_labelled_pictures_measure_the_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The model's own answers are the labels of most: the accuracy is known by hand."""
    path = saved(network(FORM), tmp_path / "theirs")
    images = pictures(SHAPE, 80, seed=9)
    best = their_answers(path, as_imagenet(images)).argmax(axis=1)
    wrong = 0
    for i, (image, k) in enumerate(zip(images, best, strict=True)):
        label = (k + 1) % CLASSES if i % 10 == 0 else k
        wrong += label != k
        folder = tmp_path / "check" / "abcdef"[label]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(folder / f"{i}.png")
    options = ["--input-range", "imagenet", "--labels", "a,b,c,d,e,f", "--check", str(tmp_path / "check")]
    card = card_of(publish(path, tmp_path / "models", *options))
    assert card["metrics"]["accuracy"] == pytest.approx(1 - wrong / len(images))
    assert set(card["calibration"]) == {"temperature", "before", "after"}
    assert card["calibration"]["temperature"] == 1
    assert card["dataset"]["test"] == card["checked"]["images"] == len(images)
    assert not any("nobody measured" in warning for warning in card["warnings"])
    assert f"accuracy {1 - wrong / len(images):.4f}" in capsys.readouterr().out
    capsys.readouterr()


def test_folders_that_are_no_labels_are_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from training.export import main

    path = saved(network(FORM), tmp_path / "theirs")
    for name in ("x", "y"):
        (tmp_path / "check" / name).mkdir(parents=True)
        for i in range(3):
            Image.fromarray(pictures(SHAPE, 3)[i]).save(tmp_path / "check" / name / f"{i}.png")
    options = ["--input-range", "imagenet", "--labels", "a,b,c,d,e,f", "--check", str(tmp_path / "check")]
    assert main([str(path), "--name", "theirs", "--output", str(tmp_path / "models"), *options]) == 1
    assert "no labels of the model: x, y" in capsys.readouterr().err
    assert not (tmp_path / "models").exists()
