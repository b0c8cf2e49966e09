"""Metrics against values by hand, scikit-learn and Keras; and an artifact measured again against its card."""

import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from PIL import Image
from sklearn.metrics import accuracy_score, confusion_matrix, recall_score

from serving.images.picture import Picture
from tests.fixtures.server import committed_artifacts
from training.artifact import metrics as module
from training.artifact.metrics import measure
from training.artifact.reading import latest_version, run_onnx
from training.data.contents import remember
from training.data.loading import load
from training.evaluate import main

pytest_plugins = ["tests.fixtures.training"]

MNIST = [artifact for artifact in committed_artifacts() if artifact.parent.name.endswith("-mnist")]
DATA = os.environ.get("SHORTCUT_TEST_DATA")


def predictions(seed: int, count: int = 200, classes: int = 5) -> tuple[np.ndarray, np.ndarray]:
    """Probabilities (N, K) float32 and targets (N,) that they often get right."""
    rng = np.random.default_rng(seed)
    targets = rng.integers(0, classes, count)
    scores = rng.normal(0, 1.5, (count, classes)) + 2 * np.eye(classes)[targets]
    e = np.exp(scores)
    return (e / e.sum(axis=1, keepdims=True)).astype(np.float32), targets


# Metrics


def test_metrics_of_four_answers_by_hand() -> None:
    probabilities = np.array([[0.7, 0.2, 0.1], [0.6, 0.3, 0.1], [0.1, 0.8, 0.1], [0.2, 0.6, 0.2]])
    metrics = measure(probabilities, np.array([0, 1, 1, 1]), ("a", "b", "c"))
    assert metrics["accuracy"] == 0.75
    assert metrics["per_class_accuracy"] == {"a": 1.0, "b": pytest.approx(2 / 3), "c": None}
    right = 0.7 * 0.8 * 0.9 * 0.3 * 0.4 * 0.9 * 0.8 * 0.9 * 0.9 * 0.6 * 0.8 * 0.8  # p where the label is, 1-p elsewhere
    assert metrics["loss"] == pytest.approx(-np.log(right) / 12)
    # confidences 0.7 and 0.6 (twice) and 0.8 lie in bins (10/15, 11/15], (8/15, 9/15] and (11/15, 12/15]
    assert metrics["calibration_error"] == pytest.approx(abs(1 - 0.7) / 4 + abs(0.5 - 0.6) / 2 + abs(1 - 0.8) / 4)


def test_calibration_error_by_hand() -> None:
    confidence = np.array([1.0, 1.0, 1.0, 1.0, 0.5, 0.5, 0.05])
    hits = np.array([True, True, True, False, True, False, False])
    assert module.calibration_error(confidence, hits) == pytest.approx((4 * 0.25 + 2 * 0.0 + 1 * 0.05) / 7)
    assert module.calibration_error(confidence, hits, bins=1) == pytest.approx(abs(4 / 7 - confidence.mean()))


def test_a_bin_holds_its_upper_edge_and_not_its_lower() -> None:
    # 0.5 lies in the first of two bins: one bin of mean confidence 0.3, of which a third is right
    assert module.calibration_error(np.array([0.15, 0.25, 0.5]), np.array([0, 0, 1]), bins=2) == pytest.approx(1 / 30)


def test_certain_and_right_answers_have_no_calibration_error() -> None:
    assert module.calibration_error(np.ones(9), np.ones(9, bool)) == 0


@pytest.mark.parametrize("seed", range(3))
def test_accuracy_recall_and_confusion_are_scikit_learns(seed: int) -> None:
    probabilities, targets = predictions(seed)
    predicted = probabilities.argmax(axis=1)
    metrics = measure(probabilities, targets, "abcde")
    assert metrics["accuracy"] == pytest.approx(accuracy_score(targets, predicted))
    recalls = recall_score(targets, predicted, average=None)
    assert list(metrics["per_class_accuracy"].values()) == pytest.approx(list(recalls))
    counts = module.confusion_matrix(predicted, targets, 5)
    np.testing.assert_array_equal(counts, confusion_matrix(targets, predicted, labels=range(5)))


def test_the_confusion_matrix_keeps_classes_that_never_occur() -> None:
    counts = module.confusion_matrix(np.array([0, 2]), np.array([0, 1]), 4)
    assert counts.tolist() == [[1, 0, 0, 0], [0, 0, 1, 0], [0, 0, 0, 0], [0, 0, 0, 0]]


