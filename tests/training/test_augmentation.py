"""Augmentations on small images: what may change, what may not, and that the seed decides."""

import numpy as np
import pytest
import tensorflow as tf

from training.recipes.augmentation import AUGMENTATIONS, augmented, cutout, flip, shift

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
