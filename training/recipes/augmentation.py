"""Augmentations: batches of training images -> changed copies, drawn anew in every epoch.

Each is a function of a batch of float32 images (N, H, W, C) in [0, 1] and a seed of two integers; the same seed gives
the same result. A recipe names those that it uses, in their order. Knows no labels and no data set.
"""

from collections.abc import Callable
from typing import TypeAlias

import tensorflow as tf

from training.recipes.distortion import focus, light, pen, remains, warp

Augmentation: TypeAlias = Callable[[tf.Tensor, tf.Tensor], tf.Tensor]


def flip(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Half of the images mirrored left to right."""
    mirrored = tf.random.stateless_uniform([tf.shape(images)[0]], seed) < 0.5
    return tf.where(mirrored[:, None, None, None], tf.reverse(images, [2]), images)


def shift(images: tf.Tensor, seed: tf.Tensor, part: int = 8) -> tf.Tensor:
    """Each image moved by up to an eighth of its size in both directions; the edge is mirrored into the gap."""
    shape = tf.shape(images)
    count, sides = shape[0], shape[1:3]
    reach = sides // part
    gap = [[0, 0], [reach[0], reach[0]], [reach[1], reach[1]], [0, 0]]
    padded = tf.pad(images, gap, "REFLECT")
    places = tf.cast(2 * reach + 1, tf.float32)
    offsets = tf.cast(tf.random.stateless_uniform([count, 2], seed) * places, tf.int32)
    rows = offsets[:, :1] + tf.range(sides[0])[None]
    columns = offsets[:, 1:] + tf.range(sides[1])[None]
    return tf.gather(tf.gather(padded, rows, batch_dims=1), columns, axis=2, batch_dims=1)


def small_shift(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Each image moved by up to a sixteenth of its size: two pixels of 32, for trainings of few epochs."""
    return shift(images, seed, 16)


def crop(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A random part of each image, with 75 to 100 % of its height and of its width, enlarged to the whole's size."""
    count, size = tf.shape(images)[0], tf.shape(images)[1:3]
    drawn = tf.random.stateless_uniform([count, 4], seed)
    sides = 0.75 + 0.25 * drawn[:, :2]
    corners = drawn[:, 2:] * (1 - sides)
    boxes = tf.concat([corners, corners + sides], axis=1)
    return tf.image.crop_and_resize(images, boxes, tf.range(count), size)


def colour(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Each image's brightness and contrast changed by up to a fifth, and each of its channels by up to a tenth."""
    count, channels = tf.shape(images)[0], tf.shape(images)[3]
    drawn = tf.random.stateless_uniform([count, 1, 1, 2 + channels], seed, -1, 1)
    gain = (1 + 0.2 * drawn[..., :1]) * (1 + 0.1 * drawn[..., 2:])
    mean = tf.reduce_mean(images, axis=[1, 2, 3], keepdims=True)
    return tf.clip_by_value((mean + (images - mean) * (1 + 0.2 * drawn[..., 1:2])) * gain, 0, 1)


def cutout(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A square with a quarter of each image's sides, at a random place, in the batch's mean colour (DeVries and Taylor
    2017, 1708.04552, section 3)."""
    count, sides = tf.shape(images)[0], tf.shape(images)[1:3]
    square = sides // 4
    places = tf.cast(sides - square + 1, tf.float32)
    corners = tf.cast(tf.random.stateless_uniform([count, 2], seed) * places, tf.int32)
    rows, columns = (tf.range(sides[i])[None] - corners[:, i : i + 1] for i in (0, 1))
    inside_rows = (rows >= 0) & (rows < square[0])
    inside_columns = (columns >= 0) & (columns < square[1])
    inside = (inside_rows[:, :, None] & inside_columns[:, None, :])[..., None]
    return tf.where(inside, tf.reduce_mean(images, axis=[0, 1, 2]), images)


AUGMENTATIONS: dict[str, Augmentation] = {
    "flip": flip,
    "shift": shift,
    "small_shift": small_shift,
    "crop": crop,
    "colour": colour,
    "cutout": cutout,
    "pen": pen,
    "warp": warp,
    "focus": focus,
    "light": light,
    "remains": remains,
}


def augmented(images: tf.Tensor, names: tuple[str, ...], seed: tf.Tensor) -> tf.Tensor:
    """The named augmentations in turn. Raises ValueError for a name that there is not."""
    if unknown := [name for name in names if name not in AUGMENTATIONS]:
        raise ValueError(f"unknown augmentation {unknown[0]!r}: choose from {', '.join(AUGMENTATIONS)}")
    for i, name in enumerate(names):
        images = AUGMENTATIONS[name](images, seed + i)
    return images
