"""The recipe `quick`: a linear classifier alone, on the features of a network that stays as it is.

It has no epochs, and no steps of its own: its optimizer is scikit-learn's, held-out folds choose its penalty.
"""

from dataclasses import replace

from training.recipes.recipe import Recipe

_ANY = Recipe(
    "*",
    "*",
    batch_size=0,
    validation=0.0,
    name="quick",
    epochs=0,
    optimizer="lbfgs",
    learning_rate=0.0,
    amsgrad=False,
    loss="categorical_crossentropy",
    class_weights=True,
    frozen="head_dropout",
    calibrated=True,
)
ROWS: tuple[Recipe, ...] = (replace(_ANY, network="efficientnet_lite*", weights="imagenet"), _ANY)
