"""`fit --data DIR --quick`: the next version in seconds, from a classifier alone on features that are kept."""

import csv
import json
import os
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from PIL import Image
from tensorflow.core.protobuf.saved_model_pb2 import SavedModel

from serving.repository.predictor import Predictor
from tests.fixtures.training import cheap_export
from training import features
from training.artifact import graph
from training.artifact.reading import run_onnx, run_outputs
from training.artifact.trust import wilson_interval
from training.data.contents import digests, memory
from training.evaluate import main as evaluate
from training.fit import _without_quick, main
from training.runs import features as kept_features
from training.runs.kept import bound, held, size_of
from training.runs.linear import STRENGTHS
from training.runs.quick import LEFT_AND_RIGHT, _left_and_right

pytestmark = pytest.mark.usefixtures("keep_sigterm")
pytest_plugins = ["tests.fixtures.training"]

converted: list[tf.TensorSpec] = []  # the inputs of what became ONNX in the last command of `place`
COLOURS = {"red": (200, 60, 60), "green": (60, 200, 60), "blue": (60, 60, 200)}


def draw(folder: Path, label: str, numbers: range, colour: str = "") -> None:
    """Noisy pictures of a colour, of its own name or another."""
    (folder / label).mkdir(parents=True, exist_ok=True)
    for i in numbers:
        noise = np.random.default_rng(i).integers(-60, 60, (8, 8, 3))
        image = np.clip(np.array(COLOURS[colour or label]) + noise, 0, 255).astype(np.uint8)
        Image.fromarray(image).save(folder / label / f"{label}-{'abcdefgh'[i % 8]}{i}x.png")


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder where a network learnt two colours as a whole, and then a classifier alone, twice."""
    place = tmp_path_factory.mktemp("quick")
    for label in ("red", "green"):
        draw(place / "colours", label, range(40))
    fit(place, "--epochs", "3", "--no-flip")  # which asks nothing of the pictures
    for label in ("red", "green"):
        draw(place / "colours", label, range(40, 50))
    fit(place, "--quick")
    draw(place / "colours", "blue", range(30))
    draw(place / "colours", "red", range(60, 62), "blue")  # in the wrong folder
    convert = graph.converted

    def noted(function: Any) -> Any:
        converted.extend(function.input_signature)
        return convert(function)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(graph, "converted", noted)
        fit(place, "--quick")
    return place


def fit(place: Path, *options: str) -> None:
    out = ["--output", str(place / "models"), "--runs", str(place / "runs")]
    with cheap_export():
        assert main(["_tiny", "--data", str(place / "colours"), *out, *options]) == 0


def card(place: Path, version: int) -> dict[str, Any]:
    return json.loads((place / f"models/tiny-colours/{version}/card.json").read_text())


def test_the_next_version_is_an_artifact_like_any_other(place: Path) -> None:
    found = card(place, 2)
    assert (found["recipe"]["name"], found["recipe"]["epochs"], found["network_of_version"]) == ("quick", 0, 1)
    assert found["training"]["inverse_penalty"] in STRENGTHS
    assert found["labels"] == ["green", "red"]
    artifact = place / "models/tiny-colours/2"
    assert {path.name for path in artifact.iterdir()} > {"model.onnx", "saved_model.pb", "golden.npz", "card.json"}
    golden = np.load(artifact / "golden.npz")
    outputs = run_outputs(artifact, golden["image"], ["probabilities", "unfamiliarity"])
    np.testing.assert_allclose(outputs[0], golden["probabilities"], atol=found["exactness"]["float32_limit"])
    images = np.full((1, 8, 8, 3), COLOURS["red"], np.uint8)
    assert run_onnx(artifact, images).argmax() == 1
    assert Predictor.open(artifact).predict(list(images))[0].version == 2


def test_only_the_classifier_is_converted(place: Path) -> None:
    """Seconds go where the network is converted again, or written twice."""
    assert [(len(spec.shape), spec.dtype) for spec in converted] == [(2, tf.float32)]  # features, no pictures
    model = SavedModel.FromString((place / "models/tiny-colours/3/saved_model.pb").read_bytes())
    functions = model.meta_graphs[0].graph_def.library.function
    assert sum(any(node.name.startswith("body/") for node in function.node_def) for function in functions) == 1


def test_a_new_class_is_learnt(place: Path) -> None:
    found = card(place, 3)
    assert found["labels"] == ["blue", "green", "red"]
    assert found["metrics"]["accuracy"] > 0.9
    images = np.stack([np.full((8, 8, 3), COLOURS[label], np.uint8) for label in found["labels"]])
    assert run_onnx(place / "models/tiny-colours/3", images).argmax(axis=1).tolist() == [0, 1, 2]


def test_test_pictures_stay_and_the_network_has_learnt_from_none(place: Path) -> None:
    runs = [memory(place / f"runs/tiny-colours/{version}") for version in (1, 2, 3)]
    assert all(runs)
    first, second, third = (run for run in runs if run)
    assert set(first.tested) < set(second.tested) < set(third.tested)
    assert not set(first.learnt) & set(third.tested)
    assert len(first.validated)
    blue = set(digests(sorted((place / "colours/blue").iterdir())))
    assert len(blue & set(third.tested)) == 6  # a fifth
    assert len(second.tested) == 20


def test_the_threshold_and_the_folds_come_from_what_the_network_has_not_learnt(place: Path) -> None:
    known = memory(place / "runs/tiny-colours/1")
    assert known
    new = 100 - 20 - len(known.learnt)  # of version 2's training pictures
    assert card(place, 2)["folds"]["pictures"] == new
    assert card(place, 2)["unfamiliarity"]["validation"] == new


def test_the_report_compares_with_the_version_before(place: Path) -> None:
    report = (place / "runs/tiny-colours/3/report.html").read_text()
    assert "Beside version 2" in report
    assert "Curves" not in report


def test_pictures_in_the_wrong_folder_are_named(place: Path) -> None:
    record = json.loads((place / "runs/tiny-colours/3/run.json").read_text())
    assert {(found["label"], found["looks_like"]) for found in record["doubted"][:2]} == {("red", "blue")}
    assert {Path(found["file"]).name for found in record["doubted"][:2]} == {"red-e60x.png", "red-f61x.png"}
    with (place / "runs/tiny-colours/3/doubted.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["file"] for row in rows] == [found["file"] for found in record["doubted"]]
    assert all(Path(row["file"]).is_file() for row in rows)
    report = (place / "runs/tiny-colours/3/report.html").read_text()
    assert "Labels in doubt" in report
    assert "red/red-e60x.png" in report


def test_doubts_of_left_and_right_are_warned_of(place: Path, tmp_path: Path) -> None:
    assert _left_and_right(place / "models/tiny-colours") == (LEFT_AND_RIGHT in card(place, 3)["warnings"])
    for version, name, copies, expected in (
        (1, "transfer", ["flip", "crop"], False),
        (2, "quick", [], False),
        (3, "transfer", ["crop"], True),
        (10, "quick", [], True),
        (11, "notebook", [], False),
    ):
        (tmp_path / str(version)).mkdir()
        (tmp_path / str(version) / "card.json").write_text(
            json.dumps({"recipe": {"name": name, "augmentation": copies}})
        )
        assert _left_and_right(tmp_path) is expected


def test_an_evaluation_leaves_out_what_was_learnt(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--data", str(place / "colours"), "--runs", str(place / "runs")]
    assert evaluate([str(place / "models/tiny-colours/3"), *options]) == 0
    assert re.search(r"on 26 images that it was not trained on.*agrees", capsys.readouterr().out)


def test_features_are_computed_once_whatever_a_file_is_called(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pictures that a service kept have names without an ending, and a person sorts them into the folders."""
    draw(place / "kept", "blue", range(100, 102))
    for i, file in enumerate(sorted((place / "kept/blue").iterdir())):
        file.rename(place / f"colours/blue/{i:032x}")
    with monkeypatch.context() as patched:
        patched.setattr(kept_features, "_compute", interrupted_after_one)
        assert main(["_tiny", "--data", str(place / "colours"), "--quick", *out(place)]) == 130
    told = capsys.readouterr()
    assert "132 of 134 pictures are known, 2 to compute" in told.out
    assert "features that were computed are kept" in told.err
    fit(place, "--quick")
    told = capsys.readouterr()
    assert "133 of 134 pictures are known, 1 to compute" in told.out
    assert f"python -m training.fit _tiny --data {place / 'colours'}" in told.out
    assert "--quick" not in told.out.partition("To train the network")[2].partition("published")[0]


