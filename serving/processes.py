"""Processes of this machine: whether another lives, and what memory this one gives back."""

import contextlib
import ctypes
import gc
import os
import sys
import threading
from pathlib import Path


def alive(process: int) -> bool:
    """Whether a process of that id still runs; one that has died but was not waited for yet (BentoML's parent looks
    every 10 s) does not."""
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    try:
        state = Path(f"/proc/{process}/stat").read_text().rpartition(") ")[2][:1]
    except OSError:  # no Linux, or gone this moment
        return not Path("/proc/self").exists()
    return state not in ("Z", "X")


def step_back() -> None:
    """Let this thread have what processor time others leave. On Linux, where a thread has a priority of its own."""
    if sys.platform == "linux":
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


def give_memory_back() -> None:
    """After much was freed, to the system, which the allocator of glibc else does only for what is freed last: 20 to 30
    MB once a model has moved to another backend."""
    gc.collect()
    trim_memory()


def trim_memory() -> None:
    """The same without a look for garbage: for what was in no cycle."""
    with contextlib.suppress(OSError, AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)
