"""Batches of every size on runs for a few sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.buckets import (
    FORMED,
    GAIN,
    Outputs,
    batch_seconds,
    images_per_second,
    in_buckets,
    plans,
    with_recomputing,
    worthwhile,
)

TIMES = st.dictionaries(st.sampled_from(FORMED), st.floats(1e-6, 1.0), min_size=1).filter(lambda times: len(times) > 0)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (2, [4]), (4, [4]), (5, [4, 1]), (11, [4, 4, 4]), (0, [])])
def test_batches_are_filled_up_or_cut(count: int, sizes: list[int]) -> None:
    seen = []

    def noting(images: np.ndarray) -> Outputs:
        seen.append(len(images))
        return Outputs(images.sum(axis=1, keepdims=True), images[:, 0])

    images = np.arange(3 * count).reshape(count, 3)
    run = in_buckets({1: noting, 4: noting}, {1: 1.0, 4: 1.9})
    if count:
        probabilities, unfamiliarity = run(images)
        assert np.array_equal(probabilities, images.sum(axis=1, keepdims=True))
        assert np.array_equal(unfamiliarity, images[:, 0])
    assert seen == sizes


def test_what_each_size_costs_decides() -> None:
    assert plans({1: 1.0, 8: 2.0}, 8)[5] == (2.0, (8,))
    assert plans({1: 1.0, 8: 7.0}, 8)[5] == (5.0, (1, 1, 1, 1, 1))
    assert plans({1: 1.0, 4: 2.0}, 8)[6] == (4.0, (1, 1, 4))


@given(TIMES, st.integers(1, 40))
def test_every_image_is_computed_once_and_no_other_plan_is_faster_by_one_run(
    seconds: dict[int, float], count: int
) -> None:
    taken, sizes = plans(seconds, count)[count]
    assert taken == pytest.approx(sum(seconds[size] for size in sizes))
    assert sum(sizes) >= count
    assert sum(sizes) - max(sizes) < count
    images = np.arange(count)[:, None]
    run = in_buckets({size: lambda x: Outputs(2 * x) for size in seconds}, seconds)
    assert np.array_equal(run(images).probabilities, 2 * images)
    assert run(images).unfamiliarity is None


@pytest.mark.parametrize(
    ("seconds", "kept"),
    [
        ({size: 0.005 * size for size in FORMED}, {1}),  # a large network: larger batches gain nothing
        ({1: 24e-6, 2: 25e-6, 4: 26e-6, 8: 27e-6, 16: 37e-6, 32: 44e-6}, {1, 8, 16, 32}),  # a small one
        ({32: 1.0}, {32}),
    ],
)
def test_only_sizes_that_pay_are_prepared(seconds: dict[int, float], kept: set[int]) -> None:
    assert set(worthwhile(seconds)) == kept


@given(TIMES)
def test_no_batch_takes_much_longer_without_the_sizes_that_were_left_out(seconds: dict[int, float]) -> None:
    most = max(seconds)
    for (slow, _), (fast, _) in zip(plans(worthwhile(seconds), most), plans(seconds, most), strict=True):
        assert slow <= GAIN * fast


def test_close_calls_cost_what_computing_them_again_takes() -> None:
    fast, exact = batch_seconds({1: 0.001, 32: 0.002}), {1: 0.010, 32: 0.320}
    assert with_recomputing(fast, exact, 0.0) == pytest.approx(fast)
    for size, seconds in with_recomputing(fast, exact, 1.0).items():
        assert seconds == pytest.approx(fast[size] + 0.010 * size)
    half = with_recomputing(fast, exact, 0.5)
    assert half[1] == pytest.approx(fast[1] + 0.005)
    assert half[32] == pytest.approx(fast[32] + 0.160)
    assert images_per_second(half) < images_per_second(fast)


def test_a_small_batch_of_close_calls_is_charged_as_a_batch() -> None:
    """Not by its average: two of four images at once take less than two single ones."""
    found = with_recomputing({2: 0.0}, {1: 1.0, 2: 1.2}, 0.5)
    assert found[2] == pytest.approx(0.25 * 0 + 0.5 * 1.0 + 0.25 * 1.2)
