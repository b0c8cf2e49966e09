"""Distortions of figures, light on black: what pens, hands and cameras make of a digit before it reaches a network.

Each is an augmentation as `augmentation.py` describes them, with its own strength drawn for every image. Lengths are
shares of the picture's side, 28 pixels for MNIST. Knows no labels and no data set.
"""

import tensorflow as tf


def pen(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Strokes up to half a pixel thinner on each side, or up to 1.2 pixels thicker; half stay as they are.

    A part of a pixel is a mixture of the picture and its dilation or erosion by 3x3 pixels (Serra 1982).
    """
    drawn = _uniform(images, seed, 1, -2.0, 2.0)
    width = tf.where(drawn < -1, (drawn + 1) * 0.5, tf.where(drawn > 1, (drawn - 1) * 1.2, 0.0))
    wide = _dilated(images)
    thicker = images + tf.clip_by_value(width, 0, 1) * (wide - images)
    thicker += tf.maximum(width - 1, 0) * (_dilated(wide) - wide)
    thin = -_dilated(-images)
    return tf.where(width < 0, images - width * (thin - images), thicker)


def warp(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """Turned by up to 14 degrees, slanted, narrower or wider, smaller or larger, moved by up to two pixels of 28, and
    bent as if on rubber.

    The bend is a displacement drawn on a coarse grid (Simard et al. 2003, section 2; Ronneberger et al. 2015, section
    3.1). All in one bilinear interpolation; black comes in from outside.
    """
    count, height, width = (tf.shape(images)[k] for k in range(3))
    drawn = tf.random.stateless_uniform([count, 6], seed, -1, 1)
    angle, slant, size, wider = (drawn[:, k] * reach for k, reach in enumerate((0.25, 0.22, 0.13, 0.15)))
    # From a place in the result to its place in the picture, in pixels from the middle
    cos, sin = tf.cos(angle), tf.sin(angle)
    tall = tf.exp(size)
    across = tall * tf.exp(wider - 0.05)
    sides = tf.cast(tf.stack([width, height]), tf.float32)
    x, y = tf.meshgrid(tf.range(sides[0]) - (sides[0] - 1) / 2, tf.range(sides[1]) - (sides[1] - 1) / 2)
    to_x = (cos * across)[:, None, None] * x + (slant * cos - sin * tall)[:, None, None] * y
    to_y = (sin * across)[:, None, None] * x + (slant * sin + cos * tall)[:, None, None] * y
    bend = tf.random.stateless_normal([count, 5, 5, 2], seed + 1) * sides * 0.03
    bend = tf.image.resize(bend, [height, width], "bicubic") + drawn[:, None, None, 4:6] * sides * 0.07
    places = tf.stack([to_x, to_y], axis=-1) + bend
    return _sampled(images, places + (sides - 1) / 2)


def focus(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """A third of the images out of focus, by a binomial kernel of up to 5x5 pixels; the brightest stays as bright."""
    weight = tf.maximum(_uniform(images, seed, 1, -2, 1), 0)
    soft = _blurred(_blurred(images))
    mixed = images + weight * (soft - images)
    before, after = (tf.reduce_max(x, axis=[1, 2, 3], keepdims=True) for x in (images, mixed))
    return tf.minimum(mixed * before / tf.maximum(after, 1e-6), before)


def light(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """What is left of uneven light and of a camera's noise: paler or harder edges, and ink that is not even."""
    drawn = _uniform(images, seed, 3)
    low, high = 0.3 * drawn[..., :1], 0.6 + 0.4 * drawn[..., 1:2]
    harder = tf.clip_by_value((images - low) / (high - low), 0, 1)
    noise = tf.random.stateless_normal(tf.shape(images), seed + 1) * 0.25 * drawn[..., 2:] ** 3
    near = _dilated(images)  # nothing that is farther from ink reaches a network
    return tf.clip_by_value(harder + noise * near, 0, 1)


def remains(images: tf.Tensor, seed: tf.Tensor) -> tf.Tensor:
    """What is left of paper: in a fifth of the images a piece of a line across or down, in a fifth a line cut out of
    the strokes, in a tenth a speck."""
    shape = tf.shape(images)
    height, width = tf.cast(shape[1], tf.float32), tf.cast(shape[2], tf.float32)
    drawn = _uniform(images, seed, 8)
    kind, upright, place, start, length, level, right, down = (drawn[..., k : k + 1] for k in range(8))
    y = tf.reshape(tf.range(height) / height, [1, -1, 1, 1])
    x = tf.reshape(tf.range(width) / width, [1, 1, -1, 1])
    along, across = tf.where(upright < 0.5, x, y), tf.where(upright < 0.5, y, x)
    line = (tf.abs(across - place) < 0.025) & (along >= start) & (along < start + 0.5 * length)
    cut = (tf.abs(across - place) < 0.02) & (along >= 0)
    radius = 0.02 + 0.05 * length
    speck = (x - right) ** 2 + (y - down) ** 2 < radius**2
    near = tf.nn.max_pool2d(images, 5, 1, "SAME") > 0.2
    added = tf.where(kind < 0.2, line & near, (kind > 0.9) & speck)
    changed = tf.where(added, tf.maximum(images, 0.3 + 0.7 * level), images)
    return tf.where((kind > 0.7) & (kind < 0.9) & cut, changed * 0.7 * level, changed)


def _uniform(images: tf.Tensor, seed: tf.Tensor, values: int, low: float = 0.0, high: float = 1.0) -> tf.Tensor:
    """(N, 1, 1, values): some random numbers for each image."""
    return tf.random.stateless_uniform([tf.shape(images)[0], 1, 1, values], seed, low, high)


def _dilated(images: tf.Tensor) -> tf.Tensor:
    return tf.nn.max_pool2d(images, 3, 1, "SAME")


def _blurred(images: tf.Tensor) -> tf.Tensor:
    padded = tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]])
    rows = padded[:, :-2] + 2 * padded[:, 1:-1] + padded[:, 2:]
    return (rows[:, :, :-2] + 2 * rows[:, :, 1:-1] + rows[:, :, 2:]) / 16


def _sampled(images: tf.Tensor, places: tf.Tensor) -> tf.Tensor:
    """Images (N, H, W, C) at places (N, H, W, 2), x and y in pixels: bilinear, black outside."""
    shape = tf.shape(images)
    count, height, width, channels = shape[0], shape[1], shape[2], shape[3]
    flat = tf.reshape(tf.pad(images, [[0, 0], [1, 1], [1, 1], [0, 0]]), [-1, channels])
    high = tf.cast(tf.stack([width, height]), tf.float32)
    places = tf.clip_by_value(places + 1, 0, high + 0.999)
    floor = tf.floor(places)
    part = places - floor
    corner = tf.cast(floor, tf.int32)
    first = tf.reshape(tf.range(count) * (height + 2) * (width + 2), [-1, 1, 1])
    index = first + corner[..., 1] * (width + 2) + corner[..., 0]
    right, down = part[..., :1], part[..., 1:]
    upper, lower = (
        tf.gather(flat, index + row) * (1 - right) + tf.gather(flat, index + row + 1) * right for row in (0, width + 2)
    )
    return upper * (1 - down) + lower * down
