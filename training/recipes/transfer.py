"""The recipe `transfer`: a network with weights that have seen the world, on photos of one's own.

The lower two thirds of the network stay as they are; a linear classifier is fitted to the features, then the upper
blocks are trained at a small rate of their own. Of a network of keras.applications all layers stay but the classifier.
"""

from dataclasses import replace

from training.networks.keras_applications import FEATURES
from training.recipes.recipe import Recipe

_LITE0 = Recipe(
    "efficientnet_lite0",
    "*",
    batch_size=32,
    validation=0.15,
    name="transfer",
    epochs=8,
    learning_rate=0.0003,
    amsgrad=False,
    schedule="one_cycle",
    loss="categorical_crossentropy",
    label_smoothing=0.1,
    augmentation=("flip", "crop", "colour"),
    class_weights=True,
    weights="imagenet",
    frozen="block10_add",
    calibrated=True,
    published="best",
)

_LARGER = ("efficientnet_lite1", "efficientnet_lite2")  # their fifth stage ends four blocks later

ROWS: tuple[Recipe, ...] = (
    _LITE0,
    *(replace(_LITE0, network=network, frozen="block14_add") for network in _LARGER),
    replace(_LITE0, network="keras:*", frozen=FEATURES),
)
