import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from serving import artifacts
from serving.errors import StartError
from serving.images import picture
from tests.fixtures import toy
from tests.fixtures.server import committed_artifacts


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return toy.write_artifact(tmp_path)


def names(paths: list[Path]) -> list[str]:
    return [f"{path.parent.name}:{path.name}" for path in paths]


def test_a_sound_artifact_is_read_whole(artifact: Path) -> None:
    read = artifacts.read(artifact)
    assert (read.name, read.version, read.labels, read.input_shape) == ("toy-colours", 1, toy.LABELS, (8, 8, 3))
    assert read.onnx == (artifact / "model.onnx").read_bytes()
    assert read.golden_images.shape == (32, 8, 8, 3)


@pytest.mark.parametrize("path", committed_artifacts(), ids=lambda p: p.parent.name)
def test_every_committed_artifact_is_sound(path: Path) -> None:
    read = artifacts.read(path)
    measured = read.card["metrics"] or {"accuracy": read.card["claimed"]["top1_accuracy"]}
    assert measured["accuracy"] > 0.4
    assert len(read.golden_images) == 32
    assert len(np.unique(read.golden_probabilities.argmax(axis=1))) >= 5


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz"])
def test_a_changed_byte_is_refused_by_file_name(artifact: Path, file: str) -> None:
    content = bytearray((artifact / file).read_bytes())
    content[len(content) // 2] ^= 1
    (artifact / file).write_bytes(content)
    with pytest.raises(StartError, match=rf"{file}: is damaged or was changed"):
        artifacts.read(artifact)


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz", "card.json"])
def test_a_missing_file_is_named(artifact: Path, file: str) -> None:
    (artifact / file).unlink()
    with pytest.raises(StartError, match=rf"{file}: cannot be read"):
        artifacts.read(artifact)


@pytest.mark.parametrize(
    "change",
    [
        {"labels": ["one"]},
        {"labels": 3},
        {"input_shape": [8, 8]},
        {"input_shape": [8, 8, 4]},
        {"input_convention": "sideways"},
        {"name": "other"},
        {"files": None},
        {"labels": ["a", "b"]},
        {"resample": "sideways"},
        {"resize_to": 256},  # of another convention than centre_crop
        {"input_convention": "centre_crop", "resize_to": 3},
        {"input_convention": "centre_crop", "resize_to": "256"},
        {"pad_fill": [0]},
        {"exactness": {"float32_limit": 0.5}},
        {"exactness": {"float32_limit": "0.0001"}},
        {"exactness": 3},
        {"input_convention": "pad", "pad_fill": 114},
        {"input_convention": "pad", "pad_fill": [300]},
        {"input_convention": "pad", "pad_fill": [1, 2]},
        {"metrics": {"loss": float("nan")}},
    ],
)
def test_a_card_that_does_not_fit_is_refused(artifact: Path, change: dict[str, object]) -> None:
    card = json.loads((artifact / "card.json").read_text()) | change
    (artifact / "card.json").write_text(json.dumps(card))
    with pytest.raises(StartError, match=r"card.json|golden.npz"):
        artifacts.read(artifact)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"name": "other"}, "the model is called 'other', and its folder 'toy-colours': rename the folder"),
        ({"labels": ["one"]}, r"labels must be two texts or more, got \['one'\]"),
        ({"input_shape": [8, 8, 4]}, r"input_shape must be \[height, width, 1 or 3\], got \[8, 8, 4\]"),
        ({"input_convention": "sideways"}, "input_convention must be one of plain, .*, got 'sideways'"),
        ({"resample": "sideways"}, "resample must be one of nearest, .*, got 'sideways'"),
        ({"exactness": {"float32_limit": 0.5}}, "whose float32_limit is from 0.0001 to 0.01, got .*0.5"),
        ({"files": None}, "files must name each file's sha256, got None"),
    ],
)
def test_message_names_what_is_wrong(artifact: Path, change: dict[str, object], message: str) -> None:
    card = json.loads((artifact / "card.json").read_text()) | change
    (artifact / "card.json").write_text(json.dumps(card))
    with pytest.raises(StartError, match=message):
        artifacts.read(artifact)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"name": "toy-colours"}', "\udcff"])
