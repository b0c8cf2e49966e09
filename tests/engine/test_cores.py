"""The machine as /proc and /sys describe it, faked one case at a time."""

import os
from pathlib import Path

import pytest

from serving.engine import cores


def test_cores_are_counted_within_affinity() -> None:
    assert 1 <= cores.physical() <= cores.available() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("available", "workers", "expected"), [(4, 0, (4, 1)), (4, 2, (2, 2)), (4, 3, (3, 1)), (1, 8, (8, 1))]
)
def test_a_worker_a_core_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, available: int, workers: int, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(cores, "available", lambda: available)
    monkeypatch.setattr(cores, "physical", lambda: available)
    assert cores.layout(workers, "cpu") == expected


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty one of 16 processors."""
    monkeypatch.setattr(cores, "CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(cores, "OWN_CGROUPS", tmp_path / "own")
    monkeypatch.setattr(cores, "CPUS", tmp_path / "cpu")
    monkeypatch.setattr(cores, "_allowed", lambda: set(range(16)))
    return tmp_path


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(exist_ok=True, parents=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cgroup/cpu.max": "150000 100000\n"}, 1.5),
        ({"cgroup/cpu.max": "max 100000\n"}, None),
        ({"cgroup/cpu/cpu.cfs_quota_us": "200000\n", "cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cgroup/cpu/cpu.cfs_quota_us": "-1\n", "cgroup/cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
        # Nested: the least of the process's cgroup and those around it.
        ({"own": "0::/a/b\n", "cgroup/a/cpu.max": "200000 100000\n", "cgroup/a/b/cpu.max": "max 100000\n"}, 2.0),
        ({"own": "0::/a/b\n", "cgroup/a/cpu.max": "400000 100000\n", "cgroup/a/b/cpu.max": "50000 100000\n"}, 0.5),
        (
            {
                "own": "5:memory:/m\n4:cpu,cpuacct:/docker/1\n0::/\n",
                "cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us": "300000\n",
                "cgroup/cpu,cpuacct/docker/cpu.cfs_period_us": "100000\n",
                "cgroup/cpu,cpuacct/docker/1/cpu.cfs_quota_us": "-1\n",
                "cgroup/cpu,cpuacct/docker/1/cpu.cfs_period_us": "100000\n",
                "cgroup/memory/m/cpu.max": "1 100000\n",
            },
            3.0,
        ),
        # Inside a container the path that the kernel names is the host's, or leads out of what is mounted.
        ({"own": "0::/host/path\n", "cgroup/cpu.max": "50000 100000\n"}, 0.5),
        ({"own": "0::/../../other\n", "cgroup/cpu.max": "50000 100000\n", "other/cpu.max": "1000 100000\n"}, 0.5),
        ({"own": "nonsense\n", "cgroup/cpu.max": "nonsense\n"}, None),
    ],
)
def test_the_quota_is_the_least_of_all_cgroups_around(
    machine: Path, files: dict[str, str], expected: float | None
) -> None:
    write(machine, files)
    assert cores._quota() == expected


@pytest.mark.parametrize(("quota", "expected"), [(50, 1), (100, 1), (149, 1), (150, 2), (200, 2), (10_000, 16)])
def test_a_quota_is_rounded_to_whole_workers(machine: Path, quota: int, expected: int) -> None:
    write(machine, {"cgroup/cpu.max": f"{quota}000 100000\n"})
    assert cores.available() == expected
    assert cores.layout(0, "cpu") == (expected, 1)


def test_a_cpuset_counts_as_it_is_the_affinity(machine: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cores, "_allowed", lambda: {3, 5})
    assert (cores.available(), cores.physical()) == (2, 2)


def test_siblings_share_their_core_when_threads_are_dealt_out(machine: Path) -> None:
    siblings = {f"cpu/cpu{cpu}/topology/thread_siblings_list": f"{cpu % 8},{cpu % 8 + 8}\n" for cpu in range(16)}
    write(machine, siblings)
    assert (cores.available(), cores.physical()) == (16, 8)
    assert cores.layout(0, "cpu") == (16, 1)
    assert cores.layout(2, "cpu") == (2, 4)


@pytest.mark.parametrize(("provider", "expected"), [("auto", (4, 4)), ("cuda", (4, 4)), ("cpu", (16, 1))])
def test_on_a_gpu_there_are_few_workers(
    machine: Path, monkeypatch: pytest.MonkeyPatch, provider: str, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(cores.cuda, "may_work", lambda: True)
    assert cores.layout(0, provider) == expected
