"""How much memory there is, is left, and is taken: of the machine and of the cgroups around this process.

Knows files of /proc and /sys only. Where they do not exist (no Linux), nothing is limited.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from serving.engine import cores

MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
VMSTAT = Path("/proc/vmstat")
_RESET = Path("/proc/self/clear_refs")  # "5" written to it starts VmHWM, the peak, anew
PLENTY = 2 * 10**9  # bytes, beside which no model's batch matters
ENOUGH = 0.6  # fraction of the memory there is that a service may take before the first request
_TOLD = "memory"  # the file that one worker makes
_NO_LIMIT = 2**60  # version 1 writes a little less than 2**63 where there is none
# The limit, what is used of it, and what of that the kernel drops by itself: of cgroup versions 2 and 1.
_FILES = (
    ("memory.max", "memory.current", "inactive_file"),
    ("memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"),
)


def limit() -> int | None:
    """Bytes that this process and those of its service may take together; None where nobody knows."""
    return min([limit for limit, _ in _limits()] + _machine("MemTotal"), default=None)


def left() -> int | None:
    """Bytes that can still be taken; None where nobody knows."""
    return min([limit - used for limit, used in _limits()] + _machine("MemAvailable"), default=None)


def short() -> bool:
    """Whether so little is left that what is loaded must be looked at before."""
    free = left()
    return free is not None and free < PLENTY


def own() -> int:
    """Bytes that this process takes for itself alone: not files, which processes share and the kernel may drop."""
    return _status("RssAnon")


def kills() -> int:
    """How many processes the kernel has ended for want of memory, here and in the cgroups around this process."""
    count = _number(VMSTAT, "oom_kill")
    for folder in dict.fromkeys(cores.cgroups("memory")):
        count += sum(_number(folder / name, "oom_kill") for name in ("memory.events", "memory.oom_control"))
    return count


@dataclass(frozen=True)
class Needs:
    """What a service takes once its workers have loaded its models, in bytes, beside what there is."""

    workers: int
    worker: int  # as measured in the first that has loaded
    parent: int
    limit: int
    models: str = "all models"  # that each holds

    @property
    def together(self) -> int:
        return self.parent + self.workers * self.worker

    @property
    def much(self) -> bool:
        """Whether little is left for pictures, batches, and moving to a faster backend."""
        return self.together > ENOUGH * self.limit

    def __str__(self) -> str:
        who = "1 worker takes" if self.workers == 1 else f"{self.workers} workers take"
        sentence = (
            f"{who} {megabytes(self.worker)} of memory each with {self.models}, "
            f"{megabytes(self.together)} with the parent; there are {megabytes(self.limit)}"
        )
        more = ", too little for pictures, batches and faster providers: see Memory in docs/operations.md"
        return sentence + more * self.much


def needs(shared: Path | None, workers: int, parent: int, to_come: int = 0) -> Needs | None:
    """In a worker that has loaded its models: what the service takes. None in all but the first that asks, by a file in
    the `shared` folder, and where it cannot be known. `parent` is its process id. `to_come` is bytes of models that
    are loaded later."""
    there = limit()
    if shared is None or there is None or not own():
        return None
    try:
        (shared / _TOLD).touch(exist_ok=False)
    except OSError:  # another has told it
        return None
    parents = _kilobytes(Path(f"/proc/{parent}/status"), "RssAnon")
    models = f"as many models as may be in memory, {megabytes(to_come)}" if to_come else Needs.models
    return Needs(workers, own() + to_come, parents, there, models)


class Growth:
    """What loading something takes of this process's memory, from the moment that this is made."""

    def __init__(self) -> None:
        self._anonymous, self._files = _status("RssAnon"), _status("RssFile")
        self._resident = _status("VmRSS")
        self._peaks = True
        try:
            _RESET.write_text("5")
        except OSError:  # a kernel, or a sandbox, without it
            self._peaks = False

    def peak(self) -> int:
        """Bytes, at the most that was taken meanwhile; without the files that were mapped."""
        grown = _status("RssAnon") - self._anonymous
        files = max(_status("RssFile") - self._files, 0)
        highest = _status("VmHWM") - self._resident - files if self._peaks else 0
        return max(grown, highest, 0)


def megabytes(size: float) -> str:
    return f"{size / 1e6:,.0f} MB"


def _limits() -> Iterator[tuple[int, int]]:
    """Limit and use, both in bytes, of each cgroup around this process that has a limit."""
    for folder in dict.fromkeys(cores.cgroups("memory")):
        for limited, used, dropped in _FILES:
            with contextlib.suppress(OSError, ValueError):
                limit = int((folder / limited).read_text())  # "max" is no number
                if limit < _NO_LIMIT:
                    yield limit, int((folder / used).read_text()) - _number(folder / "memory.stat", dropped)


def _number(file: Path, name: str) -> int:
    """A row `name number` of a file; 0 where it has none."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0


def _machine(name: str) -> list[int]:
    size = _kilobytes(MEMINFO, name)
    return [size] if size else []


def _status(name: str) -> int:
    return _kilobytes(STATUS, name)


def _kilobytes(file: Path, name: str) -> int:
    """A row of such a file in bytes; 0 where it has none."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
