"""The recipe `tuned`: what makes the project's own networks accurate in little time, one row each.

One cycle of the learning rate with Nesterov's momentum or Adam, decoupled weight decay, label smoothing, flips and
shifts, and bfloat16 where the CPU multiplies it in hardware. Sources: Jordan 2024, 2404.00498, section 3; Smith and
Topin 2017, 1708.07120, for the cycle; Loshchilov and Hutter 2017, 1711.05101, for the decay.
"""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from training.recipes.recipe import Recipe


def fast_precision(cpuinfo: Path = Path("/proc/cpuinfo")) -> Literal["float32", "mixed_bfloat16"]:
    """`mixed_bfloat16` where the CPU states that it multiplies bfloat16, else `float32`."""
    try:
        flags = cpuinfo.read_text().split()
    except OSError:
        return "float32"
    return "mixed_bfloat16" if {"amx_bf16", "avx512_bf16"} & set(flags) else "float32"


_SHORT = Recipe(
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
    precision=fast_precision(),
    calibrated=True,
)
_RESNET9 = replace(_SHORT, epochs=36, augmentation=("flip", "shift", "cutout"), label_smoothing=0.2, achieved=0.9058)
# Networks without resnet9's scaled-down logits and identities at the start learn at smaller steps.
_FAMILY = replace(_SHORT, batch_size=128, learning_rate=0.05, weight_decay=0.005, validation=0.1)
_DIGITS = replace(_FAMILY, augmentation=("small_shift",), epochs=10, label_smoothing=0.0)
# The dense network has enough to do with colour pictures as they are, in ten epochs.
_DENSE = replace(
    _FAMILY,
    network="dense_resnet",
    epochs=10,
    weight_decay=0.001,
    label_smoothing=0.0,
    augmentation=("flip",),
    achieved=0.4362,
)
# The notebook's convolutional networks add outputs that nothing normalises: after two epochs of 10,000 images the deep
# one has 10 % right with SGD as above, which is chance, and 30 % with Adam.
_ADAM = replace(_FAMILY, optimizer="adam", learning_rate=0.002, weight_decay=0.05)
_DIGITS_ADAM = replace(_ADAM, augmentation=("small_shift",), epochs=10, label_smoothing=0.0)
_NOT_NORMALISED = ("conv_resnet_*", "plain", "stochastic_depth", "dense_sum_bottleneck", "highway_conv")

# ImageNet's weights, of which those of the lower blocks and the depthwise kernels stay. More augmentation than for a
# network of its own, or it learns the training images by heart: at 96 pixels with flips and shifts alone, 97.3 % of
# them after eight epochs, beside 91.9 % of the test images. More epochs, a larger rate, mixed images or all layers
# learning change the test accuracy by a quarter of a point (docs/training.md, "What limits CIFAR-10 here").
_LITE0 = replace(
    _SHORT,
    network="efficientnet_lite0_small",
    batch_size=128,
    epochs=7,
    optimizer="adam",
    learning_rate=0.0005,
    weight_decay=0.01,
    augmentation=("flip", "shift", "cutout", "colour"),
    reduced=0.7,
    weights="imagenet",
    achieved=0.9253,
)

_CIFAR10 = ("densenet_bc", "preact_resnet", "resnext")

ROWS: tuple[Recipe, ...] = (
    _RESNET9,
    _LITE0,
    replace(_SHORT, dataset="*", batch_size=128, learning_rate=0.1, validation=0.1),
    *(replace(_FAMILY, network=network) for network in _CIFAR10),
    # As many epochs as take no longer than the notebook's ten: in bfloat16 a convolutional one learns from twice the
    # images a second (benchmarks/README.md).
    _DENSE,
    replace(_ADAM, network="conv_resnet_deep", epochs=16, achieved=0.8390),
    replace(_ADAM, network="conv_resnet_shallow", epochs=14, achieved=0.8332),
    replace(_DIGITS_ADAM, network="conv_resnet_deep", dataset="mnist", epochs=4, achieved=0.9952),
    replace(_DIGITS, network="dense_resnet", dataset="mnist", achieved=0.9852),
    replace(_DIGITS, network="dense_sum", dataset="mnist", achieved=0.9841),
    # 1,438 pictures make 11 steps an epoch: in the notebook's ten epochs it learns 68 % (the 8s: 9 %).
    replace(_DIGITS, network="dense_resnet", dataset="digits", epochs=40),  # 97.5 %
    # Nothing normalises highway_conv either: four epochs of CIFAR-10 give it 53.9 % with Adam, 30.7 % with SGD.
    *(replace(_ADAM, network=network) for network in ("highway_conv", "stochastic_depth", "dense_sum_bottleneck")),
    *(replace(_DIGITS_ADAM, network=network, dataset=d) for network in _NOT_NORMALISED for d in ("mnist", "digits")),
    *(replace(_ADAM, network=network, dataset="*") for network in _NOT_NORMALISED),
    replace(_DIGITS, network="highway", dataset="mnist"),
    replace(_DIGITS, network="*", dataset="mnist"),
    replace(_DIGITS, network="*", dataset="digits"),
    replace(_FAMILY, network="*", dataset="*"),
)
