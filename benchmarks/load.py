"""Runs the load generators and reads their figures: wrk for closed loops, `benchmarks.open_loop` for open ones.

Knows an address and bodies to post, not who listens there.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

WRK_SCRIPT = Path(__file__).with_name("wrk.lua")
OPEN_CONNECTIONS = 64  # kept alive; a request that finds none free waits, and its wait counts


class LoadError(RuntimeError):
    """A load generator is missing or failed."""


@dataclass(frozen=True)
class Figures:
    """Of one measurement: answers a second, in closed loops those that were 200; latencies in ms; how many answers were
    not 200 or never came.

    `late_ms` (open loop) is the 99th percentile of how late the generator itself sent: above a millisecond or so it,
    not the server, was short of CPU. `resent` counts the requests that met a kept-alive connection being closed.
    """

    rate: float
    p50_ms: float
    p99_ms: float
    not_200: int
    lost: int
    late_ms: float = 0.0
    resent: int = 0
    accepted_rate: float = 0.0  # of the open loop, as open_loop.run has it
    accepted_p99_ms: float = 0.0
    refused_p50_ms: float = 0.0
    statuses: dict[str, int] = field(default_factory=dict)

    def all_answered(self, what: str) -> "Figures":
        """These figures; raises LoadError where an answer was not 200 or never came."""
        if self.not_200 or self.lost:
            raise LoadError(f"{what}: {self.not_200} answers were not 200, {self.lost} never came")
        return self


class Load:
    """Bodies of one Content-Type to be posted in rotation to `http://127.0.0.1:port/path`."""

    def __init__(self, port: int, path: str, bodies: Sequence[tuple[bytes, str]]) -> None:
        self._url = f"http://127.0.0.1:{port}{path}"
        self._type = bodies[0][1]
        self.bytes = max(len(body) for body, _ in bodies)  # of the largest
        self._folder = tempfile.TemporaryDirectory(prefix="shortcut-bench-")
        self._list = Path(self._folder.name) / "bodies"
        files = [Path(self._folder.name) / str(number) for number in range(len(bodies))]
        for file, (body, _) in zip(files, bodies, strict=True):
            file.write_bytes(body)
        self._list.write_text("".join(f"{file}\n" for file in files))

    def closed(self, connections: int, seconds: int) -> Figures:
        """`connections` clients, each sending its next request when the last is answered."""
        wrk = shutil.which("wrk")
        if wrk is None:
            raise LoadError("wrk is missing: install it with `apt-get install wrk` (or `brew install wrk`)")
        command = [wrk, "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "30s", "-s", str(WRK_SCRIPT)]
        got = _run([*command, self._url], {"WRK_BODIES": str(self._list), "WRK_TYPE": self._type}, seconds)
        rate = (got["requests"] - got["not_200"]) / got["seconds"]
        return Figures(rate, got["p50_ms"], got["p99_ms"], got["not_200"], got["lost"])

    def open(self, rate: float, seconds: float, connections: int = OPEN_CONNECTIONS) -> Figures:
        """Requests at random moments, `rate` a second on average, whether or not earlier ones are answered."""
        arguments = ["--rate", f"{rate:.3f}", "--seconds", str(seconds), "--connections", str(connections)]
        command = [sys.executable, "-m", "benchmarks.open_loop", self._url, *arguments]
        got = _run([*command, "--bodies", str(self._list), "--type", self._type], {}, seconds)
        if got["lost"]:
            print(f"{self._url}: {got['lost']} requests lost, the last: {got['problem']}", file=sys.stderr)
        return Figures(**{spec.name: got[spec.name] for spec in fields(Figures)})

    def close(self) -> None:
        self._folder.cleanup()


def _run(command: list[str], environment: dict[str, str], seconds: float) -> dict[str, Any]:
    done = subprocess.run(
        command, env={**os.environ, **environment}, capture_output=True, text=True, timeout=seconds + 90
    )
    try:
        return json.loads(done.stdout.strip().splitlines()[-1])
    except (ValueError, IndexError) as err:
        last_lines = " / ".join((done.stderr or done.stdout).strip().splitlines()[-3:])
        raise LoadError(f"{Path(command[0]).name} ended with status {done.returncode}: {last_lines}") from err
