"""How many connections each worker of a service holds, and whether it stops: a file that all of them map, in the folder
that they share. Knows numbers and process ids only.
"""

import contextlib
import mmap
import os
import struct
import time
from pathlib import Path

from serving.processes import alive

ABSENT_SECONDS = 0.5  # without a note: a worker that hangs, or was stopped, is not waited for
SLOTS = 256
# A process id, its connections, 1 once it has been told to stop, and when this was noted on the monotonic clock.
_SLOT = struct.Struct("=iiid")
COUNTS = "connections"  # the file in the folder that the processes of a service share


def create_counts(folder: Path) -> None:
    """In the parent: where the workers leave their counts. Without one they take connections as they come."""
    with contextlib.suppress(OSError):
        (folder / COUNTS).write_bytes(bytes(SLOTS * _SLOT.size))


class Counts:
    """How many connections each worker holds, and whether it stops: a file that all of them map, in the folder that
    they share."""

    def __init__(self, folder: Path | None, process: int | None = None) -> None:
        self._process = os.getpid() if process is None else process
        self._memory: mmap.mmap | None = None
        self._slot = 0
        if folder is None:
            return
        with contextlib.suppress(OSError, ValueError):
            with (folder / COUNTS).open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), SLOTS * _SLOT.size)
            self._slot = self._free_slot(self._memory)

    def _free_slot(self, memory: mmap.mmap) -> int:
        """The first that nobody has, or that a dead worker had. Two that start at once may take the same one: the
        earlier writer finds it out with its next note."""
        for slot in range(SLOTS):
            process, *_ = _SLOT.unpack_from(memory, slot * _SLOT.size)
            if process <= 0 or not alive(process):
                _SLOT.pack_into(memory, slot * _SLOT.size, self._process, 0, 0, time.monotonic())
                return slot
        raise OSError("no free slot")

    def note(self, connections: int, stops: bool = False) -> None:
        if self._memory is not None:
            if _SLOT.unpack_from(self._memory, self._slot * _SLOT.size)[0] != self._process:
                self._slot = self._free_slot(self._memory)
            now = time.monotonic()
            _SLOT.pack_into(self._memory, self._slot * _SLOT.size, self._process, connections, stops, now)

    def all_stop(self) -> bool:
        """Whether every worker that lives was told to stop: the service ends, not only this worker."""
        if self._memory is None:
            return False
        slots = _SLOT.iter_unpack(self._memory[:])
        return all(stops for process, _, stops, _ in slots if process > 0 and alive(process))

    def forget_the_dead(self) -> None:
        """A dead worker has no connections, but its note would say so until another took its place."""
        if self._memory is not None:
            for slot, (process, *_) in enumerate(_SLOT.iter_unpack(self._memory[:])):
                if process > 0 and not alive(process):
                    _SLOT.pack_into(self._memory, slot * _SLOT.size, -1, 0, 0, 0.0)

    def others(self, stops: bool = False) -> int | None:
        """The fewest connections of another worker, None if there is none; of those that stop only if this one `stops`
        too."""
        counts = []
        if self._memory is not None:
            latest = time.monotonic() - ABSENT_SECONDS
            for slot, (process, connections, ends, noted) in enumerate(_SLOT.iter_unpack(self._memory)):
                if process == 0:
                    break
                if slot != self._slot and process > 0 and (stops or not ends) and noted > latest:
                    counts.append(connections)
        return min(counts, default=None)
