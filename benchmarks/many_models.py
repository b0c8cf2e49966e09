"""`python -m benchmarks.many_models`: what a hundred models in one service cost, all in memory and loaded when asked.

Copies of one model under other names, in a folder that is removed. Each is asked once, in turn, then some of them
again. Prints a table for docs/scaling.md. Knows our service only, and no load.
"""

import argparse
import contextlib
import http.client
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import median
from typing import Any
from urllib.parse import quote

import psutil

from benchmarks.pictures import Picture, subject
from benchmarks.run import BUSY, busy_cores, conditions
from benchmarks.servers import SERVING_BIN, ServerError

READY_SECONDS = 900
AGAIN = 20  # models that are asked a second time, the latest first: most of them are in memory
MB = 1e6

Row = dict[str, float]


def copies(model: Path, number: int, folder: Path) -> list[str]:
    """Write `number` copies of a version's folder below `folder`, each with a card of its own name. Their names."""
    names = [f"copy-{index:03}" for index in range(number)]
    for name in names:
        to = folder / name / "1"
        to.mkdir(parents=True)
        for file in ("model.onnx", "golden.npz"):
            shutil.copy(model / file, to / file)
        card = json.loads((model / "card.json").read_bytes())
        (to / "card.json").write_text(json.dumps(card | {"name": name}))
    return names