@pytest.mark.parametrize("seed", range(3))
def test_loss_and_binary_accuracy_are_keras(seed: int) -> None:
    probabilities, targets = predictions(seed)
    one_hot = np.eye(5, dtype=np.float32)[targets]
    loss = float(np.mean(keras.losses.binary_crossentropy(one_hot, probabilities)))
    assert module.binary_crossentropy(probabilities, targets) == pytest.approx(loss, rel=1e-5)
    flattering = float(np.mean(keras.metrics.binary_accuracy(one_hot, probabilities)))
    assert module.binary_accuracy(probabilities, targets) == pytest.approx(flattering)


def test_a_certain_wrong_answer_is_clipped_as_keras_does() -> None:
    probabilities, targets = np.array([[1.0, 0.0], [0.0, 1.0]], np.float32), np.array([0, 0])
    expected = float(np.mean(keras.losses.binary_crossentropy(np.eye(2, dtype=np.float32)[targets], probabilities)))
    assert module.binary_crossentropy(probabilities, targets) == pytest.approx(expected, rel=0.02)
    assert 7 < expected < 9


# Which artifact


def test_the_latest_version_is_the_highest_number(tmp_path: Path) -> None:
    for name in ("9", "10", "notes"):
        (tmp_path / name).mkdir()
    assert latest_version(tmp_path) == tmp_path / "10"
    (tmp_path / "9" / "card.json").write_text('{"recipe": {"epochs": 1}}')
    (tmp_path / "10" / "card.json").write_text('{"recipe": {"name": "tuned"}}')
    assert latest_version(tmp_path / "9") == tmp_path / "9"
    assert latest_version(tmp_path, "notebook") == tmp_path / "9"
    with pytest.raises(FileNotFoundError, match="recipe augmented"):
        latest_version(tmp_path, "augmented")


