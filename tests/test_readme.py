"""The README is true and short: its first screen gives the printed answers in a fresh clone, its tree is the tree."""

import http.client
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path

import pytest

from tests.fixtures.inside import running_inside
from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import ROOT, committed_artifacts, environment, free_port, running
from training import cards

pytest_plugins = ["tests.fixtures.training"]

README = (ROOT / "README.md").read_text()
FIRST_SCREEN = README.partition("\n## ")[0]


def tracked() -> list[str]:
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    if listed.returncode:
        pytest.skip("not a git checkout")
    return listed.stdout.splitlines()


def console(page: str) -> list[tuple[str, str]]:
    """The commands of its console blocks, each with what is printed below it."""
    blocks = re.findall(r"```console\n(.*?)```", page, re.S)
    return [pair for block in blocks for pair in re.findall(r"^\$ (.*)\n((?:[^$].*\n)*)", block, re.M)]


def test_readme_is_short() -> None:
    assert len(README.splitlines()) <= 140
    assert len(README.split()) <= 1300


# The first screen


@contextmanager
def made(clone: Path, port: int, log: Path) -> Iterator[None]:
    """`make serve` in a clone, with the environment of this checkout, until the port answers as ready."""
    (clone / ".venv").mkdir()
    (clone / ".venv" / "bin").symlink_to(ROOT / ".venv" / "bin")
    shutil.copy(ROOT / "requirements" / "serving.txt", clone / ".venv" / "ready")  # newer than what make compares
    settings = environment(workers="1") | {"PORT": str(port), "DEVICE": "cpu"}
    for name in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS"):  # of a make that runs these tests
        settings.pop(name, None)
    with log.open("wb") as output:
        serving = subprocess.Popen(
            ["make", "serve"], cwd=clone, env=settings, stdout=output, stderr=output, start_new_session=True
        )
    try:
        while not ready(port):
            assert serving.poll() is None, log.read_text()
            time.sleep(0.2)
        yield
    finally:
        os.killpg(serving.pid, signal.SIGTERM)
        serving.wait(60)


def ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def test_first_screen_gives_the_printed_answers_in_a_fresh_clone(tmp_path: Path) -> None:
    if not (ROOT / ".venv" / "ready").exists():
        pytest.skip("`make test` builds .venv")
    tracked()
    clone = tmp_path / "shortcut"
    subprocess.run(["git", "clone", "--quiet", "--local", str(ROOT), str(clone)], check=True)
    (serve, _), *asked = console(FIRST_SCREEN)
    assert serve == "make serve"
    assert len(asked) == 2
    port = free_port()
    with made(clone, port, tmp_path / "log"):
        for command, printed in asked:
            assert command.startswith("curl ")
            real = command.replace("localhost:3000", f"127.0.0.1:{port}") + " -s"
            done = subprocess.run(["sh", "-c", real], cwd=clone, capture_output=True, text=True, check=True)
            answer, shown = json.loads(done.stdout), json.loads(printed)
            assert answer.keys() == shown.keys()
            assert (answer["model"], answer["version"]) == (shown["model"], shown["version"])
            best, expected = answer["predictions"][0], shown["predictions"][0]
            assert best["label"] == expected["label"]
            assert abs(best["probability"] - expected["probability"]) < 0.01


@pytest.mark.usefixtures("cheaply", "keep_sigterm")
def test_own_pictures_become_a_served_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, photo_network: str
) -> None:
    """Its five lines, on drawn pictures: smaller ones and for one epoch, but by the same commands."""
    (section,) = re.findall(r"## Your own pictures\n(.*?)^## ", README, re.S | re.M)
    pairs = console(section)
    lines = [shlex.split(line, comments=True) for line, _ in pairs]
    (_, folder), (_, target, arguments), evaluate, (setting, *serve), curl = lines
    assert serve == ["make", "serve"]
    shown = pairs[0][1].split()
    for i in range(24):
        encoded = encode(
            digit("17"[i % 2], (40 + i, 50), ink=(255, 10 * i, 0), ground=(0, 0, 9 * i), mode="RGB"), "JPEG"
        )
        for place in (tmp_path / folder, tmp_path / "more") if i < 20 else (tmp_path / "more",):
            (place / shown[i % 2]).mkdir(parents=True, exist_ok=True)
            (place / shown[i % 2] / f"{i}.jpg").write_bytes(encoded)
    (tmp_path / "new.jpg").write_bytes(encoded)

    # What make would run here: it is not run, since it would set up what the tests run in.
    # Nor does it know of a make that runs these tests, which would say in which folder it is.
    clean = {name: value for name, value in os.environ.items() if name not in ("MAKEFLAGS", "MAKELEVEL", "MFLAGS")}
    told = subprocess.run(
        ["make", "-n", target, arguments], cwd=ROOT, env=clean, capture_output=True, text=True, check=True
    )
    train = shlex.split(told.stdout.splitlines()[-1])
    monkeypatch.chdir(tmp_path)
    for command in ([*train, "--image-size", "32", "--epochs", "1"], evaluate):
        assert command[:2] == [".venv-dev/bin/python", "-m"]
        assert import_module(command[2]).main(command[3:]) == 0
    assert len((tmp_path / "answers.csv").read_text().splitlines()) == 1 + 24

    (name,) = re.findall(r"^SHORTCUT_DEFAULT_MODEL=(.*)$", setting)
    serving = running_inside if photo_network == "small" else running
    with serving(tmp_path / "log", models=str(tmp_path / "models"), default_model=name, workers="1") as service:
        real = [argument.replace("localhost:3000", f"127.0.0.1:{service.port}") for argument in curl]
        done = subprocess.run([*real, "-s"], cwd=tmp_path, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    assert answer["model"] == name
    assert {found["label"] for found in answer["predictions"]} == set(shown)


# What it names


def test_every_top_level_folder_is_in_the_tree() -> None:
    (block,) = re.findall(r"## Where things are\n\n```\n(.*?)```", README, re.S)
    lines = block.splitlines()
    assert len(lines) <= 10
    named = {name for line in lines for name in re.findall(r"(\S+)/", line[:27])}
    assert named == {path.split("/")[0] for path in tracked() if "/" in path}
    assert all(line[27:].strip() for line in lines)


def test_table_of_models_is_of_the_cards(tmp_path: Path) -> None:
    for artifact in committed_artifacts():
        copy = tmp_path / artifact.relative_to(ROOT)
        copy.mkdir(parents=True)
        shutil.copy(artifact / "card.json", copy)
    (tmp_path / "docs").mkdir()
    for page in ("models/README.md", cards.SERVED):
        shutil.copy(ROOT / page, tmp_path / page)
    assert cards.main(["--models", str(tmp_path / "models"), "--check"]) == 0
