"""How the service starts, and that it does not when something is wrong: one line, non-zero, within ten seconds."""

import os
import resource
import shutil
import socket
import subprocess
from pathlib import Path

import onnxruntime as ort
import pytest

from tests.fixtures import toy
from tests.fixtures.server import PYTHON, ROOT, command, environment, free_port, running

LIMIT_SECONDS = 10  # of a processor: what else the machine does is not the start's fault


def failed_start(*options: str, **settings: str) -> str:
    """The output of a start that must fail in time."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    line = [*command(free_port()), *options]
    done = subprocess.run(line, cwd=ROOT, env=environment(**settings), capture_output=True, text=True, timeout=120)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < LIMIT_SECONDS
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


def test_a_misspelt_setting_ends_the_start(models: Path) -> None:
    line = the_error(failed_start(models=str(models), api_key="sha256:" + "0" * 64))
    assert line == "error: SHORTCUT_API_KEY: there is no such setting; did you mean SHORTCUT_API_KEYS?"


def test_an_address_where_nothing_can_listen_ends_the_start_with_one_line(models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f":{port}: another program listens there" in the_error(failed_start("--port", port, models=str(models)))
    outside = the_error(failed_start("--port", "99999", models=str(models)))
    assert outside == "error: --port 99999: a port is a number from 0 to 65535"
    foreign = the_error(failed_start("--host", "192.0.2.1", models=str(models)))
    assert "this machine has no such address" in foreign


@pytest.mark.parametrize(("options", "said"), [(("--host", "127.0.0.1"), False), ((), True)])
def test_the_start_says_where_it_listens_and_who_may_come_in(
    models: Path, tmp_path: Path, options: tuple[str, ...], said: bool
) -> None:
    with running(tmp_path / "log", *options, models=str(models), workers="1") as client:
        log = (tmp_path / "log").read_text()
    assert f"starting on {'0.0.0.0' if said else '127.0.0.1'}:{client.port}" in log
    assert ("everybody who reaches" in log) is said
    ours = [line for line in log.splitlines() if "shortcut: " in line]
    assert len(ours) >= 3
    assert max(map(len, ours)) < 150  # a line a model, and the reasons in GET /models


def test_a_user_without_a_home_can_start_it(models: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HOME")
    with running(tmp_path / "log", models=str(models), workers="1") as client:
        assert client.get("/livez").status == 200


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be somebody else")
@pytest.mark.parametrize(("given", "told"), [({}, "/tmp/bentoml-65534"), ({"BENTOML_HOME": "/own"}, "/own")])
def test_make_serve_gives_bentoml_a_home_where_the_user_has_none(given: dict[str, str], told: str) -> None:
    """A user id that nobody made, as OpenShift gives, has HOME=/: BentoML would end with a traceback."""
    recipe = subprocess.run(["make", "-n", "serve"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    line = recipe[recipe.rindex("exec env ") :].replace("\\\n", " ")
    asking = line[: line.index(".venv/bin/bentoml")] + "printenv BENTOML_HOME"
    who = {"HOME": "/", "PATH": os.environ["PATH"]} | given
    done = subprocess.run(
        ["sh", "-c", asking], user=65534, cwd="/", env=who, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == told
