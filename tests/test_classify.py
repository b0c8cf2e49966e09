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
