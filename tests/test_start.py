"""How the service starts, and that it does not when something is wrong: one line, non-zero, within ten seconds."""

import os
import resource
import shutil
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import onnxruntime as ort
import pytest

from serving.edge.address import Address
from serving.engine.measurements import Measurements
from serving.errors import StartError
from serving.repository.models import verify
from serving.settings import Settings
from tests.fixtures import toy
from tests.fixtures.server import CACHE, PYTHON, ROOT, Client, command, environment, free_port, running

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


def refused(**settings: str) -> str:
    """What ends the start, asked of the functions that the service calls before it has workers."""

    def start() -> None:
        chosen = Settings.from_environment({f"SHORTCUT_{name.upper()}": value for name, value in settings.items()})
        list(verify(chosen, 1, Measurements(Path(CACHE.name))))

    with pytest.raises(StartError) as caught:
        start()
    return str(caught.value)


def damaged(models: Path, folder: Path, file: str) -> tuple[Path, Path]:
    """A copy of `models`, and the file in it that lacks its end."""
    shutil.copytree(models, folder)
    path = folder / "toy-colours" / "2" / file
    path.write_bytes(path.read_bytes()[:-7])
    return folder, path


@pytest.mark.parametrize("name", ["model.onnx", "golden.npz", "card.json"])
def test_every_file_of_an_artifact_is_looked_at(models: Path, tmp_path: Path, name: str) -> None:
    folder, file = damaged(models, tmp_path / "models", name)
    assert str(file) in refused(models=str(folder))


@pytest.mark.thorough  # the test above, by a start; a port that is taken ends one at the same step
def test_a_damaged_artifact_ends_the_start_naming_the_file(models: Path, tmp_path: Path) -> None:
    folder, file = damaged(models, tmp_path / "models", "model.onnx")
    assert str(file) in the_error(failed_start(models=str(folder)))


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime was built with CUDA"
)
def test_a_demanded_gpu_that_is_not_there_ends_the_start(models: Path) -> None:
    told = refused(models=str(models), provider="cuda")
    assert "SHORTCUT_PROVIDER=cuda" in told
    assert "CUDA" in told


def test_a_wrong_setting_ends_the_start_naming_it(models: Path) -> None:
    assert "SHORTCUT_QUEUE=lots" in the_error(failed_start(models=str(models), queue="lots"))


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"default_model": "nobody"}, "SHORTCUT_DEFAULT_MODEL=nobody"),
        ({"versions": "toy-colours:9"}, "toy-colours:9"),
        ({"models": "no/such/folder"}, "no/such/folder"),
    ],
)
def test_a_setting_that_does_not_fit_the_models_is_named(models: Path, settings: dict[str, str], told: str) -> None:
    assert told in refused(**({"models": str(models)} | settings))


@contextmanager
def started(folder: Path, *options: str) -> Iterator[Client]:
    """A service of the newest version of toy-colours in `folder`, for a user without a home."""
    settings = {"models": str(folder / "models"), "default_model": "toy-colours", "workers": "1"}
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("HOME")
        with running(folder / "log", *options, **settings) as client:
            yield client


@pytest.mark.thorough  # a repository that is made anew takes the newest: repository/test_models.py
def test_a_new_version_is_served_after_a_restart(tmp_path: Path) -> None:
    for version in (1, 2):
        toy.write_artifact(tmp_path / "models", version=version)
        with started(tmp_path) as client:
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
    told = refused(models=str(models), api_key="sha256:" + "0" * 64)
    assert told == "SHORTCUT_API_KEY: there is no such setting; did you mean SHORTCUT_API_KEYS?"


def test_an_address_where_nothing_can_listen_ends_the_start_with_one_line(models: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f":{port}: another program listens there" in the_error(failed_start("--port", port, models=str(models)))
    with pytest.raises(StartError, match=r"^--port 99999: a port is a number from 0 to 65535$"):
        Address("0.0.0.0", 99999).check()
    with pytest.raises(StartError, match="this machine has no such address"):
        Address("192.0.2.1", 3000).check()


def test_the_start_says_where_it_listens_and_who_may_come_in(
    service: Client, tmp_path_factory: pytest.TempPathFactory, tmp_path: Path
) -> None:
    """The service of all tests listens on all addresses, and another one on this machine's own."""
    toy.write_artifact(tmp_path / "models")
    with started(tmp_path, "--host", "127.0.0.1") as own:
        assert own.get("/livez").status == 200
    log = next(tmp_path_factory.getbasetemp().glob("log*/service.log"))
    for file, where, said in (
        (log, f"0.0.0.0:{service.port}", True),
        (tmp_path / "log", f"127.0.0.1:{own.port}", False),
    ):
        written = file.read_text()
        assert f"starting on {where}" in written
        assert ("everybody who reaches" in written) is said
        ours = [line for line in written.splitlines() if "shortcut: " in line]
        assert len(ours) >= 3
        assert max(map(len, ours)) < 150  # a line a model, and the reasons in GET /models


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
