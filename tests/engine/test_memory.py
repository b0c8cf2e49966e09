"""How much memory is left, as /proc and the cgroups of either version say it."""

import subprocess
import sys
from pathlib import Path

import pytest

from serving.engine import cores, memory
from tests.fixtures.server import ROOT

MB = 10**6


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One of 16 GB, 9 of them available, with no limits."""
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(memory, "VMSTAT", tmp_path / "vmstat")
    monkeypatch.setattr(memory, "MEMINFO", tmp_path / "meminfo")
    write(tmp_path, {"meminfo": "MemTotal:  16000000 kB\nMemFree: 1 kB\nMemAvailable:  9000000 kB\n"})
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text(text)


VERSION_2 = {
    "cgroup/memory.max": f"{1000 * MB}\n",
    "cgroup/memory.current": f"{700 * MB}\n",
    "cgroup/memory.stat": f"anon 5\ninactive_file {50 * MB}\n",
}
VERSION_1 = {
    "own": "4:memory:/docker/1\n0::/\n",
    "cgroup/memory/docker/memory.limit_in_bytes": f"{800 * MB}\n",
    "cgroup/memory/docker/memory.usage_in_bytes": f"{750 * MB}\n",
    "cgroup/memory/docker/1/memory.limit_in_bytes": "9223372036854771712\n",
    "cgroup/memory/docker/1/memory.usage_in_bytes": f"{700 * MB}\n",
}


@pytest.mark.parametrize(
    ("files", "limit", "left"),
    [
        ({}, 16_384_000_000, 9_216_000_000),
        (VERSION_2, 1000 * MB, 350 * MB),
        (VERSION_2 | {"cgroup/memory.max": "max\n"}, 16_384_000_000, 9_216_000_000),
        (VERSION_1, 800 * MB, 50 * MB),  # of the group around it
        (VERSION_2 | {"meminfo": f"MemTotal: 16000000 kB\nMemAvailable: {100_000} kB\n"}, 1000 * MB, 102_400_000),
        ({"meminfo": ""}, None, None),
    ],
)
def test_the_least_of_machine_and_cgroups_counts(
    machine: Path, files: dict[str, str], limit: int | None, left: int | None
) -> None:
    write(machine, files)
    assert (memory.limit(), memory.left()) == (limit, left)


def test_what_the_kernel_ended_is_counted_in_either_version(machine: Path) -> None:
    assert memory.kills() == 0
    write(machine, {"cgroup/memory.events": "low 0\noom 9\noom_kill 2\n", "vmstat": "oom_kill 1\n"})
    write(machine, {"cgroup/memory/memory.oom_control": "under_oom 0\noom_kill 4\n"})
    assert memory.kills() == 7


def in_a_small_process(code: str) -> list[int]:
    """What `code` prints, in a process from which no kernel takes other memory back meanwhile."""
    prelude = "from serving.engine import memory\nMB = 10**6\ngrowth = memory.Growth()\n"
    done = subprocess.run([sys.executable, "-c", prelude + code], cwd=ROOT, check=True, capture_output=True, text=True)
    return [int(word) for word in done.stdout.split()]


def test_what_is_allocated_is_seen_to_grow() -> None:
    before, after, own = in_a_small_process(
        "print(growth.peak())\ntaken = bytearray(64 * MB)\nprint(growth.peak(), memory.own())"
    )
    assert before < 30 * MB
    assert after >= 60 * MB
    assert own > 0


def test_the_peak_counts_what_was_given_back() -> None:
    peaks, peak = in_a_small_process("taken = bytearray(64 * MB)\ndel taken\nprint(int(growth._peaks), growth.peak())")
    if not peaks:
        pytest.skip("this kernel does not start the peak anew")
    assert peak >= 60 * MB


def test_one_worker_says_what_all_take_together(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory, "own", lambda: 250 * MB)
    monkeypatch.setattr(memory, "_kilobytes", lambda file, name: 80 * MB if "status" in str(file) else 1000 * MB)
    needs = memory.needs(machine, 2, 1)
    assert str(needs) == (
        "2 workers take 250 MB of memory each with all models, 580 MB with the parent; there are 1,000 MB"
    )
    assert memory.needs(machine, 2, 1) is None  # another has said it
    assert memory.needs(None, 2, 1) is None
    few = memory.Needs(3, 250 * MB, 80 * MB, 1000 * MB)
    assert few.much
    assert "too little for pictures" in str(few)
