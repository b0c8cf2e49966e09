"""BentoML's own clients find the service's methods and call them; so does another BentoML service."""

import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pytest

from tests.fixtures import bentoml_calls
from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import PYTHON, ROOT, Client, environment, free_port


@pytest.fixture(scope="module")
def answers(service: Client, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    folder = tmp_path_factory.mktemp("pictures")
    files = [folder / "seven.png", folder / "one.png"]
    for file, text in zip(files, "71", strict=True):
        file.write_bytes(encode(digit(text)))
    url = f"http://127.0.0.1:{service.port}"
    command = [sys.executable, str(bentoml_calls.__file__), url, *map(str, files)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return found


def test_schema_names_the_methods(service: Client) -> None:
    routes = {route["name"]: route["route"] for route in service.get("/schema.json").json()["routes"]}
    assert routes == {"classify": "/classify", "classify_batch": "/classify/batch"}


@pytest.mark.parametrize("way", ["path", "text", "async"])
def test_answer_is_that_of_classify(service: Client, answers: dict[str, Any], way: str) -> None:
    assert answers[way] == service.post("/classify", encode(digit("7"))).json()


def test_parameters_arrive(answers: dict[str, Any]) -> None:
    assert answers["ready"]
    assert answers["pil"]["predictions"] == answers["path"]["predictions"][:1]
    assert (answers["chosen"]["model"], answers["chosen"]["version"]) == ("toy-colours", 1)
    assert answers["chosen"]["unsure"] == "low_probability"


def test_batch_keeps_its_order(answers: dict[str, Any]) -> None:
    assert [result["predictions"][0]["label"] for result in answers["batch"]["results"]] == ["7", "1"]


def test_failure_reaches_the_caller(answers: dict[str, Any]) -> None:
    assert "no model 'nobody'" in answers["failure"]


@pytest.mark.thorough
def test_another_service_depends_on_it(service: Client, tmp_path: Path) -> None:
    """A real one, since BentoML finds the methods of a dependency when a service starts."""
    (tmp_path / "seven.png").write_bytes(encode(digit("7")))
    port = free_port()
    command = [PYTHON, "-m", "bentoml", "serve", "tests.fixtures.bentoml_caller:Caller", "--port", str(port)]
    with (tmp_path / "log").open("wb") as log:
        caller = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment() | {"CLASSIFIER_URL": f"http://127.0.0.1:{service.port}"},
            stdout=log,
            stderr=log,
        )
    try:
        answer = _ask_when_ready(caller, port, {"picture": str(tmp_path / "seven.png")}, tmp_path / "log")
    finally:
        caller.terminate()
        caller.wait(120)
    assert answer == service.post("/classify", encode(digit("7"))).json()


def _ask_when_ready(caller: "subprocess.Popen[bytes]", port: int, content: dict[str, str], log: Path) -> Any:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/ask", json.dumps(content).encode(), {"Content-Type": "application/json"}
    )
    deadline = time.monotonic() + 300
    while True:
        try:
            with urllib.request.urlopen(request, timeout=60) as response:
                return json.load(response)
        except urllib.error.HTTPError as err:
            raise AssertionError(f"{err.read()!r}\n{log.read_text()[-3000:]}") from err
        except OSError:
            assert caller.poll() is None, log.read_text()[-3000:]
            assert time.monotonic() < deadline, log.read_text()[-3000:]
            time.sleep(0.2)
