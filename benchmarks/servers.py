"""Starts, verifies, pauses and stops the servers that are compared: ours and the peers, one row each.

Knows commands, addresses and processes, not load or figures. A server that is not being measured is stopped with
SIGSTOP, all its processes, so that an idle one that polls takes nothing from the one under test.
"""

import base64
import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import psutil

from benchmarks.pictures import Picture, Subject

START_SECONDS = 120
MEASURE_SECONDS = 300  # that our service may take to time its backends
STOP_SECONDS = 15
SETTLE_SECONDS = 20.0  # at most, until a server has nothing left to do
SETTLE_STEP = 0.2  # seconds that it is looked at
SETTLE_CORES, SETTLE_SHARE = 0.1, 0.2  # that it may then take beside idling: cores, and share of what idling takes
BOUNDARY = "benchmark-boundary-7d1f"
BENCH_BIN = Path(sys.executable).parent
SERVING_BIN = Path(".venv/bin").resolve()
MLSERVER_PYTHON = Path(".venv-bench-mlserver/bin/python").absolute()  # not beside the others' FastAPI


class ServerError(RuntimeError):
    """A server did not start, died or answered wrongly; the message says which and how."""


@dataclass(frozen=True)
class Contender:
    """How to start one server and speak to it. `command` maps a port to the argument list."""

    name: str
    command: Callable[[int], Sequence[str | Path]]
    path: Callable[[Subject], str] = lambda subject: "/classify"
    body: Callable[[bytes], tuple[bytes, str]] = lambda data: (data, "application/octet-stream")  # and Content-Type
    label: Callable[[Any], str] = lambda answer: answer["label"]
    ours: bool = False  # takes several images at <path>/batch and describes a model at /models/<name>
    environment: dict[str, str] = field(default_factory=dict)


def _bentoml(bin_: Path, service: str) -> Callable[[int], Sequence[str | Path]]:
    return lambda port: (bin_ / "bentoml", "serve", service, "--port", str(port), "--host", "127.0.0.1")


def _module(name: str, *arguments: str, python: str | Path = sys.executable) -> Callable[[int], Sequence[str | Path]]:
    return lambda port: (python, "-m", name, *(a.format(port=port) for a in arguments))


def _form(data: bytes) -> tuple[bytes, str]:
    return multipart([data])


def _open_inference(data: bytes) -> tuple[bytes, str]:
    """A tensor of one string, as the Open Inference Protocol has it in JSON; `content_type` is MLServer's."""
    tensor = {"name": "image", "shape": [1], "datatype": "BYTES", "parameters": {"content_type": "base64"}}
    body = {"inputs": [{**tensor, "data": [base64.b64encode(data).decode()]}]}
    return json.dumps(body).encode(), "application/json"


def _ours(name: str, **environment: str) -> Contender:
    return Contender(
        name,
        _bentoml(SERVING_BIN, "serving.service:ImageClassifier"),  # as `make serve` does
        path=lambda subject: f"/classify?model={quote(subject.name)}&top_k=1",
        label=lambda answer: answer["predictions"][0]["label"],
        ours=True,
        environment=environment,
    )


CORES = str(len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1)
UVICORN = ("benchmarks.peers.fastapi_app:app", "--host", "127.0.0.1", "--port", "{port}", "--workers", CORES)
CONTENDERS = {
    contender.name: contender
    for contender in (
        _ours("shortcut"),
        _ours("shortcut-cpu", SHORTCUT_PROVIDER="cpu"),  # where `auto` takes another provider
        Contender("fastapi", _module("uvicorn", *UVICORN, "--no-access-log", "--log-level", "warning")),
        Contender("litserve", _module("benchmarks.peers.litserve_app", "{port}")),
        Contender("bentoml", _bentoml(BENCH_BIN, "benchmarks.peers.bentoml_app:TutorialClassifier"), body=_form),
        Contender(
            "mosec",
            _module("benchmarks.peers.mosec_app", "--address", "127.0.0.1", "--port", "{port}", "--log-level", "error"),
        ),
        Contender(
            "mlserver",
            _module("benchmarks.peers.mlserver_app", "{port}", python=MLSERVER_PYTHON),
            path=lambda subject: "/v2/models/classifier/infer",
            body=_open_inference,
            label=lambda answer: answer["outputs"][0]["data"][0],
        ),
        Contender("ray", _module("benchmarks.peers.ray_app", "{port}")),
        Contender("bentoml-empty", _bentoml(BENCH_BIN, "benchmarks.peers.empty_app:Empty")),
    )
}
OURS, OURS_CPU = "shortcut", "shortcut-cpu"
EMPTY = "bentoml-empty"
DEFAULT_PEERS = (OURS_CPU, "fastapi", "litserve", "bentoml", "mosec", "mlserver")


