"""Augmentations on small images: what may change, what may not, and that the seed decides."""

import numpy as np
import pytest
import tensorflow as tf

from training.recipes.augmentation import AUGMENTATIONS, augmented, cutout, flip, shift
from training.recipes.distortion import focus, light, pen, remains, warp

IMAGES = np.random.default_rng(0).random((64, 16, 24, 3)).astype(np.float32)


@pytest.mark.parametrize("name", AUGMENTATIONS)
def test_shape_type_and_range_stay_and_the_seed_decides(name: str) -> None:
    first, again, other = (
        augmented(tf.constant(IMAGES), (name,), tf.constant(seed)) for seed in ([1, 2], [1, 2], [1, 3])
    )
    assert first.shape == IMAGES.shape
    assert first.dtype == tf.float32
    assert 0 <= float(tf.reduce_min(first)) <= float(tf.reduce_max(first)) <= 1
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first, other)


def test_flip_mirrors_about_half_of_the_images() -> None:
    changed = flip(tf.constant(IMAGES), tf.constant([0, 0])).numpy()
    mirrored = [np.array_equal(new, old[:, ::-1]) for new, old in zip(changed, IMAGES, strict=True)]
    assert all(m or np.array_equal(new, old) for m, new, old in zip(mirrored, changed, IMAGES, strict=True))
    assert 16 < sum(mirrored) < 48


def test_shift_moves_each_image_by_at_most_an_eighth_and_mirrors_the_edge() -> None:
    changed = shift(tf.constant(IMAGES), tf.constant([0, 0])).numpy()
    padded = np.pad(IMAGES, [(0, 0), (2, 2), (3, 3), (0, 0)], "reflect")
    offsets = set()
    for new, wide in zip(changed, padded, strict=True):
        places = [(y, x) for y in range(5) for x in range(7) if np.array_equal(new, wide[y : y + 16, x : x + 24])]
        assert places
        offsets.add(places[0])
    assert len(offsets) > 10


def test_cutout_covers_one_square_of_a_quarter_of_the_sides_in_the_mean_colour() -> None:
    changed = cutout(tf.constant(IMAGES), tf.constant([0, 0])).numpy()
    places = set()
    for new, old in zip(changed, IMAGES, strict=True):
        rows, columns = np.nonzero((new != old).any(axis=2))
        top, left = rows.min(), columns.min()
        assert (rows.max() - top, columns.max() - left, len(rows)) == (3, 5, 4 * 6)
        np.testing.assert_allclose(new[top : top + 4, left : left + 6].reshape(-1, 3), [IMAGES.mean((0, 1, 2))] * 24)
        places.add((top, left))
    assert len(places) > 30


def test_an_unknown_augmentation_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown augmentation 'spin': choose from flip, shift"):
        augmented(tf.constant(IMAGES), ("flip", "spin"), tf.constant([0, 0]))


# Distortions of figures, light on black: a bar 3 pixels wide and 17 high in the middle

BARS = np.zeros((256, 28, 28, 1), np.float32)
BARS[:, 6:23, 13:16] = 1
SEED = tf.constant([4, 2])


def ink(images: tf.Tensor) -> np.ndarray:
    """The light of each image, in pixels of full light."""
    return np.asarray(images).sum(axis=(1, 2, 3))


def same(changed: tf.Tensor) -> float:
    """The share of the bars that stayed as they were."""
    return float(np.mean([np.array_equal(new, old) for new, old in zip(np.asarray(changed), BARS, strict=True)]))


def test_a_pen_makes_some_strokes_thinner_some_thicker_and_leaves_half() -> None:
    changed = pen(tf.constant(BARS), SEED)
    assert 0.35 < same(changed) < 0.65
    before, after = ink(BARS), ink(changed)
    assert 0.15 < (after < before).mean() < 0.35
    assert 0.15 < (after > before).mean() < 0.35
    assert after.min() > 0.4 * before[0]  # never gone
    assert after.max() < 3 * before[0]  # the second pixel on each side is a fifth there at most


def test_a_warp_keeps_a_figure_in_the_middle_and_about_as_large() -> None:
    changed = np.asarray(warp(tf.constant(BARS), SEED))[..., 0]
    assert same(changed[..., None]) == 0
    assert 0.5 < np.median(ink(changed[..., None])) / ink(BARS)[0] < 1.5
    y, x = np.mgrid[:28, :28] + 0.5
    mass = changed.sum(axis=(1, 2))
    for axis, centre in ((x, 14.5), (y, 14.5)):
        off = (changed * axis).sum(axis=(1, 2)) / mass - centre
        assert abs(off.mean()) < 0.5
        assert 0.5 < off.std() < 2
        assert np.abs(off).max() < 6


def test_a_warp_turns_to_both_sides_and_not_far() -> None:
    changed = np.asarray(warp(tf.constant(BARS), SEED))[..., 0]
    columns = np.arange(28)
    upper, lower = (
        (changed[:, rows] * columns).sum(axis=(1, 2)) / changed[:, rows].sum(axis=(1, 2))
        for rows in (slice(8, 12), slice(17, 21))
    )
    lean = (upper - lower) / 9
    assert 0.3 < (lean > 0).mean() < 0.7
    assert 0.1 < np.abs(lean).mean() < 0.5


def test_focus_softens_some_and_keeps_the_brightest() -> None:
    changed = np.asarray(focus(tf.constant(BARS), SEED))
    assert 0.5 < same(changed) < 0.8
    np.testing.assert_allclose(changed.max(axis=(1, 2, 3)), 1, atol=1e-6)
    assert (changed[:, 5] > 0).any(axis=(1, 2)).mean() > 0.2  # light where there was none


def test_light_changes_nothing_away_from_ink() -> None:
    changed = np.asarray(light(tf.constant(BARS), SEED))
    away = np.ones((28, 28), bool)
    away[5:24, 12:17] = False
    assert not changed[:, away].any()
    assert same(changed) < 0.1
    assert (changed[:, 6:23, 13:16].mean(axis=(1, 2, 3)) > 0.8).all()


def test_remains_add_a_line_or_a_speck_or_cut_the_strokes_and_mostly_nothing() -> None:
    changed = remains(tf.constant(BARS), SEED)
    assert 0.5 < same(changed) < 0.9
    before, after = ink(BARS), ink(changed)
    assert (after > before).mean() > 0.05
    assert (after < before).mean() > 0.05
