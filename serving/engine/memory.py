"""How much memory there is, is left, and is taken: of the machine and of the cgroups around this process.

Knows files of /proc and /sys only. Where they do not exist (no Linux), nothing is limited.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

from serving.engine import cores

MEMINFO = Path("/proc/meminfo")
STATUS = Path("/proc/self/status")
_RESET = Path("/proc/self/clear_refs")  # "5" written to it starts VmHWM, the peak, anew
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


def own() -> int:
    """Bytes that this process takes for itself alone: not files, which processes share and the kernel may drop."""
    return _status("RssAnon")


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
                    yield limit, int((folder / used).read_text()) - _stat(folder, dropped)


def _stat(folder: Path, name: str) -> int:
    with contextlib.suppress(OSError, ValueError):
        for line in (folder / "memory.stat").read_text().splitlines():
            if line.startswith(f"{name} "):
                return int(line.split()[1])
    return 0


def _machine(name: str) -> list[int]:
    found = _kilobytes(MEMINFO, name)
    return [found] if found else []


def _status(name: str) -> int:
    return _kilobytes(STATUS, name)


def _kilobytes(file: Path, name: str) -> int:
    """A row of such a file in bytes; 0 where it has none."""
    with contextlib.suppress(OSError, ValueError):
        for line in file.read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1]) * 1024
    return 0
