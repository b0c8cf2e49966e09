"""Backends are tried in a child process: an artifact and backends -> what each takes for a batch, or why it is refused.

Native code may end its process on some processor, never return, or compute nonsense. Here it ends, or blocks, a child
only. The child checks each backend on the golden inputs and then times them in turn, so that whatever else the machine
does falls on all of them alike. Knows nothing of what is served.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np

from serving import artifacts
from serving.engine.buckets import FORMED, Run
from serving.engine.exactness import golden_check
from serving.engine.providers import Backend, ProviderError, open_run

CHILD = ("-m", "serving.engine.probing")
ROOT = Path(__file__).parents[2]  # where the child finds this package
TIMED_SECONDS = 0.1  # of each backend over all batch sizes, at least
LEAST_RUNS = 3  # of each backend and batch size: a large network's one run may be one that something disturbed
HANGS_SECONDS = 60.0  # without any progress of the child
# Share of the timing in which the child must have had a core; in the rest others did.
UNDISTURBED = 0.7
NICENESS = 10  # requests that are served meanwhile go first
_DEATH_SIGNAL = 1  # prctl's PR_SET_PDEATHSIG


@dataclass
class Findings:
    """What each backend takes for a batch of each size, or why it is refused; `lasting` if the next start may rely on
    it: nothing disturbed the timing, and nothing was refused that may do better another time."""

    seconds: dict[Backend, dict[int, float]]
    refused: dict[Backend, str]
    lasting: bool = True


def probe(
    artifact: artifacts.Artifact,
    backends: Sequence[Backend],
    threads: int,
    hangs_seconds: float = HANGS_SECONDS,
    child: Sequence[str] = CHILD,
) -> Findings:
    """Never raises: where no child can be started, every backend is refused for that reason."""
    found = Findings({}, {})
    left = list(backends)
    while left:
        with tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors, tempfile.TemporaryFile() as mark:
            mark.write(b"-1")
            mark.flush()
            request = {
                "path": str(artifact.path.absolute()),
                "sha256": artifact.sha256,
                "backends": [asdict(backend) for backend in left],
                "threads": threads,
                "mark": mark.fileno(),
                "parent": os.getpid(),
            }
            try:
                ended = _run([sys.executable, *child, json.dumps(request)], output, errors, mark, hangs_seconds)
            except OSError as err:
                ended = f"no process can be started: {err.strerror}"
            if not ended:
                output.seek(0)
                _read(json.load(output), left, found)
                return found
            current, _ = _progress(mark.fileno())
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
        found.lasting &= ended.startswith("ends its process")  # a hang, or want of memory, may pass
        if current < 0:  # it had not come to any backend
            found.refused |= dict.fromkeys(left, ": ".join([ended, *last]))
            return found
        found.refused[left.pop(current)] = ended
    return found


def _run(command: list[str], output: Any, errors: Any, mark: Any, hangs_seconds: float) -> str:
    """What went wrong; empty if nothing did. Raises OSError."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])}
    process = subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=errors,
        pass_fds=[mark.fileno()],
        env=environment,
        cwd=ROOT,
    )
    try:
        before, since = _progress(mark.fileno()), time.monotonic()
        while True:
            try:
                code = process.wait(0.1)
                break
            except subprocess.TimeoutExpired:
                now = _progress(mark.fileno())
                if now != before:
                    before, since = now, time.monotonic()
                elif time.monotonic() - since > hangs_seconds:
                    return f"does not answer for {hangs_seconds:.0f} s"
    finally:
        process.kill()
        process.wait()
    if code == -signal.SIGKILL:
        return "was killed, for want of memory perhaps"
    return f"ends its process by {signal.Signals(-code).name}" if code < 0 else code * "ends its process with an error"


def _progress(mark: int) -> tuple[int, int]:
    """Which backend the child is at, and how many steps it has made."""
    current, _, steps = os.pread(mark, 64, 0).decode().partition(" ")
    return int(current), int(steps or 0)


