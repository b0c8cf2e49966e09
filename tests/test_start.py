"""How the service starts, and that it does not when something is wrong: one line, non-zero, within ten seconds."""

import shutil
import subprocess
import time
from pathlib import Path

import onnxruntime as ort
import pytest

from tests.fixtures import toy
from tests.fixtures.server import PYTHON, ROOT, command, environment, free_port, running

LIMIT_SECONDS = 10


def failed_start(**settings: str) -> str:
    """The output of a start that must fail in time."""
    started = time.monotonic()
    done = subprocess.run(
        command(free_port()), cwd=ROOT, env=environment(**settings), capture_output=True, text=True, timeout=60
    )
    assert time.monotonic() - started < LIMIT_SECONDS
    assert done.returncode != 0
    output = done.stdout + done.stderr
    assert "Traceback" not in output
    return output


def the_error(output: str) -> str:
    (line,) = [line for line in output.splitlines() if line.startswith("error: ")]
    return line


@pytest.mark.parametrize("file", ["model.onnx", "golden.npz", "card.json"])
def test_a_damaged_artifact_ends_the_start_naming_the_file(models: Path, tmp_path: Path, file: str) -> None:
    folder = tmp_path / "models"
    shutil.copytree(models, folder)
    damaged = folder / "toy-colours" / "2" / file
    damaged.write_bytes(damaged.read_bytes()[:-7])
    assert str(damaged) in the_error(failed_start(models=str(folder)))


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime was built with CUDA"
)
def test_a_demanded_gpu_that_is_not_there_ends_the_start(models: Path) -> None:
    line = the_error(failed_start(models=str(models), provider="cuda"))
    assert "SHORTCUT_PROVIDER=cuda" in line
    assert "CUDA" in line


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"queue": "lots"}, "SHORTCUT_QUEUE=lots"),
        ({"default_model": "nobody"}, "SHORTCUT_DEFAULT_MODEL=nobody"),
        ({"versions": "toy-colours:9"}, "toy-colours:9"),
        ({"models": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_a_wrong_setting_ends_the_start_naming_it(models: Path, settings: dict[str, str], told: str) -> None:
    assert told in the_error(failed_start(**({"models": str(models)} | settings)))


def test_a_new_version_is_served_after_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "models"
    for version in (1, 2):
        toy.write_artifact(folder, version=version)
        with running(tmp_path / "log", models=str(folder), default_model="toy-colours", workers="1") as client:
            assert client.get("/models").json()["models"][0]["versions"][0]["version"] == version


def test_the_serving_environment_has_no_tensorflow() -> None:
    if str(ROOT / ".venv" / "bin" / "python") != PYTHON:
        pytest.skip("the serving environment is not built here")
    found = subprocess.run(
        [PYTHON, "-c", "import importlib.util as u; print([m for m in ('tensorflow', 'keras') if u.find_spec(m)])"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "[]"
