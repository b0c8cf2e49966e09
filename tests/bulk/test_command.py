"""The command itself: mistakes are one line each, before Ray starts; what is answered costs nothing again."""

from pathlib import Path

import pytest

from serving.bulk import __main__ as command
from serving.bulk.parts import Output
from serving.bulk.reading import Classifier
from serving.bulk.sources import chunks
from tests.fixtures.server import CACHE


@pytest.fixture(autouse=True)
def _models(work: object, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHORTCUT_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("SHORTCUT_CACHE", CACHE.name)
    monkeypatch.setenv("SHORTCUT_PROVIDER", "cpu")


def run(*arguments: object) -> int:
    return command.main([str(argument) for argument in arguments])


def test_mistakes_are_one_line(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = ("--output", tmp_path / "a.parquet")
    for arguments, told in (
        ((tmp_path / "nothing", *output), "no such file or folder"),
        ((folder, "--output", tmp_path / "a.csv"), "must end with .parquet"),
        ((folder, *output, "--model", "nobody"), "nobody"),
        ((folder, *output, "--model", tmp_path), "holds neither"),
        ((folder, *output, "--top-k", "0"), "--top-k must be at least 1, got 0"),
        ((folder, *output, "--actors", "0"), "--actors must be at least 1, got 0"),
    ):
        assert run(*arguments) == 1
        said = capsys.readouterr().err
        assert told in said
        assert said.count("\n") == 1
    assert not (tmp_path / "a.parquet").exists()


def test_probability_is_a_share(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        run(folder, "--output", "a.parquet", "--min-probability", "2")
    assert "must be a number from 0 to 1, or card, got 2" in capsys.readouterr().err


def test_all_answered_needs_no_ray(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "a.parquet"
    work = command._work(command._parser().parse_args([str(folder), "--output", str(path)]))
    output = Output(path, command._metadata(work))
    classifier = Classifier(work)
    for chunk in chunks(str(folder)):
        for table in classifier.tables(chunk):
            output.add(table)
    output.flush()  # and then the run was killed
    assert run(folder, "--output", path) == 0
    said = capsys.readouterr()
    assert "13 pictures are answered already, 0 are left" in said.err
    assert "bad.JPG: the bytes are no image" in said.err
    assert "13 pictures, 1 with errors" in said.out
    assert run(folder, "--output", path, "--top-k", "1") == 1
    assert "top_k 3, asked is 1" in capsys.readouterr().err


def test_model_may_be_a_folder(folder: Path, tmp_path: Path) -> None:
    model = tmp_path / "models" / "toy-colours"
    arguments = [str(folder), "--output", "a.parquet", "--model"]
    for named in (model, model / "1"):
        assert command._work(command._parser().parse_args([*arguments, str(named)])).version == 1


def test_rate_leaves_the_start_out() -> None:
    assert str(command.Rate(1500, 12.0, 2.0, 500)) == "100 images/s after a start of 2.0 s"
    assert str(command.Rate(500, 2.0, 2.0, 500)) == "250 images/s, the start of Ray and of the model included"
