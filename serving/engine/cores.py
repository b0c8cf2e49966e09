"""How many processes and threads: the one place where that is decided. Knows the machine only."""

import os
from collections.abc import Iterator
from pathlib import Path

from serving.engine import cuda

CGROUPS = Path("/sys/fs/cgroup")
OWN_CGROUPS = Path("/proc/self/cgroup")
CPUS = Path("/sys/devices/system/cpu")
MAX_GPU_WORKERS = 4  # each has a CUDA context of its own, about half a GB; their HTTP is what they are for


def available() -> int:
    """The logical processors that this process may keep busy: affinity, which a cpuset narrows, and the CPU quota of
    its cgroup; at least 1. A quota of 1.5 counts as 2: two workers that pause now and then do more than one."""
    allowed, quota = _allowed(), _quota()
    return len(allowed) if quota is None else min(len(allowed), max(1, int(quota + 0.5)))


def physical() -> int:
    """The same in cores: threads that share one (SMT) have one set of arithmetic units between them."""
    cores = set()
    for cpu in _allowed():
        try:
            cores.add((CPUS / f"cpu{cpu}/topology/thread_siblings_list").read_text().strip())
        except OSError:
            cores.add(str(cpu))
    return min(available(), len(cores))


def layout(workers: int, provider: str) -> tuple[int, int]:
    """Worker processes, and the threads of each one's runs; `workers` is what was asked for, 0 for what suits.

    On a CPU a process a logical processor, each with one thread: nothing waits for another core, and HTTP, which Python
    does on one core a process, has them all. On a GPU a few processes. Fewer by hand (SHORTCUT_WORKERS): their runs
    share the cores that are left.
    """
    on_gpu = provider in ("auto", "cuda") and cuda.may_work()
    workers = workers or (min(available(), MAX_GPU_WORKERS) if on_gpu else available())
    return workers, max(1, physical() // workers)


def _allowed() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _quota() -> float | None:
    """In processors: the least that this process's cgroup and those around it have; None where none has any."""
    quotas = [quota for folder in cgroups("cpu") if (quota := _quota_of(folder)) is not None]
    return min(quotas, default=None)


def cgroups(controller: str) -> Iterator[Path]:
    """The folders of this process's cgroup and of those around it, in either version. In a container the path that the
    kernel names may lead nowhere, and its own cgroup is what is mounted at the top."""
    try:
        lines = OWN_CGROUPS.read_text().splitlines()
    except OSError:
        lines = []
    for line in [*lines, "0::/", f"1:{controller}:/"]:
        _, controllers, path = [*line.split(":", 2), "", ""][:3]
        if controllers and controller not in controllers.split(","):
            continue
        # Version 2 names no controllers. The folder of version 1 may also be called after one of two.
        for top in [CGROUPS] if not controllers else [CGROUPS / controllers, CGROUPS / controller]:
            folder = top / path.lstrip("/")
            while ".." not in folder.parts and folder.is_relative_to(top):
                yield folder
                folder = folder.parent


def _quota_of(folder: Path) -> float | None:
    try:
        quota, period = (folder / "cpu.max").read_text().split()  # version 2: "<quota|max> <period>"
    except (OSError, ValueError):
        try:  # version 1, whose quota of -1 is none
            quota, period = ((folder / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period"))
        except OSError:
            return None
    try:
        return int(quota) / int(period) if int(quota) > 0 else None
    except (ValueError, ZeroDivisionError):
        return None