@pytest.mark.parametrize("name", ["nowhere", "empty"])
def test_a_folder_without_an_artifact_is_told(tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    assert main([str(tmp_path / name)]) == 1
    assert f"{name}: neither an artifact (card.json) nor a model's folder" in capsys.readouterr().err


# An artifact again


@pytest.fixture
def model(toy_run: Path, tmp_path: Path) -> Path:
    """A copy of the toy model's folder, to damage."""
    return Path(shutil.copytree(toy_run / "models" / "tiny-digits", tmp_path / "tiny-digits"))


def test_an_artifact_agrees_with_its_card(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = json.loads((model / "1" / "card.json").read_text())
    assert main([str(model)]) == 0
    printed, _, verdict = capsys.readouterr().out.strip().rpartition("\n")
    assert verdict.endswith(": agrees")
    metrics = json.loads(printed)
    assert metrics["accuracy"] == pytest.approx(card["metrics"]["accuracy"], abs=0.001)
    assert metrics["loss"] == pytest.approx(card["metrics"]["loss"], abs=1e-5)
    assert set(metrics) == set(card["metrics"])


def test_a_card_that_says_something_else_is_found_out(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model / "1" / "card.json"
    card = json.loads(path.read_text())
    card["metrics"]["accuracy"] += 0.002
    path.write_text(json.dumps(card))
    assert main([str(model / "1")]) == 1
    assert capsys.readouterr().out.strip().endswith("DIFFERS")


def test_a_card_without_metrics_has_nothing_to_compare(model: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = model / "1" / "card.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"metrics": None, "recipe": None}))
    assert main([str(model)]) == 0
    assert "records no accuracy" in capsys.readouterr().out


def test_data_that_does_not_fit_the_model_is_told(
    model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    images, labels = np.zeros((3, 9, 9, 3), np.uint8), np.arange(3)
    np.savez(tmp_path / "colour.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    assert main([str(model), "--data", str(tmp_path / "colour.npz")]) == 1
    assert "takes images of shape [28, 28, 1], got [28, 28, 3]" in capsys.readouterr().err


@pytest.fixture(scope="module")
def threes_and_sevens(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder, digits = tmp_path_factory.mktemp("digits"), load("digits")
    for k in (3, 7):
        (folder / str(k)).mkdir()
        for i in np.flatnonzero(digits.y_test == k)[:15]:
            Image.fromarray(digits.x_test[i, :, :, 0]).save(folder / str(k) / f"{i}.png")
    return folder


@pytest.fixture
def mine(threes_and_sevens: Path, tmp_path: Path) -> Path:
    """A folder of the digits 3 and 7 only, 15 of each, to change."""
    return Path(shutil.copytree(threes_and_sevens, tmp_path / "mine"))


def test_classes_are_matched_by_name_and_all_of_other_pictures_are_measured(
    model: Path, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By position, every 7 would count as a 1."""
    assert main([str(model), "--data", str(mine)]) == 0
    lines = capsys.readouterr().out.splitlines()
    counts = {line.split()[0]: line.split()[1] for line in lines[1:-2]}  # after the header
    assert (counts["3"], counts["7"]) == ("15", "15")
    assert {count for label, count in counts.items() if label not in "37"} <= {"0"}
    assert re.match(r"accuracy 0\.[3-9]\d* on 30 images, all there are, of folder mine", lines[-1])
    assert lines[-1].endswith(" on digits")
    (mine / "7").rename(mine / "seven")
    assert main([str(model), "--data", str(mine)]) == 1
    assert "classes are matched by name" in capsys.readouterr().err


@pytest.mark.parametrize(
    "change",
    [
        {},
        {"input_convention": "plain", "resample": "lanczos"},
        {"input_convention": "pad", "pad_fill": [200], "resample": "box"},
        {"input_convention": "centre_crop", "resize_to": 40},
    ],
    ids=str,
)
def test_pictures_are_brought_to_the_model_as_the_service_brings_them(
    model: Path, mine: Path, tmp_path: Path, change: dict[str, Any]
) -> None:
    """Black figures on large, oblong white sheets, for a model of light figures on black."""
    for file in mine.glob("*/*.png"):
        sheet = Image.new("L", (120, 90), 255)
        sheet.paste(Image.fromarray(255 - np.asarray(Image.open(file))).resize((56, 56)), (20, 12))
        sheet.save(file)
    card = json.loads((model / "1" / "card.json").read_text()) | change
    (model / "1" / "card.json").write_text(json.dumps(card))
    table = tmp_path / "out.csv"
    assert main([str(model), "--data", str(mine), "--csv", str(table)]) == 0
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 30
    prepared = [
        Picture.open(Path(row["file"]).read_bytes()).to_array(
            (28, 28, 1),
            card["input_convention"],
            card["resample"],
            card.get("resize_to"),
            card.get("pad_fill", 0),
        )
        for row in rows
    ]
    answers = run_onnx(model / "1", np.stack([picture.array for picture in prepared]))
    assert [row["answer"] for row in rows] == [str(k) for k in answers.argmax(axis=1)]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], answers.max(axis=1), rtol=1e-3)


def test_a_folder_of_one_class_or_one_picture_is_measured(
    model: Path, mine: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.rmtree(mine / "7")
    assert main([str(model), "--data", str(mine)]) == 0
    assert "on 15 images, all there are, of folder mine" in capsys.readouterr().out
    for file in sorted((mine / "3").iterdir())[1:]:
        file.unlink()
    assert main([str(model), "--data", str(mine)]) == 0
    assert "on 1 images, all there are, of folder mine" in capsys.readouterr().out


def test_a_folder_that_has_grown_is_measured_without_what_was_trained_on(
    model: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, runs = model / "1" / "card.json", tmp_path / "runs"
    before = load(data=mine)
    card = json.loads(path.read_text())
    path.write_text(json.dumps(card | {"dataset": card["dataset"] | {"name": "mine", "test": len(before.x_test)}}))
    (runs / "tiny-digits" / "1").mkdir(parents=True)
    remember(before, runs / "tiny-digits" / "1")
    trained = {file.read_bytes() for file in before.files[: len(before.x_train)]}
    command = [str(model), "--data", str(mine), "--runs", str(runs), "--csv", str(tmp_path / "out.csv")]

    def measured() -> list[Path]:
        with (tmp_path / "out.csv").open(newline="") as file:
            return [Path(row["file"]) for row in csv.DictReader(file)]

    main(command)
    assert set(measured()) == set(before.files[len(before.x_train) :])
    assert re.search(r"the card says .*: (agrees|DIFFERS)$", capsys.readouterr().out.strip())
    for file in [*mine.glob("*/*.png")]:
        file.rename(file.with_name(f"renamed-{file.name}"))
    Image.fromarray(np.full((28, 28), 77, np.uint8)).save(mine / "3" / "a-new-one.png")
    assert main(command) == 0
    assert len(measured()) == len(before.x_test) + 1
    assert mine / "3" / "a-new-one.png" in measured()
    assert not {file.read_bytes() for file in measured()} & trained
    assert "the pictures are not the same any more" in capsys.readouterr().out
    shutil.rmtree(runs)
    main(command)
    assert "does not remember which pictures were trained on" in capsys.readouterr().err


def test_a_folder_becomes_a_table_of_its_classes_and_a_csv_of_its_pictures(
    model: Path, mine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (mine / "3" / "bad.png").write_bytes(b"no picture")
    table = tmp_path / "out.csv"
    assert main([str(model), "--data", str(mine), "--csv", str(table)]) == 0
    said = capsys.readouterr().out
    assert "3/bad.png: not a readable image" in said
    assert f"wrote {table}: 30 pictures" in said
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert {row["file"] for row in rows} == {str(file) for file in mine.glob("*/[0-9]*.png")}
    assert all(Path(row["file"]).parent.name == row["label"] for row in rows)
    images = np.stack([np.asarray(Image.open(row["file"]))[..., None] for row in rows])
    answers = run_onnx(model / "1", images)
    assert [row["answer"] for row in rows] == [str(k) for k in answers.argmax(axis=1)]
    np.testing.assert_allclose([float(row["probability"]) for row in rows], answers.max(axis=1), rtol=1e-4)
    right = sum(row["label"] == row["answer"] == "3" for row in rows)
    answered = sum(row["answer"] == "3" for row in rows)
    (line,) = re.findall(r"^3 +15 +(.+)$", said, re.M)
    assert re.findall(r"([\d.]+) \(", line) == [f"{right / 15:.4f}", *([f"{right / answered:.4f}"] if answered else [])]


@pytest.mark.parametrize("place", ["no/out.csv", "."])
def test_a_csv_that_cannot_be_written_is_one_line(
    model: Path, mine: Path, tmp_path: Path, place: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Before anything is measured: that takes minutes for many pictures."""
    assert main([str(model), "--data", str(mine), "--csv", str(tmp_path / place)]) == 1
    said = capsys.readouterr()
    assert re.fullmatch(r"error: .*: cannot be written \(.*\)\n", said.err)
    assert "class" not in said.out


def test_a_csv_that_was_not_finished_leaves_the_one_before(
    model: Path, mine: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(self: Path, target: Path) -> Path:
        raise OSError(28, "No space left on device")

    table = tmp_path / "out.csv"
    table.write_text("of yesterday")
    monkeypatch.setattr(Path, "replace", full)
    assert main([str(model), "--data", str(mine), "--csv", str(table)]) == 1
    assert table.read_text() == "of yesterday"
    assert not list(tmp_path.glob(".out.csv*"))


def test_a_link_is_written_through_and_stays(model: Path, mine: Path, tmp_path: Path) -> None:
    """As /dev/stdout is one, which a root user could replace for everybody."""
    table, link = tmp_path / "out.csv", tmp_path / "link.csv"
    link.symlink_to(table)
    assert main([str(model), "--data", str(mine), "--csv", str(link)]) == 0
    assert link.is_symlink()
    assert table.read_text().startswith("file,label,answer,probability")


def test_a_csv_needs_pictures_that_are_files(model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(model), "--csv", str(tmp_path / "out.csv")]) == 1
    assert "--csv takes pictures that are files" in capsys.readouterr().err


def test_how_far_it_is_is_told(model: Path) -> None:
    told: list[int] = []
    run_onnx(model / "1", np.zeros((600, 28, 28, 1), np.uint8), told.append)
    assert told == [256, 512, 600]


@pytest.mark.parametrize("content", [None, "{", "[]", '{"labels": ["a", "b"]}'])
@pytest.mark.parametrize("damage", ["card.json", "model.onnx"])
def test_a_damaged_artifact_is_told_in_one_line(
    model: Path, damage: str, content: str | None, capsys: pytest.CaptureFixture[str]
) -> None:
    (model / "1" / damage).unlink()
    if content is not None:
        (model / "1" / damage).write_text(content)
    assert main([str(model)]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert damage in error


@pytest.mark.skipif(not DATA, reason="SHORTCUT_TEST_DATA does not name a folder with mnist.npz")
@pytest.mark.parametrize(  # the networks of dense layers in half a second each, the others in ten and more
    "artifact",
    [path if "dense" in path.parent.name else pytest.param(path, marks=pytest.mark.thorough) for path in MNIST],
    ids=lambda path: path.parent.name,
)
def test_a_committed_model_agrees_with_its_card_on_the_real_test_split(artifact: Path) -> None:
    assert main([str(artifact), "--data", str(Path(str(DATA)) / "mnist.npz")]) == 0