def _read(answer: dict[str, Any], backends: Sequence[Backend], found: Findings) -> None:
    for backend, result in zip(backends, answer["results"], strict=True):
        if isinstance(result, str):
            found.refused[backend] = result
        else:
            found.seconds[backend] = {int(size): float(taken) for size, taken in result.items()}
    found.lasting &= answer["undisturbed"]


# In the child


class _Mark:
    """Tells the parent, who may read it at any time, where the child is."""

    def __init__(self, file: int):
        self._file = file
        self._steps = 0

    def at(self, backend: int) -> None:
        self._steps += 1
        os.pwrite(self._file, f"{backend} {self._steps}".encode().ljust(64), 0)


def main(request: str) -> None:
    asked = json.loads(request)
    _keep_out_of_the_way(asked["parent"])
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # whatever a library prints is no answer
    artifact = artifacts.read(Path(asked["path"]))
    if artifact.sha256 != asked["sha256"]:
        raise SystemExit("the model was changed meanwhile")
    backends = [Backend(**{**one, "buckets": tuple(one["buckets"])}) for one in asked["backends"]]
    _answer(artifact, backends, asked["threads"], _Mark(asked["mark"]), answers)
    answers.flush()
    os._exit(0)  # what a library does when it is unloaded says nothing of its answers


def _answer(
    artifact: artifacts.Artifact, backends: Sequence[Backend], threads: int, mark: _Mark, answers: TextIO
) -> None:
    runs: dict[int, Run] = {}
    results: list[str | dict[int, float]] = ["" for _ in backends]
    for number, backend in enumerate(backends):
        mark.at(number)
        try:
            run = open_run(artifact.onnx, backend, threads)
            golden_check(run, backend, artifact)
            runs[number] = run
        except ProviderError as err:
            results[number] = str(err)
    started, own = time.perf_counter(), time.process_time()
    sizes = {number: backends[number].sizes for number in runs}
    on_gpu = any(backends[number].provider == "cuda" for number in runs)  # which the processor waits for
    # One thread's own time leaves out what requests take of its core meanwhile.
    clock = time.process_time if threads == 1 and not on_gpu else time.perf_counter
    seconds = _time_in_turn(runs, sizes, artifact.golden_images, mark, clock)
    undisturbed = time.process_time() - own > UNDISTURBED * (time.perf_counter() - started)
    for number, taken in seconds.items():
        results[number] = taken
    json.dump({"results": results, "undisturbed": undisturbed or on_gpu}, answers)


def _time_in_turn(
    runs: dict[int, Run], sizes: dict[int, tuple[int, ...]], golden: np.ndarray, mark: _Mark, clock: Callable[[], float]
) -> dict[int, dict[int, float]]:
    """The least seconds that each run takes for a batch of each of its sizes, by `clock`."""
    found: dict[int, dict[int, float]] = {number: {} for number in runs}
    for size in FORMED:
        images = np.resize(golden, (size, *golden.shape[1:]))
        taken: dict[int, list[float]] = {number: [] for number in runs if size in sizes[number]}
        end = time.perf_counter() + len(taken) * TIMED_SECONDS / len(FORMED)
        while time.perf_counter() < end or any(len(each) < LEAST_RUNS for each in taken.values()):
            for number, each in taken.items():
                mark.at(number)
                started = clock()
                runs[number](images)
                each.append(clock() - started)
        for number, each in taken.items():
            found[number][size] = min(each)
    return found


def _keep_out_of_the_way(parent: int) -> None:
    """The child leaves no core file, ends with its parent, and is the first to go where memory is short."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    os.nice(NICENESS)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:  # it has died before it could be tied to
            os._exit(1)
        with contextlib.suppress(OSError):
            Path("/proc/self/oom_score_adj").write_text("1000")


if __name__ == "__main__":
    main(sys.argv[1])
