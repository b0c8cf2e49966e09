"""Other processes of this machine, by their ids."""

import os
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
