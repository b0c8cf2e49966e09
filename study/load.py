"""How busy the machine was while something was measured: a timing beside other work must say so.

The load average counts the measured process too, so what others used is taken from the kernel's own count.
"""

import os
import time
from pathlib import Path
from typing import Any


class Load:
    """Started when made; `so_far()` describes the time since."""

    def __init__(self) -> None:
        self._average = _average()
        self._started = time.perf_counter()
        self._busy, self._own = _busy_seconds(), _own_seconds()

    def so_far(self) -> dict[str, Any]:
        """1, 5 and 15 minute load averages at start and now; `other_cores`: cores that other processes kept busy."""
        busy, elapsed = _busy_seconds(), time.perf_counter() - self._started
        other = None
        if busy is not None and self._busy is not None and elapsed > 0:
            other = max(0.0, (busy - self._busy - (_own_seconds() - self._own)) / elapsed)
        return {"average_start": self._average, "average_end": _average(), "other_cores": other}


def _average() -> list[float] | None:
    return list(os.getloadavg()) if hasattr(os, "getloadavg") else None


def _own_seconds() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _busy_seconds() -> float | None:
    """CPU seconds that all processes have used (Linux; proc(5), /proc/stat: user, nice, system, …), else None."""
    try:
        user, nice, system = (int(field) for field in Path("/proc/stat").read_text().split()[1:4])
        return (user + nice + system) / os.sysconf("SC_CLK_TCK")
    except (OSError, ValueError):
        return None
