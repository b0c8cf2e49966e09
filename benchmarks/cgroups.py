"""A cgroup that is there -> a command that runs another one inside it; the cgroup is removed afterwards.

A limit holds for all processes together. Knows neither which limit it is, nor how the cgroup was made.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

LEAVES_SECONDS = 60.0  # a process that has ended leaves its cgroup a moment later


@contextmanager
def inside(folder: Path) -> Iterator[Sequence[str]]:
    """A command that runs the rest of its command line in the cgroup `folder`. Raises OSError where it is not empty
    in the end."""
    try:
        yield ["sh", "-c", f'echo $$ > {folder}/cgroup.procs && exec "$@"', "sh"]
    finally:
        deadline = time.monotonic() + LEAVES_SECONDS
        while True:
            try:
                folder.rmdir()
                break
            except OSError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.1)
