from types import SimpleNamespace

import numpy as np
import pytest

from serving.engine import traffic
from serving.engine.buckets import Outputs
from serving.engine.exactness import CloseCalls
from serving.engine.traffic import LEAST, MOST, Traffic


def test_a_share_is_known_once_enough_pictures_have_come() -> None:
    seen = Traffic(even=0.2)
    seen.add(LEAST - 1, 3)
    assert seen.share is None
    seen.add(1, 0)
    assert seen.share == pytest.approx(3 / LEAST)


def test_latest_pictures_count_for_more() -> None:
    seen = Traffic(even=0.2)
    seen.add(MOST, MOST)
    for _ in range(16):
        seen.add(MOST // 4, 0)
    assert seen.share is not None
    assert seen.share < 0.1


def test_share_near_the_even_one_moves_nothing() -> None:
    for share, exact, wanted in ((0.1, True, True), (0.18, True, False), (0.22, False, False), (0.3, False, True)):
        seen = Traffic(even=0.2)
        seen.add(1000, round(1000 * share))
        assert seen.wants_other(exact) is wanted


def test_close_calls_of_an_exact_backend_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch each LOOK_SECONDS. By what it answers, not a less exact one: of three pictures one is close."""
    now = [1000.0]
    monkeypatch.setattr(traffic, "time", SimpleNamespace(monotonic=lambda: now[0]))
    seen = Traffic(even=0.2)
    rows = np.array([[0.9, 0.1], [0.49, 0.51], [0.2, 0.8]], np.float32)
    run = traffic.counting(lambda images: Outputs(rows), CloseCalls(margin=0.03), seen)
    for _ in range(LEAST // 3):
        for _ in range(5):  # of which one is looked at
            np.testing.assert_array_equal(run(np.zeros((3, 1))).probabilities, rows)
        now[0] += 2 * traffic.LOOK_SECONDS
    assert seen.share is None
    run(np.zeros((3, 1)))
    assert seen.share == pytest.approx(1 / 3)
