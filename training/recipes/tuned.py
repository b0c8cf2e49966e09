"""The recipe `tuned`: what makes the project's own networks accurate in little time, one row each.

One cycle of the learning rate with Nesterov's momentum, decoupled weight decay, label smoothing, flips and shifts, and
bfloat16 where it is multiplied in hardware. Sources: Jordan 2024, 2404.00498, section 3; Loshchilov & Hutter 2017,
1711.05101, for the decay.
"""

from dataclasses import replace

from training.recipes.recipe import Recipe

_PICTURES = Recipe(
    "resnet9",
    "cifar10",
    batch_size=512,
    validation=0.02,
    name="tuned",
    epochs=20,
    optimizer="sgd",
    learning_rate=0.4,
    amsgrad=False,
    weight_decay=0.013,
    schedule="one_cycle",
    loss="categorical_crossentropy",
    label_smoothing=0.1,
    augmentation=("flip", "small_shift"),
    precision="mixed_bfloat16",
)

ROWS: tuple[Recipe, ...] = (_PICTURES, replace(_PICTURES, dataset="*"))
