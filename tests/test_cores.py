import os

import pytest

from serving import cores
from serving.settings import Settings


def test_cores_are_counted_within_affinity() -> None:
    assert 1 <= cores.available() <= (os.cpu_count() or 1)


@pytest.mark.parametrize(
    ("available", "workers", "expected"), [(4, 0, (4, 1)), (4, 2, (2, 2)), (4, 3, (3, 1)), (1, 8, (8, 1))]
)
def test_a_worker_a_core_unless_told_otherwise(
    monkeypatch: pytest.MonkeyPatch, available: int, workers: int, expected: tuple[int, int]
) -> None:
    monkeypatch.setattr(cores, "available", lambda: available)
    assert cores.layout(Settings(provider="cpu", workers=workers)) == expected
