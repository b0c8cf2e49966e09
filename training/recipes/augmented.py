"""The recipe `augmented`: a network from scratch on few images of one's own, and on scikit-learn's digits.

It changes copies of the images, lets every class count alike, recomputes batch norm's statistics, and lets a validation
split choose the epoch. Digits are not mirrored, because a mirrored digit is none.
"""

from dataclasses import replace

from training.recipes.recipe import Recipe

_PICTURES = Recipe(
    "*",
    "*",
    batch_size=32,
    validation=0.15,
    name="augmented",
    epochs=40,
    amsgrad=False,
    schedule="cosine",
    loss="categorical_crossentropy",
    label_smoothing=0.1,
    augmentation=("flip", "shift"),
    class_weights=True,
    batch_norm="recomputed",
    published="best",
    early_stopping=15,
)
_DIGITS = replace(_PICTURES, augmentation=("shift",), label_smoothing=0.0, epochs=15)

ROWS: tuple[Recipe, ...] = (replace(_DIGITS, dataset="digits"), replace(_DIGITS, dataset="mnist"), _PICTURES)
