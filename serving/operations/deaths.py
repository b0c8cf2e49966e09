"""How a worker of this service ended -> a line in the parent's log, and whether another is to take its place.

A worker that dies again and again would be replaced for ever, and each one takes memory and cores from those that
serve. Knows neither models nor the program that starts workers.
"""

import logging
import os
import signal
from collections.abc import Callable
from typing import Protocol

log = logging.getLogger("shortcut")

SOON_SECONDS = 60.0  # a worker that ended sooner after its start has died of starting, or of its first requests
ROUNDS = 3  # deaths in a row, for each worker that there should be, until no more are started


class Memory(Protocol):
    """What is known of this machine's memory, or the container's."""

    def left(self) -> int | None: ...
    def limit(self) -> int | None: ...
    def kills(self) -> int: ...


class Deaths:
    """Counts the deaths in a row: none of those workers has lived for SOON_SECONDS. Belongs to the parent."""

    def __init__(self, workers: int, memory: Memory, megabytes: Callable[[float], str]):
        self._most = ROUNDS * workers
        self._memory, self._megabytes = memory, megabytes
        self._kills = memory.kills()
        self._in_a_row = 0

    def ended(self, process: int, status: int, age: float) -> bool:
        """A worker ended by itself with the `status` that waitpid gives, `age` seconds after its start. Whether another
        is to be started."""
        kills = self._memory.kills()
        for_memory, self._kills = kills > self._kills, kills
        self._in_a_row = self._in_a_row + 1 if age < SOON_SECONDS else 1
        log.error("worker %d ended after %.0f s: %s", process, age, self._how(status, for_memory))
        if self._in_a_row < self._most:
            return True
        log.critical(
            "%d workers in a row ended soon after their start: no more are started. "
            "If the memory is too small: serve fewer models, or run fewer workers (SHORTCUT_WORKERS)",
            self._in_a_row,
        )
        return False

    def _how(self, status: int, for_memory: bool) -> str:
        if not os.WIFSIGNALED(status):
            return f"it exited with status {os.waitstatus_to_exitcode(status)}"
        number = os.WTERMSIG(status)
        try:
            name = signal.Signals(number).name
        except ValueError:  # a real-time signal
            name = f"signal {number}"
        if number != signal.SIGKILL:
            return f"{name}, a fault in native code" if number in _FAULTS else name
        left, limit = self._memory.left(), self._memory.limit()
        room = ""
        if left is not None and limit is not None:
            room = f"; now {self._megabytes(left)} of {self._megabytes(limit)} are left"
        cause = "the kernel killed it for want of memory" if for_memory else "killed, perhaps for want of memory"
        return f"{name}, {cause}{room}"


_FAULTS = {signal.SIGSEGV, signal.SIGBUS, signal.SIGILL, signal.SIGFPE, signal.SIGABRT}