class Service:
    """One worker with all models of a folder, on the CPU provider, ready. `within` is a command that runs the rest of
    its command line in a place of its own; whether it is ready is asked every `every` seconds."""

    def __init__(
        self,
        models: Path,
        default: str,
        resident_bytes: int,
        port: int,
        within: Sequence[str] = (),
        every: float = 0.05,
        **more: str,
    ):
        self.port = port
        self._every = every
        self._log = tempfile.TemporaryFile()  # noqa: SIM115 (stop() closes it)
        settings = {
            "SHORTCUT_MODELS": str(models),
            "SHORTCUT_DEFAULT_MODEL": default,
            "SHORTCUT_RESIDENT_BYTES": str(resident_bytes),
            "SHORTCUT_WORKERS": "1",
            "SHORTCUT_PROVIDER": "cpu",
            "SHORTCUT_DRAIN_SECONDS": "0",
            "SHORTCUT_CACHE": str(models.parent / "cache"),
        }
        clean = {name: value for name, value in os.environ.items() if not name.startswith("SHORTCUT_")}
        command = [SERVING_BIN / "bentoml", "serve", "serving.service:ImageClassifier", "--port", str(port)]
        began = time.perf_counter()
        self._process = subprocess.Popen(
            [*within, *map(str, command), "--host", "127.0.0.1"],
            env=clean | settings | more,
            stdout=self._log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        try:
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise
        self.ready_seconds = time.perf_counter() - began

    def _wait_until_ready(self) -> None:
        deadline = time.monotonic() + READY_SECONDS
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                raise ServerError(f"the service ended with status {self._process.returncode}: {self._log_end()}")
            with contextlib.suppress(OSError, http.client.HTTPException):
                if self.request("GET", "/readyz")[0] == 200:
                    return
            time.sleep(self._every)
        raise ServerError(f"the service is not ready after {READY_SECONDS} s: {self._log_end()}")

    def request(self, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes, float]:
        """Status, body and seconds of a request on a connection of its own."""
        began = time.perf_counter()
        with contextlib.closing(http.client.HTTPConnection("127.0.0.1", self.port, timeout=120)) as connection:
            connection.request(method, path, body, {"Content-Type": "application/octet-stream"})
            response = connection.getresponse()
            return response.status, response.read(), time.perf_counter() - began

    def classify(self, name: str, picture: Picture) -> float:
        """Seconds. Raises ServerError where the answer is wrong."""
        status, answer, seconds = self.request("POST", f"/classify?model={quote(name)}&top_k=1", picture.data)
        if status != 200 or json.loads(answer)["predictions"][0]["label"] != picture.label:
            raise ServerError(f"{name}: status {status}, {answer[:200]!r}; right is {picture.label!r}")
        return seconds

    def worker_bytes(self) -> int:
        """That the worker takes for itself alone."""
        tree = psutil.Process(self._process.pid).children(recursive=True)
        return max(process.memory_full_info().uss for process in tree)

    def stop(self) -> None:
        with contextlib.suppress(psutil.NoSuchProcess):
            root = psutil.Process(self._process.pid)
            tree = [root, *root.children(recursive=True)]
            self._process.send_signal(signal.SIGTERM)
            _, left = psutil.wait_procs(tree, timeout=30)
            for process in left:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
        self._process.wait()
        self._log.close()

    def _log_end(self) -> str:
        self._log.seek(0)
        return self._log.read()[-500:].decode(errors="replace")


@contextlib.contextmanager
def service(models: Path, default: str, resident_bytes: int, port: int) -> Iterator[Service]:
    started = Service(models, default, resident_bytes, port)
    try:
        yield started
    finally:
        started.stop()


def measure(models: Path, names: Sequence[str], pictures: Sequence[Picture], resident_bytes: int, port: int) -> Row:
    """Seconds, bytes and counts of one service. Raises ServerError."""
    with service(models, names[0], resident_bytes, port) as ours:
        row: Row = {"ready_seconds": ours.ready_seconds, "bytes_at_start": ours.worker_bytes()}
        row["metrics_bytes_at_start"] = len(ours.request("GET", "/metrics")[1])
        first = [ours.classify(name, pictures[0]) for name in names]
        row["first_seconds"], row["slowest_first_seconds"] = median(first), max(first)
        row["bytes_after"] = ours.worker_bytes()
        listed, again = json.loads(ours.request("GET", "/models")[1]), []
        for name in list(reversed(names))[:AGAIN]:
            again.append(ours.classify(name, pictures[1]))
        row["again_seconds"] = median(again)
        row["resident"] = sum(version["resident"] for model in listed["models"] for version in model["versions"])
        for name, path in (("models", "/models"), ("metrics", "/metrics")):
            answers = [ours.request("GET", path) for _ in range(5)]
            row[f"{name}_bytes"] = len(answers[-1][1])
            row[f"{name}_seconds"] = median(answer[2] for answer in answers)
    return row


def table(rows: dict[str, Row]) -> str:
    """In Markdown, a column for each service."""
    lines = [
        ("time to ready", lambda row: f"{row['ready_seconds']:.1f} s"),
        ("worker's memory, ready", lambda row: f"{row['bytes_at_start'] / MB:,.0f} MB"),
        ("worker's memory, each model asked", lambda row: f"{row['bytes_after'] / MB:,.0f} MB"),
        ("models in memory then", lambda row: f"{row['resident']:.0f}"),
        ("first question, median", lambda row: f"{1000 * row['first_seconds']:,.0f} ms"),
        ("first question, slowest", lambda row: f"{1000 * row['slowest_first_seconds']:,.0f} ms"),
        ("a question again, median", lambda row: f"{1000 * row['again_seconds']:,.1f} ms"),
        (
            "`GET /models`",
            lambda row: f"{row['models_bytes'] / 1000:,.0f} kB, {1000 * row['models_seconds']:,.0f} ms",
        ),
        ("`GET /metrics`, ready", lambda row: f"{row['metrics_bytes_at_start'] / 1000:,.0f} kB"),
        (
            "the same, each model asked",
            lambda row: f"{row['metrics_bytes'] / 1000:,.0f} kB, {1000 * row['metrics_seconds']:,.0f} ms",
        ),
    ]
    head = f"| | {' | '.join(rows)} |\n|{' --- |' * (len(rows) + 1)}"
    return "\n".join([head, *(f"| {name} | {' | '.join(map(show, rows.values()))} |" for name, show in lines)])


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.many_models", description=__doc__.split("\n\n")[0])
    parser.add_argument("model", nargs="?", default="conv_resnet_deep-cifar10", help="(default: %(default)s)")
    parser.add_argument("--models", type=Path, default=Path("models"), help="folder (default: %(default)s)")
    parser.add_argument("--number", type=int, default=100, help="of copies (default: %(default)s)")
    parser.add_argument(
        "--resident-bytes", type=int, default=200_000_000, help="SHORTCUT_RESIDENT_BYTES (default: %(default)s)"
    )
    parser.add_argument("--port", type=int, default=3917, help="(default: %(default)s)")
    args = parser.parse_args(argv)
    if args.number < 2 or args.resident_bytes < 1:
        parser.error("--number must be at least 2, and --resident-bytes at least 1")
    busy = busy_cores()
    try:
        chosen = subject(args.models, args.model)
        pictures = chosen.small
        rows: dict[str, Row] = {}
        with tempfile.TemporaryDirectory(prefix="shortcut-many-") as folder:
            models = Path(folder) / "models"
            names = copies(chosen.artifact, args.number, models)
            one = copies(chosen.artifact, 1, Path(folder) / "one")
            for title, path, which, limit in (
                ("1 model", Path(folder) / "one", one, 0),
                (f"{args.number} models", models, names, 0),
                (f"{args.number}, {args.resident_bytes / MB:,.0f} MB of them", models, names, args.resident_bytes),
            ):
                rows[title] = measure(path, which, pictures, limit, args.port)
                print(f"{title}: {json.dumps(rows[title])}", file=sys.stderr, flush=True)
    except (ServerError, FileNotFoundError) as err:
        print(f"error: {err}", file=sys.stderr)
        return 1
    machine: dict[str, Any] = conditions()
    load = f"something else took {busy:.1f} cores" if busy > BUSY else "quiet"
    print(table(rows))
    print(f"\n{args.model}, one worker on the CPU provider; {machine['cpu_kind']}, {machine['cores']} cores, {load}.")
    return 0


if __name__ == "__main__":
    sys.exit(main())