def environment(contender: Contender, subject: Subject) -> dict[str, str]:
    """What tells a server which model to answer with: ours the folder of all models, a peer the one artifact."""
    artifact = subject.artifact.resolve()
    models = {"SHORTCUT_MODELS": str(artifact.parents[1])} if contender.ours else {}
    return {**models, **contender.environment, "BENCH_ARTIFACT": str(artifact), "BENTOML_DO_NOT_TRACK": "True"}


class Server:
    """A started contender. Use as a context manager: leaving it stops every process it began."""

    def __init__(self, contender: Contender, subject: Subject) -> None:
        self.contender = contender
        self.subject = subject
        self.port = _free_port()
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (stop() closes it)
        started = time.perf_counter()
        command = [str(part) for part in contender.command(self.port)]
        if not Path(command[0]).exists():
            raise ServerError(f"{contender.name}: {command[0]}: not found; `make bench` builds the environments")
        self._process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches the benchmark, which then stops the servers in order
            env={**os.environ, **environment(contender, subject)},
        )
        try:
            self._wait_until_ready()
            self.ready_seconds = time.perf_counter() - started
            if contender.ours:
                self._wait_until_measured()
        except BaseException:
            self.stop()
            raise
        self.idle_cpu = 0.0

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def name(self) -> str:
        return self.contender.name

    @property
    def path(self) -> str:
        return self.contender.path(self.subject)

    @property
    def batch_path(self) -> str:
        return self.path.replace("/classify", "/classify/batch", 1)

    def body(self, data: bytes) -> tuple[bytes, str]:
        """A request's body and Content-Type for one image, the cheapest ordinary way that this server takes."""
        return self.contender.body(data)

    def verify(self, pictures: Sequence[Picture]) -> None:
        """Posts every picture over one connection. Raises ServerError unless each answer is 200 and right."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        try:
            for number, picture in enumerate(pictures):
                status, answer = self._post(connection, *self.body(picture.data))
                label = self.contender.label(json.loads(answer)) if status == 200 else None
                if label != picture.label:
                    raise ServerError(
                        f"{self.name}: picture {number} of {self.subject.name}: status {status}, "
                        f"{answer[:200].decode(errors='replace')}; right is {picture.label!r}"
                    )
        except (OSError, http.client.HTTPException, KeyError, ValueError) as err:
            raise ServerError(f"{self.name}: {type(err).__name__}: {err}; {self._last_lines()}") from err
        finally:
            connection.close()

    def verify_batch(self, pictures: Sequence[Picture]) -> None:
        """The same for one request that carries all pictures."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        status, answer = self._post(connection, *multipart([p.data for p in pictures]), path=self.batch_path)
        connection.close()
        results = json.loads(answer)["results"] if status == 200 else []
        if [r["predictions"][0]["label"] for r in results] != [p.label for p in pictures]:
            raise ServerError(f"{self.name}: batch: status {status}, {answer[:200].decode(errors='replace')}")

    def provider(self) -> dict[str, str]:
        """The execution provider that our service took for the model, in which precision and why; of a peer nothing."""
        if not self.contender.ours:
            return {}
        latest = self.get(f"/models/{quote(self.subject.name)}")["versions"][-1]
        return {key: latest[key] for key in ("provider", "precision", "provider_reason")}

    def get(self, path: str) -> Any:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        connection.request("GET", path)
        answer = json.loads(connection.getresponse().read())
        connection.close()
        return answer

    def pause(self) -> None:
        self._signal(signal.SIGSTOP, self._tree())

    def resume(self) -> None:
        # Children first: a parent that waits for a child's sign of life must find it waiting when it wakes.
        self._signal(signal.SIGCONT, reversed(self._tree()))
        if self._process.poll() is not None:
            raise ServerError(f"{self.name}: ended with status {self._process.returncode}; {self._last_lines()}")

    def measure_idle(self, seconds: float = 1.0) -> None:
        """Sets `idle_cpu`, the cores' worth of CPU that the server takes while nobody asks anything."""
        time.sleep(0.5)  # until the last of the load before is answered
        before = self.cpu_seconds()
        time.sleep(seconds)
        self.idle_cpu = max(0.0, (self.cpu_seconds() - before) / seconds)

    def settle(self) -> None:
        """Waits until it has done what a load generator left behind: until it takes hardly more CPU than while idle."""
        idle = SETTLE_STEP * (self.idle_cpu * (1 + SETTLE_SHARE) + SETTLE_CORES)
        deadline, before = time.monotonic() + SETTLE_SECONDS, self.cpu_seconds()
        while time.monotonic() < deadline:
            time.sleep(SETTLE_STEP)
            now = self.cpu_seconds()
            if now - before < idle:
                return
            before = now

    def cpu_seconds(self) -> float:
        """That all its processes have used so far."""
        total = 0.0
        for process in self._tree():
            with contextlib.suppress(psutil.NoSuchProcess):
                total += sum(process.cpu_times()[:2])
        return total

    def largest_process(self) -> float:
        """MiB of resident memory of the server's largest process."""
        return max(p.memory_info().rss for p in self._tree()) / 2**20

    def stop(self) -> None:
        """SIGTERM to the root; whatever is left of its tree after STOP_SECONDS is killed."""
        tree = self._tree()
        self._signal(signal.SIGCONT, tree)
        if self._process.poll() is None:
            self._process.terminate()
        _, left = psutil.wait_procs(tree, timeout=STOP_SECONDS)
        self._signal(signal.SIGKILL, left)
        self._process.wait()
        self._log.close()

    def _post(
        self, connection: http.client.HTTPConnection, body: bytes, content_type: str, path: str | None = None
    ) -> tuple[int, bytes]:
        connection.request("POST", path or self.path, body, {"Content-Type": content_type})
        response = connection.getresponse()
        return response.status, response.read()

    def _wait_until_ready(self) -> None:
        body, content_type = self.body(self.subject.small[0].data)
        if self.name == EMPTY:
            body, content_type = b"{}", "application/json"
        last = "no connection"
        deadline = time.monotonic() + START_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(f"{self.name}: ended with status {self._process.returncode}; {self._last_lines()}")
            connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
            try:
                status, answer = self._post(connection, body, content_type)
                if status == 200:
                    return
                last = f"status {status}, {answer[:200].decode(errors='replace')}"
            except (OSError, http.client.HTTPException) as err:
                last = f"{type(err).__name__}: {err}"
            finally:
                connection.close()
            time.sleep(0.02)
        raise ServerError(f"{self.name}: not ready after {START_SECONDS} s ({last}); {self._last_lines()}")

    def _wait_until_measured(self) -> None:
        """Until all our workers have moved to the backend that is the fastest for each model."""
        deadline = time.monotonic() + MEASURE_SECONDS
        while time.monotonic() < deadline:
            with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)) as connection:
                connection.request("GET", "/metrics")
                lines = connection.getresponse().read().decode().splitlines()
            if not any(line.startswith("shortcut_model_measuring{") and not line.endswith(" 0.0") for line in lines):
                return
            time.sleep(0.2)
        raise ServerError(f"{self.name}: still measuring after {MEASURE_SECONDS} s; {self._last_lines()}")

    def _tree(self) -> list[psutil.Process]:
        """The root and all its descendants, parents first; BentoML's are in process groups of their own."""
        try:
            root = psutil.Process(self._process.pid)
            return [root, *root.children(recursive=True)]
        except psutil.NoSuchProcess:
            return []

    def _signal(self, number: int, processes: Any) -> None:
        for process in processes:
            with contextlib.suppress(psutil.NoSuchProcess):
                process.send_signal(number)

    def _last_lines(self) -> str:
        self._log.seek(0)
        lines = self._log.read()[-2000:].decode(errors="replace").strip().splitlines()
        return "its last lines: " + " / ".join(lines[-3:]) if lines else "it printed nothing"


def multipart(images: Sequence[bytes]) -> tuple[bytes, str]:
    """multipart/form-data with a field `image` for each, and its Content-Type."""
    head = '--{}\r\nContent-Disposition: form-data; name="image"; filename="{}"\r\nContent-Type: {}\r\n\r\n'
    parts = []
    for number, data in enumerate(images):
        kind = "image/jpeg" if data.startswith(b"\xff\xd8") else "image/png"
        parts.append(head.format(BOUNDARY, f"{number}.{kind[6:]}", kind).encode() + data + b"\r\n")
    return b"".join(parts) + f"--{BOUNDARY}--\r\n".encode(), f"multipart/form-data; boundary={BOUNDARY}"


def short_name(provider: str) -> str:
    """`CPUExecutionProvider` as SHORTCUT_PROVIDER and `benchmarks.bare` have it."""
    return provider.removesuffix("ExecutionProvider").lower()


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]
