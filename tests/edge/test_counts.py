"""How many connections each worker says it has, and which of them count."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from serving.edge import counts


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where workers leave their counts; none is held to be absent for what this machine does meanwhile."""
    monkeypatch.setattr(counts, "ABSENT_SECONDS", 3600.0)
    counts.create_counts(tmp_path)
    return tmp_path


def test_a_worker_knows_how_many_connections_others_have(place: Path) -> None:
    first = counts.Counts(place)
    assert first.others() is None
    second = counts.Counts(place, process=os.getppid())
    first.note(3)
    second.note(5)
    assert (first.others(), second.others()) == (5, 3)


def test_the_slot_of_a_dead_worker_is_used_again(place: Path) -> None:
    gone = subprocess.Popen(["true"])
    gone.wait()
    first = counts.Counts(place)
    counts.Counts(place, process=gone.pid).note(0)
    assert first.others() == 0
    counts.Counts(place, process=os.getppid()).note(7)
    assert first.others() == 7


def test_without_a_place_everybody_takes_what_comes(tmp_path: Path) -> None:
    for folder in (None, tmp_path, tmp_path / "nothing"):
        held = counts.Counts(folder)
        held.note(5)
        assert held.others() is None


def test_a_worker_that_stops_or_hangs_is_not_waited_for(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first, second = counts.Counts(place), counts.Counts(place, process=os.getppid())
    second.note(1, stops=True)
    assert first.others() is None
    assert first.others(stops=True) == 1  # when the whole service ends, all of them still answer
    second.note(1)
    assert first.others() == 1
    monkeypatch.setattr(counts, "ABSENT_SECONDS", 0.0)
    time.sleep(0.001)
    assert first.others() is None
