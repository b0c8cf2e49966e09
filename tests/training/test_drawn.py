"""Drawn ones with a flag: where they stand, what they are made of, and that they join the training images alone."""

from dataclasses import replace

import numpy as np
import pytest

from training.data.dataset import Dataset
from training.recipes.drawn import flagged_ones
from training.recipes.table import recipe_for
from training.runs.parts import RunError, splits

NOISE = np.random.default_rng(0).integers(0, 256, (40, 28, 28, 1), np.uint8)
DATA = Dataset("mnist", "noise", tuple("0123456789"), "plain", NOISE, np.arange(40) % 10, NOISE[:3], np.arange(3))
ONES = flagged_ones(300, 28, seed=4)[..., 0].astype(float) / 255


def test_the_seed_decides_and_no_two_are_alike() -> None:
    again, other = (flagged_ones(300, 28, seed)[..., 0] / 255 for seed in (4, 5))
    np.testing.assert_array_equal(ONES, again)
    assert not np.array_equal(ONES, other)
    assert len(np.unique(ONES.reshape(300, -1), axis=0)) == 300


@pytest.mark.parametrize("side", [28, 56])
def test_they_stand_as_mnist_s_figures_do(side: int) -> None:
    images = flagged_ones(100, side, seed=1)[..., 0].astype(float) / 255
    assert (images.max(axis=(1, 2)) > 0.99).all()
    height = (images.max(axis=2) > 0.25).sum(axis=1)
    assert np.abs(height / side - 20 / 28).max() < 2 / 28
    y, x = np.mgrid[:side, :side] - (side - 1) / 2
    mass = images.sum(axis=(1, 2))
    for axis in (x, y):
        assert np.abs((images * axis).sum(axis=(1, 2)) / mass).max() < 1


def test_each_has_a_stem_and_a_flag_to_the_left_and_some_have_a_foot() -> None:
    stem = ONES.sum(axis=1).argmax(axis=1)  # its column
    assert all(image[8:18, k].min() > 0.3 for image, k in zip(ONES, stem, strict=True))
    left, right = (
        np.array([image[5:12, part].sum() for image, part in zip(ONES, parts, strict=True)])
        for parts in ([slice(0, k - 2) for k in stem], [slice(k + 4, 28) for k in stem])
    )
    assert (left > right).mean() > 0.95
    foot = np.array([(image[20:25, k + 4 :] > 0.5).any() for image, k in zip(ONES, stem, strict=True)])
    assert 0.2 < foot.mean() < 0.6


def test_they_join_the_training_images_and_not_the_validation() -> None:
    recipe = replace(recipe_for("digits_cnn", "mnist"), drawn_ones=7)
    (images, targets), (held_out, _) = splits(recipe, DATA)
    (before, _), (held_out_before, _) = splits(replace(recipe, drawn_ones=0), DATA)
    np.testing.assert_array_equal(images[:-7], before)
    np.testing.assert_array_equal(images[-7:], flagged_ones(7, 28, recipe.seed))
    assert [DATA.labels[k] for k in targets[-7:]] == ["1"] * 7
    np.testing.assert_array_equal(held_out, held_out_before)


def test_they_need_grey_square_images_and_a_class_1() -> None:
    recipe = recipe_for("digits_cnn", "mnist")
    letters = replace(DATA, labels=tuple("abcdefghij"))
    wide = replace(DATA, x_train=NOISE[:, 2:], x_test=NOISE[:3, 2:])
    for wrong in (letters, wide):
        with pytest.raises(RunError, match="the recipe handwriting draws ones: it needs grey, square images"):
            splits(recipe, wrong)
