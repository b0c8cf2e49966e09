"""Whether another process lives, and what this one gives back."""

import os
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from serving.processes import alive, give_memory_back


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


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries give back by themselves, or cannot")
def test_what_was_freed_between_what_is_kept_is_given_back() -> None:
    program = """
import pathlib
from serving.processes import give_memory_back
pages = lambda: int(pathlib.Path("/proc/self/statm").read_text().split()[1])
held = [bytearray(3000) for _ in range(20_000)]
del held[::2], held[1::2]
kept = held[-1]  # above what is freed
del held
before = pages()
give_memory_back()
print((before - pages()) * 4096)
"""
    done = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert int(done.stdout) > 10_000_000


def test_where_there_is_nothing_to_give_back_nothing_happens() -> None:
    give_memory_back()
