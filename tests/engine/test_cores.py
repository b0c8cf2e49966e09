import os
from pathlib import Path

import pytest

from serving.engine import cores


def test_cores_are_counted_within_affinity() -> None:
    assert 1 <= cores.available() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("available", "workers", "expected"), [(4, 0, (4, 1)), (4, 2, (2, 2)), (4, 3, (3, 1)), (1, 8, (8, 1))]
)
def test_a_worker_a_core_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, available: int, workers: int, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(cores, "available", lambda: available)
    assert cores.layout(workers, "cpu") == expected


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, None),
        ({"cpu/cpu.cfs_quota_us": "200000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 2.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, None),
        ({}, None),
    ],
)
def test_the_quota_is_read_from_either_version_of_cgroups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: dict[str, str], expected: float | None
) -> None:
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.setattr(cores, "CGROUP", tmp_path)
    assert cores._quota() == expected


@pytest.mark.parametrize(("provider", "expected"), [("auto", (4, 4)), ("cuda", (4, 4)), ("cpu", (16, 1))])
def test_on_a_gpu_there_are_few_workers(
    monkeypatch: pytest.MonkeyPatch, provider: str, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(cores, "available", lambda: 16)
    monkeypatch.setattr(cores, "cuda_may_work", lambda: True)
    assert cores.layout(0, provider) == expected
