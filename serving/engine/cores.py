"""How many processes and threads: the one place where that is decided. Knows the machine only."""

import os
from pathlib import Path

from serving.engine.providers import cuda_may_work

CGROUP = Path("/sys/fs/cgroup")
MAX_GPU_WORKERS = 4  # each has a CUDA context of its own, about half a GB; their HTTP is what they are for


def available() -> int:
    """The cores this process may use: affinity and the cgroup's CPU quota, at least 1."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    quota = _quota()
    return cores if quota is None else min(cores, max(1, int(quota)))


def _quota() -> float | None:
    """In cores; None where the cgroup has none."""
    try:
        quota, period = (CGROUP / "cpu.max").read_text().split()  # version 2: "<quota|max> <period>"
    except (OSError, ValueError):
        try:  # version 1, whose quota of -1 is none
            quota, period = ((CGROUP / f"cpu/cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):
        return None


def layout(workers: int, provider: str) -> tuple[int, int]:
    """Worker processes, and the threads of each one's sessions; `workers` is what was asked for, 0 for what suits.

    On a CPU a process a core, each with one thread: nothing waits for another core, and HTTP, which Python does on one
    core a process, has them all. On a GPU a few processes. Fewer by hand (SHORTCUT_WORKERS): their sessions share
    the cores that are left.
    """
    cores = available()
    on_gpu = provider in ("auto", "cuda") and cuda_may_work()
    workers = workers or (min(cores, MAX_GPU_WORKERS) if on_gpu else cores)
    return workers, max(1, cores // workers)
