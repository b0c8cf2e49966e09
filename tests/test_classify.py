import csv
import json
from pathlib import Path

import pytest

from serving import classify
from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import CACHE, Client


@pytest.fixture(autouse=True)
def _serve_the_test_models(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORTCUT_MODELS", str(models))
    monkeypatch.setenv("SHORTCUT_CACHE", CACHE.name)
    monkeypatch.setenv("SHORTCUT_PROVIDER", "cpu")  # as the service's


def test_files_get_the_services_answer(tmp_path: Path, service: Client, capsys: pytest.CaptureFixture[str]) -> None:
    files = []
    for text in "73":
        files.append(tmp_path / f"{text}.png")
        files[-1].write_bytes(encode(digit(text)))
    assert classify.main([str(file) for file in files]) == 0
    printed = json.loads(capsys.readouterr().out)
    for file, result in zip(files, printed["results"], strict=True):
        answer = service.post("/classify", file.read_bytes()).json()
        assert result["predictions"] == answer["predictions"]
        assert printed["model"] == answer["model"]


def test_a_bad_file_is_told_beside_the_good_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "good.png").write_bytes(encode(digit("1")))
    (tmp_path / "bad.png").write_bytes(b"no picture")
    names = [str(tmp_path / name) for name in ("good.png", "bad.png", "missing.png")]
    assert classify.main([*names, "--top-k", "1"]) == 1
    good, bad, missing = json.loads(capsys.readouterr().out)["results"]
    assert good["predictions"][0]["label"] == "1"
    assert bad["code"] == "invalid_image"
    assert "No such file" in missing["error"]


def test_model_and_version_are_chosen(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "a.png").write_bytes(encode(digit("1")))
    assert classify.main([str(tmp_path / "a.png"), "--model", "toy-colours", "--version", "1"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert (printed["model"], printed["version"]) == ("toy-colours", 1)


def test_an_unknown_model_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    assert classify.main(["a.png", "--model", "nobody"]) == 1
    assert capsys.readouterr().err.count("\n") == 1


def folder_of_digits(folder: Path) -> Path:
    """Two digits in folders, one damaged picture, and what is no picture."""
    (folder / "b" / "deeper").mkdir(parents=True)
    (folder / "__MACOSX").mkdir()
    (folder / "b" / "deeper" / "one.PNG").write_bytes(encode(digit("1")))
    (folder / "seven.png").write_bytes(encode(digit("7")))
    for other in ("bad.jpg", "notes.txt", ".hidden.png", "__MACOSX/seven.png"):
        (folder / other).write_bytes(b"no picture")
    return folder


def test_a_folder_becomes_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = folder_of_digits(tmp_path)
    assert classify.main([str(folder)]) == 1  # for the damaged one
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [(line[0], line[-1]) for line in lines] == [
        ("error:", str(folder / "bad.jpg")),
        ("7", str(folder / "seven.png")),
        ("1", str(folder / "b" / "deeper" / "one.PNG")),
    ]


def test_a_csv_has_a_row_for_each_picture_with_the_same_answers(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, table = folder_of_digits(tmp_path / "pictures"), tmp_path / "out.csv"
    assert classify.main([str(folder), "--csv", str(table), "--top-k", "2"]) == 1
    assert f"wrote {table}: 3 pictures, 1 with errors" in capsys.readouterr().out
    with table.open(newline="") as file:
        bad, seven, one = csv.DictReader(file)
    assert (bad["label_1"], bad["error"][:20]) == ("", "the bytes are no ima")
    assert (seven["label_1"], one["label_1"], seven["error"]) == ("7", "1", "")
    assert classify.main([seven["file"], "--top-k", "2"]) == 0
    (printed,) = json.loads(capsys.readouterr().out)["results"]
    for k, found in enumerate(printed["predictions"], 1):
        assert (seven[f"label_{k}"], seven[f"probability_{k}"]) == (found["label"], str(found["probability"]))


def test_more_pictures_than_are_in_flight_keep_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for i in range(2 * classify.AT_ONCE + 3):
        (tmp_path / f"{i:03}.png").write_bytes(encode(digit("17"[i % 2])))
    assert classify.main([str(tmp_path)]) == 0
    labels = [line.split()[0] for line in capsys.readouterr().out.splitlines()]
    assert labels == ["17"[i % 2] for i in range(2 * classify.AT_ONCE + 3)]


def test_a_folder_without_pictures_and_a_place_that_cannot_be_written_are_one_line(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "seven.png").write_bytes(encode(digit("7")))
    (tmp_path / "empty").mkdir()
    for arguments in ([str(tmp_path / "empty")], [str(tmp_path), "--csv", str(tmp_path / "no" / "out.csv")]):
        assert classify.main(arguments) == 1
        assert capsys.readouterr().err.count("\n") == 1
