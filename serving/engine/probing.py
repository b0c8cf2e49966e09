"""Backends are tried in a child process: an artifact and backends -> what each takes, or why it is refused.

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple, TextIO

import numpy as np

from serving import artifacts
from serving.engine import memory
from serving.engine.buckets import FORMED, Outputs, Run
from serving.engine.exactness import Check, CloseCalls, golden_check
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
# Of memory, that the child takes: the libraries, and a multiple of the model for the backends that it has open at once.
CHILD_BYTES, CHILD_TIMES = 200 * 10**6, 8
# Signals of native code that meets a processor for which it is wrong: it will do so again.
_LASTING_SIGNALS = {signal.SIGILL, signal.SIGFPE, signal.SIGSEGV, signal.SIGBUS}


class Trial(NamedTuple):
    """What a backend takes that gives right answers."""

    seconds: dict[int, float]  # for a run of each of its batch sizes, close calls found but not computed again
    again: Mapping[int, float] = MappingProxyType({})  # for a number of close calls in float32; empty where none is
    recomputed_share: float = 0.0  # of the golden images, that are computed again
    bytes: int = 0  # of memory, to load and check it, at the peak
    calls: CloseCalls | None = None  # of a less exact backend


@dataclass
class Findings:
    """What each backend takes, or why it is refused; `lasting` if the next start may rely on it: nothing disturbed the
    timing, and nothing was refused that may do better another time."""

    trials: dict[Backend, Trial] = field(default_factory=dict)
    refused: dict[Backend, str] = field(default_factory=dict)
    lasting: bool = True


def probe(
    artifact: artifacts.Artifact,
    backends: Sequence[Backend],
    threads: int,
    hangs_seconds: float = HANGS_SECONDS,
    child: Sequence[str] = CHILD,
) -> Findings:
    """Never raises: where no child can be started, every backend is refused for that reason, which may pass."""
    findings = Findings()
    left = list(backends)
    try:
        _probe(artifact, left, findings, threads, hangs_seconds, child)
    except Exception as err:  # no room for temporary files, no process, an answer that was cut off
        reason = f"no process can be started: {err.strerror or err}" if isinstance(err, OSError) else repr(err)
        findings.refused |= dict.fromkeys(left, reason)
        findings.lasting = False
    return findings


def _probe(
    artifact: artifacts.Artifact,
    left: list[Backend],
    findings: Findings,
    threads: int,
    hangs_seconds: float,
    child: Sequence[str],
) -> None:
    """Fill `findings`; of `left` stays what no child has answered for. Raises OSError, and ValueError or KeyError where
    an answer cannot be read."""
    room, needed = memory.left(), CHILD_BYTES + CHILD_TIMES * len(artifact.onnx)
    if room is not None and room < needed:  # where memory is short some orchestrators end everything, not the child
        findings.refused |= dict.fromkeys(
            left, f"not measured: {memory.megabytes(room)} of memory are left, and it takes {memory.megabytes(needed)}"
        )
        findings.lasting = False
        return
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
            ended, lasting = _run([sys.executable, *child, json.dumps(request)], output, errors, mark, hangs_seconds)
            if not ended:
                output.seek(0)
                _read(json.load(output), left, findings)
                return
            current, _ = _progress(mark.fileno())
            errors.seek(0)
            last = errors.read().decode(errors="replace").strip().splitlines()[-1:]
        findings.lasting &= lasting
        if current < 0:  # it had not come to any backend
            findings.refused |= dict.fromkeys(left, ": ".join([ended, *last]))
            return
        findings.refused[left.pop(current)] = ended


def _run(command: list[str], output: Any, errors: Any, mark: Any, hangs_seconds: float) -> tuple[str, bool]:
    """What went wrong, and whether it would again; empty if nothing did. Raises OSError."""
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
                    return f"does not answer for {hangs_seconds:.0f} s", False
    finally:
        process.kill()
        process.wait()
    if code == -signal.SIGKILL:
        return "was killed, for want of memory perhaps", False
    if code < 0:
        return f"ends its process by {signal.Signals(-code).name}", -code in _LASTING_SIGNALS
    return ("ends its process with an error", False) if code else ("", True)


def _progress(mark: int) -> tuple[int, int]:
    """Which backend the child is at, and how many steps it has made."""
    current, _, steps = os.pread(mark, 64, 0).decode().partition(" ")
    return int(current), int(steps or 0)


def _read(answer: dict[str, Any], backends: Sequence[Backend], findings: Findings) -> None:
    for backend, result in zip(backends, answer["results"], strict=True):
        if "refused" in result:
            findings.refused[backend] = result["refused"]
            findings.lasting &= result["lasting"]
        else:
            seconds, again = (
                {int(size): float(taken) for size, taken in result[part].items()} for part in ("seconds", "again")
            )
            calls = None if result["calls"] is None else CloseCalls(**result["calls"])
            findings.trials[backend] = Trial(seconds, again, result["recomputed_share"], result["bytes"], calls)
    findings.lasting &= answer["undisturbed"]


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
    runs: dict[Backend, Run] = {}  # what is timed: of each sound backend, and of each referee
    calls: dict[Backend, CloseCalls] = {}  # of those that are less exact than float32
    results: list[dict[str, Any]] = [{} for _ in backends]
    bytes_of: dict[Backend, int] = {}
    numbers: dict[Backend, int] = {}  # which of `backends` is tried, or needs the referee that is
    for number, backend in enumerate(backends):
        mark.at(number)
        numbers[backend] = number
        try:
            run, check = _open_checked(artifact, backend, threads, bytes_of)
            if backend.precision != "float32":
                calls[backend] = CloseCalls.of(check, artifact.unfamiliarity_threshold)
                if backend.exact not in runs:  # what decides the close calls, if it is right itself
                    numbers.setdefault(backend.exact, number)
                    runs[backend.exact], _ = _open_checked(artifact, backend.exact, threads, bytes_of)
        except ProviderError as err:
            results[number] = {"refused": str(err), "lasting": err.lasting}
            continue
        runs[backend] = run if backend not in calls else _finding_close_calls(run, calls[backend])
    started, own = time.perf_counter(), time.process_time()
    on_gpu = any(backend.provider == "cuda" for backend in runs)  # which the processor waits for
    # One thread's own time leaves out what requests take of its core meanwhile.
    clock = time.process_time if threads == 1 and not on_gpu else time.perf_counter
    seconds = _time_in_turn(runs, artifact.golden_images, lambda backend: mark.at(numbers[backend]), clock)
    undisturbed = time.process_time() - own > UNDISTURBED * (time.perf_counter() - started)
    for backend, result in zip(backends, results, strict=True):
        if "refused" not in result:
            less_exact = backend in calls
            share = _recomputed_share(runs[backend], calls[backend], artifact.golden_images) if less_exact else 0.0
            again = seconds[backend.exact] if less_exact else {}
            needed = bytes_of[backend] + (bytes_of[backend.exact] if less_exact else 0)
            result |= {"seconds": seconds[backend], "again": again, "recomputed_share": share, "bytes": needed}
            result["calls"] = asdict(calls[backend]) if less_exact else None
    json.dump({"results": results, "undisturbed": undisturbed or on_gpu}, answers)


def _open_checked(
    artifact: artifacts.Artifact, backend: Backend, threads: int, bytes_of: dict[Backend, int]
) -> tuple[Run, Check]:
    """A run that reproduces the golden outputs; notes the memory that it took. Raises ProviderError."""
    growth = memory.Growth()
    run = open_run(artifact.onnx, backend, threads)
    check = golden_check(run, backend, artifact)
    bytes_of.setdefault(backend, growth.peak())
    return run, check


def _finding_close_calls(fast: Run, calls: CloseCalls) -> Run:
    """`fast` as it is served, but for the close calls, whose number hangs on the pictures: their time is added."""

    def run(images: np.ndarray) -> Outputs:
        outputs = fast(images)
        calls.among(outputs)
        return outputs

    return run


def _recomputed_share(run: Run, calls: CloseCalls, images: np.ndarray) -> float:
    """The share of `images` whose answers are close calls."""
    size = min(len(images), max(FORMED))
    close = sum(len(calls.among(run(images[start : start + size]))) for start in range(0, len(images), size))
    return close / len(images)


def _time_in_turn(
    runs: dict[Backend, Run], golden: np.ndarray, mark: Callable[[Backend], None], clock: Callable[[], float]
) -> dict[Backend, dict[int, float]]:
    """The least seconds that each run takes for a batch of each of its sizes, by `clock`."""
    seconds: dict[Backend, dict[int, float]] = {backend: {} for backend in runs}
    for size in FORMED:
        images = np.resize(golden, (size, *golden.shape[1:]))
        taken: dict[Backend, list[float]] = {backend: [] for backend in runs if size in backend.sizes}
        end = time.perf_counter() + len(taken) * TIMED_SECONDS / len(FORMED)
        while time.perf_counter() < end or any(len(each) < LEAST_RUNS for each in taken.values()):
            for backend, each in taken.items():
                mark(backend)
                started = clock()
                runs[backend](images)
                each.append(clock() - started)
        for backend, each in taken.items():
            seconds[backend][size] = min(each)
    return seconds


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