@pytest.mark.parametrize("asked", ["--quick", "--qu", "--recipe quick", "--recipe=quick", "--quick --rec quick"])
def test_the_offer_trains_the_whole_network(asked: str) -> None:
    words = ["efficientnet_lite0", "--data", "quick", *asked.split(), "--resize", "pad"]
    assert _without_quick(words) == ["efficientnet_lite0", "--data", "quick", "--resize", "pad"]


def out(place: Path) -> list[str]:
    return ["--output", str(place / "models"), "--runs", str(place / "runs")]


def interrupted_after_one(body: Any, images: np.ndarray, indices: list[int], names: list[bytes]) -> None:
    compute(body, images, indices[:1], names[:1])
    with (body.folder / "rows").open("ab") as rows:
        rows.write(b"half a row")
    raise KeyboardInterrupt


compute = kept_features._compute


def test_what_is_kept_is_bounded_listed_and_cleared(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = place / "copy/features"
    folder.mkdir(parents=True)
    for k, name in enumerate(("old", "new")):
        (folder / name).mkdir()
        (folder / name / "body.json").write_text(json.dumps({"key": name}))
        (folder / name / "rows").write_bytes(bytes(1000))
        (folder / name / "digests").write_bytes(bytes(32))
        os.utime(folder / name, (k, k))
    assert [(key, count) for key, count, _ in held(folder)] == [("new", 2), ("old", 2)]
    bound(folder, folder / "old", most=1500)
    assert [key for key, _, _ in held(folder)] == ["old"]
    bound(folder, folder / "old", most=100)
    assert [(key, count) for key, count, _ in held(folder)] == [("old", 0)]
    assert features.main(["--runs", str(place / "copy")]) == 0
    assert re.search(r"old +0 pictures", capsys.readouterr().out)
    assert features.main(["--runs", str(place / "copy"), "--clear"]) == 0
    assert not folder.exists()
    assert size_of(folder) == 0
    capsys.readouterr()
    for option in ([], ["--clear"]):
        assert features.main(["--runs", str(place / "copy"), *option]) == 0
        assert capsys.readouterr().out == f"no features are kept in {folder}\n"


def test_films_count_once_in_every_figure(place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for kept in ("models/tiny-colours/1", "runs/tiny-colours/1", "runs/features"):
        shutil.copytree(place / kept, tmp_path / kept)
    for label in ("red", "green"):
        for film in range(5):
            draw(tmp_path / "colours" / label, f"film{film}", range(200 + 10 * film, 206 + 10 * film), label)
    fit(tmp_path, "--quick")
    assert "12 images of 2 groups)" in capsys.readouterr().out
    found = card(tmp_path, 2)
    assert (found["dataset"]["test"], found["dataset"]["test_groups"]) == (12, 2)
    assert found["intervals"]["accuracy"] == list(wilson_interval(found["metrics"]["accuracy"], 2))
    assert any("2 groups of test images are few" in text for text in found["warnings"])
    assert (found["folds"]["pictures"], found["folds"]["groups"]) == (48, 8)
    assert found["unfamiliarity"]["interval"] == list(wilson_interval(found["unfamiliarity"]["share"], 8))
    assert found["threshold"] is None  # eight films are too few to rely on, whatever their frames


def test_a_network_that_has_learnt_nothing_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for label in ("red", "green"):
        draw(tmp_path / "colours", label, range(4))
    assert main(["_tiny", "--data", str(tmp_path / "colours"), "--quick", *out(tmp_path)]) == 1
    assert "--quick needs a network that has learnt" in capsys.readouterr().err
    assert not list(tmp_path.glob("models/*/*"))


@pytest.mark.parametrize("option", ["--resume", "--epochs=2", "--no-flip", "--recipe=augmented"])
def test_quick_takes_no_option_of_a_training(option: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["_tiny", "--data", "anywhere", "--quick", option])
    assert option.partition("=")[0] in capsys.readouterr().err


def test_arrays_take_no_resize(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["_tiny", "--data", "toys.npz", "--resize", "pad"])
    assert "--resize is for picture files, in a folder or a CSV; toys.npz holds arrays" in capsys.readouterr().err
