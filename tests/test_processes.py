"""Whether another process lives."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serving.processes import alive


def test_this_process_lives() -> None:
    assert alive(os.getpid())
    assert alive(1)  # also where it is somebody else's


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="only Linux tells")
def test_a_process_that_has_died_is_dead_before_and_after_it_is_waited_for() -> None:
    process = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
    assert alive(process.pid)
    process.communicate(b"\n")  # waits
    assert not alive(process.pid)
    process = subprocess.Popen([sys.executable, "-c", ""])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)  # it stays a zombie
    assert not alive(process.pid)
    process.wait()
