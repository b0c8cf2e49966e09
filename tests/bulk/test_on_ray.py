"""Bulk work on Ray itself, in its own environment: `make bulk-test`. An actor dies, a run is stopped and goes on."""

import contextlib
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pyarrow.parquet
import pytest

from serving.repository.answers import Answer, rank
from serving.repository.predictor import Predictor
from tests.bulk.conftest import pictures, write_parquet, write_tar
from tests.fixtures import toy
from tests.fixtures.server import ROOT, environment

pytestmark = pytest.mark.bulk
PYTHON = ROOT / ".venv-bulk" / "bin" / "python"
START_SECONDS = 600  # of Ray and its actors, on a loaded machine
MANY = 4000


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bulk") / "models"
    toy.write_artifact(folder)
    toy.write_artifact(folder, "toy-slow", effort=3)
    return folder


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("many")
    contents = list(pictures(35).values())
    for number in range(MANY):
        (folder / f"{number:05}.png").write_bytes(contents[number % 35])
    return folder


def start(models: Path, *arguments: object) -> "subprocess.Popen[str]":
    if not PYTHON.exists():
        pytest.skip(".venv-bulk is missing: `make bulk-test` makes it")
    settings = environment(models=str(models), default_model="toy-colours")
    process = subprocess.Popen(
        [str(PYTHON), "-m", "serving.bulk", *map(str, arguments)],
        cwd=ROOT,
        env=settings,
        stdout=(log := tempfile.NamedTemporaryFile("w")),  # noqa: SIM115 (ends with the process)
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )
    _STARTED.append((process, log))
    return process


_STARTED: list[tuple["subprocess.Popen[str]", Any]] = []


def said_by(process: "subprocess.Popen[str]") -> str:
    """So far."""
    [log] = [log for one, log in _STARTED if one is process]
    return Path(log.name).read_text()


@pytest.fixture(autouse=True)
def _nothing_is_left() -> Iterator[None]:
    """What a failed test has started ends with it, Ray's processes too."""
    yield
    while _STARTED:
        process, log = _STARTED.pop()
        if process.poll() is None:
            for one in (*psutil.Process(process.pid).children(recursive=True), psutil.Process(process.pid)):
                with contextlib.suppress(psutil.NoSuchProcess):
                    one.kill()
        process.wait(10)
        log.close()


def finished(process: "subprocess.Popen[str]", status: int = 0) -> str:
    process.wait(START_SECONDS)
    said = said_by(process)
    print(said, file=sys.stderr)
    assert process.returncode == status, said
    return said


def answers(path: Path) -> dict[str, str]:
    found = pyarrow.parquet.read_table(path)
    names = found["file"].to_pylist()
    assert len(set(names)) == len(names)
    return dict(zip(names, found["label"].to_pylist(), strict=True))


def actors(process: "subprocess.Popen[str]") -> list[psutil.Process]:
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        try:
            if "MapWorker" in child.name() or "MapWorker" in " ".join(child.cmdline()):
                found.append(child)
        except psutil.Error:  # it has just ended
            continue
    return found


def wait_for(holds: Callable[[], object], process: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + START_SECONDS
    while not holds():
        assert process.poll() is None, said_by(process)
        assert time.monotonic() < deadline
        time.sleep(0.2)


def test_tar_and_parquet_with_a_bad_picture(models: Path, tmp_path: Path) -> None:
    contents = pictures(70) | {"bad.png": b"no picture"}
    write_tar(tmp_path / "x.tar", contents)
    write_parquet(tmp_path / "x.parquet", list(contents.values()), 20)
    (tmp_path / "list.txt").write_text("x.tar\nx.parquet\n")
    output = tmp_path / "answers.parquet"
    said = finished(start(models, tmp_path / "list.txt", "--output", output, "--actors", "2", "--top-k", "2"))
    assert "142 pictures, 2 with errors" in said
    assert re.search(r"142 answered now in .* images/s", said)
    assert "x.tar#bad.png: the bytes are no image" in said
    found = answers(output)
    predictor = Predictor.open(models / "toy-colours")
    for row, (name, outcome) in enumerate(zip(contents, predictor.predict(list(contents.values())), strict=True)):
        label = outcome.labels[rank(outcome, 1).best[0][0]] if isinstance(outcome, Answer) else None
        assert found[f"x.tar#{name}"] == found[f"x.parquet#{row}"] == label


def test_killed_actor_costs_no_answer(models: Path, many: Path, tmp_path: Path) -> None:
    output = tmp_path / "answers.parquet"
    process = start(models, many, "--output", output, "--model", "toy-slow", "--actors", "2")
    wait_for(lambda: len(actors(process)) >= 2, process)
    time.sleep(1)
    actors(process)[0].kill()
    finished(process)
    assert len(answers(output)) == MANY


def test_stopped_run_goes_on(models: Path, many: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "answers.parquet"
    arguments = (many, "--output", output, "--model", "toy-slow", "--actors", "1")
    process = start(models, *arguments)
    parts = output.with_name("answers.parquet.parts")
    wait_for(lambda: f" of {MANY:,} pictures" in said_by(process), process)  # some are answered
    os.kill(process.pid, signal.SIGTERM)
    said = finished(process, 130)
    assert "the same command goes on" in said
    assert not output.exists()
    kept = sum(pyarrow.parquet.read_metadata(part).num_rows for part in parts.glob("*.parquet"))
    said = finished(start(models, *arguments))
    assert f"{MANY - kept:,} answered now" in said
    assert len(answers(output)) == MANY
    assert not parts.exists()
