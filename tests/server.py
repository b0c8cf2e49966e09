"""The real service as a child process, and plain HTTP to it. Started once per session by conftest."""

import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_SERVING = ROOT / ".venv" / "bin" / "python"  # the environment without TensorFlow; `make test` builds it
PYTHON = str(_SERVING) if _SERVING.exists() else sys.executable


CACHE = tempfile.TemporaryDirectory(prefix="shortcut-tests-")  # of measured providers; not the user's own


@dataclass(frozen=True)
class Answer:
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        return json.loads(self.body)


class Client:
    """One connection per request, so that no test sees another's leftovers."""

    process = 0  # the service's, where it was started here

    def __init__(self, port: int):
        self.port = port

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)

    def request(
        self, method: str, path: str, body: bytes | None = None, headers: Mapping[str, str] | None = None
    ) -> Answer:
        connection = self.connection()
        try:
            connection.request(method, path, body, dict(headers or {}))
            response = connection.getresponse()
            return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())
        finally:
            connection.close()

    def get(self, path: str) -> Answer:
        return self.request("GET", path)

    def post(self, path: str, body: bytes, content_type: str | None = "application/octet-stream") -> Answer:
        return self.request("POST", path, body, {"Content-Type": content_type} if content_type else {})

    def post_form(self, path: str, *parts: tuple[str, str | None, bytes]) -> Answer:
        """Each part is (field, filename or None, bytes)."""
        body, content_type = form(*parts)
        return self.post(path, body, content_type)


def form(*parts: tuple[str, str | None, bytes], boundary: str = "boundary-7f3a") -> tuple[bytes, str]:
    """A multipart/form-data body and its Content-Type."""
    chunks = []
    for name, filename, data in parts:
        named = "" if filename is None else f'; filename="{filename}"'
        head = f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{named}\r\n\r\n'
        chunks += [head.encode(), data, b"\r\n"]
    return b"".join([*chunks, f"--{boundary}--\r\n".encode()]), f"multipart/form-data; boundary={boundary}"


def committed_artifacts() -> list[Path]:
    """models/<name>/<version>/ under version control; not what somebody trained here since."""
    listed = subprocess.run(["git", "ls-files", "models"], cwd=ROOT, capture_output=True, text=True, check=False)
    cards = [ROOT / line for line in listed.stdout.splitlines() if line.endswith("card.json")]
    return sorted(card.parent for card in cards or (ROOT / "models").glob("*/1/card.json"))


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def command(port: int) -> list[str]:
    """What `make serve` runs."""
    return [PYTHON, "-m", "bentoml", "serve", "serving.service:ImageClassifier", "--port", str(port)]


def environment(**settings: str) -> dict[str, str]:
    """This process's environment with SHORTCUT_<NAME> for each setting, and nothing else of that prefix."""
    clean = {name: value for name, value in os.environ.items() if not name.startswith("SHORTCUT_")}
    clean |= {"SHORTCUT_CACHE": CACHE.name, "SHORTCUT_DRAIN_SECONDS": "0"}
    return clean | {f"SHORTCUT_{name.upper()}": value for name, value in settings.items()}


@contextmanager
def running(
    log: Path,
    *options: str,
    client: Callable[[int], Client] = Client,
    within: Sequence[str] = (),
    **settings: str,
) -> Iterator[Client]:
    """The service, ready, with SHORTCUT_<SETTING> and BentoML's `options` as given; its output goes to `log`.

    `within` is a command that runs the rest of its command line in a place of its own.
    """
    port = free_port()
    with log.open("wb") as output:
        process = subprocess.Popen(
            [*within, *command(port), *options],
            cwd=ROOT,
            env=environment(**settings),
            stdout=output,
            stderr=output,
            start_new_session=True,
        )
    service = client(port)
    service.process = process.pid
    try:
        deadline = time.monotonic() + 90
        while not ready(service):
            if process.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"the service did not become ready:\n{log.read_text()[-3000:]}")
            time.sleep(0.2)
        yield service
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    """SIGTERM, again after some seconds: the arbiter loses one that comes while it is still starting a worker
    (seen with BentoML 1.4.39 on a busy machine)."""
    for _ in range(5):
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(6)
            return
        except subprocess.TimeoutExpired:
            continue
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    raise RuntimeError("the service did not stop on SIGTERM")


def ready(client: Client) -> bool:
    try:
        return client.get("/readyz").status == 200
    except (OSError, http.client.HTTPException):
        return False


def assert_failure(answer: Answer, status: int, code: str) -> str:
    """The one shape of every failure; returns the message."""
    assert (answer.status, answer.json().get("code")) == (status, code), answer
    assert set(answer.json()) == {"error", "code"}
    assert answer.headers["content-type"] == "application/json"
    message: str = answer.json()["error"]
    assert message
    assert "Traceback" not in message
    return message
