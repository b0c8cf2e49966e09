"""The recipe `handwriting`: MNIST's figures as other pens, hands and cameras would have made them.

A figure stands in its frame as MNIST's do, because the service puts it there, so that distortions of MNIST's own
pictures are what the network is going to see. The distortions are those of Simard et al. 2003, "Best Practices for
Convolutional Neural Networks", and what ruled paper, shadows and noise leave. MNIST's ones are bars; drawn ones with a
flag join them. Run it with `python -m training.fit digits_cnn --dataset mnist --recipe handwriting`. `achieved` was
measured on an Intel Xeon with AMX.
"""

from training.recipes.recipe import Recipe
from training.recipes.tuned import fast_precision

ROWS: tuple[Recipe, ...] = (
    Recipe(
        "digits_cnn",
        "mnist",
        batch_size=128,
        validation=0.05,
        name="handwriting",
        epochs=20,
        learning_rate=0.002,
        amsgrad=False,
        weight_decay=0.004,
        schedule="one_cycle",
        loss="categorical_crossentropy",
        augmentation=("pen", "warp", "focus", "light", "remains"),
        drawn_ones=1500,
        precision=fast_precision(),
        batch_norm="recomputed",
        calibrated=True,
        achieved=0.9958,
    ),
)
