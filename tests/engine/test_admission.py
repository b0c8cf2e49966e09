"""What may wait in a queue is what can be done in time, at the pace of lately."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.admission import MOST_TIMES, WEIGHT, ServiceTime


def test_nobody_knows_the_pace_at_first() -> None:
    pace = ServiceTime(limit=100, patience=1.0)
    assert (pace.seconds, pace.room, pace.why) == (0.0, 100, "")


def test_the_room_follows_the_pace() -> None:
    pace = ServiceTime(limit=100, patience=1.0, seconds=0.1)
    assert pace.room == 10
    assert "in time at the present pace" in pace.why
    for moment in range(1, 100):
        pace.ended(4, moment, moment + 0.08, more_wait=False)  # 20 ms each
    assert pace.seconds == pytest.approx(0.02)
    assert pace.room == pytest.approx(50, abs=1)


def test_what_happens_between_two_pieces_counts_where_the_second_had_to_wait() -> None:
    pace = ServiceTime(limit=100, patience=1.0)
    pace.ended(1, began=0.0, now=0.5, more_wait=True)
    pace.ended(1, began=0.7, now=1.0, more_wait=False)
    assert pace.seconds == pytest.approx(0.5)


def test_one_pause_of_the_machine_does_not_decide_but_lasting_slowness_does() -> None:
    pace = ServiceTime(limit=512, patience=5.0, seconds=0.01)
    pace.ended(4, began=0.0, now=8.0, more_wait=False)  # the whole process was stopped meanwhile
    assert pace.room > 250
    assert pace.seconds <= 0.01 * (1 + WEIGHT * MOST_TIMES)
    for moment in range(100, 130):
        pace.ended(1, began=moment, now=moment + 1.0, more_wait=False)
    assert pace.seconds == pytest.approx(1.0, rel=0.1)


def test_idleness_does_not_count_even_after_what_waited_was_dropped() -> None:
    pace = ServiceTime(limit=100, patience=1.0)
    pace.ended(1, began=0.0, now=0.5, more_wait=True)
    pace.ended(0, began=0.6, now=0.6, more_wait=False)
    pace.ended(1, began=1000.0, now=1000.5, more_wait=False)
    assert pace.seconds == pytest.approx(0.5)


@given(st.lists(st.floats(0, 1e6), max_size=20), st.integers(1, 100_000), st.floats(1e-3, 3600))
def test_there_is_always_room_for_one_and_never_for_more_than_the_limit(
    durations: list[float], limit: int, patience: float
) -> None:
    pace = ServiceTime(limit, patience)
    for seconds in durations:
        pace.ended(1, 0.0, seconds, more_wait=False)
        assert 1 <= pace.room <= limit
