"""Batches of every size on runs for a few sizes."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.engine.buckets import FORMED, GAIN, in_buckets, plans, worthwhile

TIMES = st.dictionaries(st.sampled_from(FORMED), st.floats(1e-6, 1.0), min_size=1).filter(lambda times: len(times) > 0)


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (2, [4]), (4, [4]), (5, [4, 1]), (11, [4, 4, 4]), (0, [])])
def test_batches_are_filled_up_or_cut(count: int, sizes: list[int]) -> None:
    seen = []

    def noting(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return images.sum(axis=1, keepdims=True)

    images = np.arange(3 * count).reshape(count, 3)
    run = in_buckets({1: noting, 4: noting}, {1: 1.0, 4: 1.9})
    if count:
        assert np.array_equal(run(images), images.sum(axis=1, keepdims=True))
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
    assert np.array_equal(in_buckets({size: lambda x: 2 * x for size in seconds}, seconds)(images), 2 * images)


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