def test_a_card_that_is_no_card_is_refused(artifact: Path, text: str) -> None:
    (artifact / "card.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(StartError, match=r"card.json"):
        artifacts.read(artifact)


def test_pickled_golden_arrays_are_never_loaded(artifact: Path) -> None:
    np.savez(artifact / "golden.npz", image=np.array([{}], dtype=object), probabilities=np.zeros((1, 3)))
    card = json.loads((artifact / "card.json").read_text())
    card["files"]["golden.npz"]["sha256"] = toy.sha256(artifact / "golden.npz")
    (artifact / "card.json").write_text(json.dumps(card))
    with pytest.raises(StartError, match=r"golden.npz"):
        artifacts.read(artifact)


def test_the_latest_version_of_each_model_is_selected(tmp_path: Path) -> None:
    for version in (1, 2, 10):
        toy.write_artifact(tmp_path, "a-b", version)
    toy.write_artifact(tmp_path, "c-d", 3)
    (tmp_path / "a-b" / ".tmp-half-written").mkdir()
    (tmp_path / "README.md").write_text("a table")
    assert names(artifacts.select(tmp_path)) == ["a-b:10", "c-d:3"]
    assert names(artifacts.select(tmp_path, "all")) == ["a-b:1", "a-b:2", "a-b:10", "c-d:3"]
    assert names(artifacts.select(tmp_path, "a-b:2,1")) == ["a-b:1", "a-b:2", "c-d:3"]
    assert names(artifacts.select(tmp_path, "a-b:1 c-d:3")) == ["a-b:1", "c-d:3"]


@pytest.mark.parametrize("versions", ["a-b:7", "nobody:1", "a-b", "a-b:x", "a-b:", ":1"])
def test_versions_that_are_not_there_end_the_start(tmp_path: Path, versions: str) -> None:
    toy.write_artifact(tmp_path, "a-b", 1)
    with pytest.raises(StartError, match="SHORTCUT_VERSIONS"):
        artifacts.select(tmp_path, versions)


def test_a_folder_without_models_is_named(tmp_path: Path) -> None:
    with pytest.raises(StartError, match="holds no model"):
        artifacts.select(tmp_path)
    shutil.rmtree(tmp_path)
    with pytest.raises(StartError, match="no such folder"):
        artifacts.select(tmp_path)


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listed = Path.iterdir

    def denied(folder: Path) -> Iterator[Path]:
        if folder.name == "a-b":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    toy.write_artifact(tmp_path, "a-b", 1)
    monkeypatch.setattr(Path, "iterdir", denied)
    with pytest.raises(StartError, match=r"a-b: cannot be read \(Permission denied\)"):
        artifacts.select(tmp_path)


def test_the_filters_are_those_that_pictures_can_be_resized_with() -> None:
    assert set(artifacts.FILTERS) <= set(picture.FILTERS)


@pytest.mark.parametrize("name", ["lost+found", ".ipynb_checkpoints", "@eaDir", "__MACOSX", "empty", "notes"])
def test_folders_that_are_no_models_are_passed_over(tmp_path: Path, name: str) -> None:
    toy.write_artifact(tmp_path)
    (tmp_path / name).mkdir()
    if name != "empty":
        (tmp_path / name / "a file").touch()
    (tmp_path / "toy-colours" / ".ipynb_checkpoints").mkdir()
    assert artifacts.select(tmp_path) == [tmp_path / "toy-colours" / "1"]


@pytest.mark.parametrize("name", ["v1", "1.0", "01", "latest", "1-bad", "٣"])
def test_a_version_that_is_no_whole_number_is_named_as_what_is_wrong(tmp_path: Path, name: str) -> None:
    folder = toy.write_artifact(tmp_path)
    folder.rename(folder.with_name(name))
    with pytest.raises(StartError, match="holds no model") as caught:
        artifacts.select(tmp_path)
    assert f"{folder.with_name(name)} is no version: its name must be a whole number" in str(caught.value)
    toy.write_artifact(tmp_path)
    assert artifacts.select(tmp_path) == [folder]
    assert len(artifacts.misnamed(tmp_path)) == 1


def test_a_model_without_a_version_folder_is_named(tmp_path: Path) -> None:
    folder = toy.write_artifact(tmp_path / "elsewhere")
    folder.rename(tmp_path / "models")
    (tmp_path / "models" / "mine").mkdir()
    for file in list((tmp_path / "models").iterdir()):
        if file.is_file():
            file.rename(tmp_path / "models" / "mine" / file.name)
    with pytest.raises(StartError, match=r"holds a model\.onnx itself: move it into"):
        artifacts.select(tmp_path / "models")


def test_a_folder_that_nobody_may_look_into_stops_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.write_artifact(tmp_path)
    (tmp_path / "toy-colours" / "lost+found").mkdir()
    looked = Path.is_file

    def denied(path: Path) -> bool:
        if path.parent.name == "lost+found":
            raise PermissionError(13, "Permission denied")
        return looked(path)

    monkeypatch.setattr(Path, "is_file", denied)
    assert artifacts.misnamed(tmp_path) == []


def test_a_version_of_thousands_of_digits_is_no_number(tmp_path: Path) -> None:
    toy.write_artifact(tmp_path)
    with pytest.raises(StartError, match="expected `all`"):
        artifacts.select(tmp_path, "toy-colours:" + "9" * 5000)
