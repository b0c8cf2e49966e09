"""The built graphs, layer by layer, against what each network is meant to be."""

from functools import cache

import keras
import numpy as np
import pytest
from keras import layers

from training.networks.network import build
from training.networks.table import NETWORKS

MNIST, CIFAR10 = (28, 28, 1), (32, 32, 3)
WIDE, SMALL = ((40, 20, 3), 101), ((13, 13, 1), 2)  # a picture's shape, and classes

DENSE_BLOCK = ["Dense 128", "BatchNorm", "ReLU", "Dropout 0.5"] * 2
DEEP_BLOCK = ["Conv 64 same relu", "BatchNorm", "Conv 64 same relu"]
SHALLOW_BLOCK = ["Conv 64 same", "BatchNorm", "ReLU"] * 2
DENSE_STEM = ["Input", "Flatten", "Dense 128 relu", "Dense 128 relu"]
DENSE_HEAD = ["Dense 128 relu", "Dropout 0.5", "Dense 10 softmax"]
CONV_STEM = ["Input", "Conv 32 valid relu", "Conv 64 valid relu", "MaxPool 3 stride 3 valid"]
CONV_HEAD = ["Conv 64 valid relu", "GlobalAveragePooling", "Dense 256 relu", "Dropout 0.5", "Dense 10 softmax"]

FEW_LAYERS = ("dense_resnet", "dense_sum", "conv_resnet_shallow", "conv_resnet_deep", "resnet9", "digits_cnn")
QUICK = [name for name in NETWORKS if name not in ("densenet_bc_100", "preact_resnet_110", "resnext_29")]


@cache  # tests read it, and none changes it
def model_of(name: str, shape: tuple[int, int, int] = CIFAR10, classes: int = 10) -> keras.Model:
    return build(NETWORKS[name], shape, classes, name)


def kind(layer: keras.Layer) -> str:
    """What the tests compare of a layer; fails on a layer, kernel or stride that no network should have."""
    match layer:
        case layers.InputLayer():
            return "Input"
        case layers.Flatten():
            return "Flatten"
        case layers.Dense():
            return f"Dense {layer.units} {_activation(layer)}".strip()
        case layers.Conv2D():
            assert (layer.kernel_size, layer.strides, layer.dilation_rate, layer.groups) == ((3, 3), (1, 1), (1, 1), 1)
            return f"Conv {layer.filters} {layer.padding} {_activation(layer)}".strip()
        case layers.MaxPooling2D():
            assert layer.pool_size == (3, 3)
            return f"MaxPool 3 stride {layer.strides[0]} {layer.padding}"
        case layers.BatchNormalization():
            return "BatchNorm"
        case layers.ReLU():
            return "ReLU"
        case layers.Dropout():
            return f"Dropout {layer.rate}"
        case layers.GlobalAveragePooling2D():
            return "GlobalAveragePooling"
        case layers.Add():
            return f"Add {len(layer.input)}"
    raise AssertionError(f"no network should have a {type(layer).__name__}")


def _activation(layer: keras.Layer) -> str:
    assert layer.use_bias
    return layer.activation.__name__.replace("linear", "")


def added(model: keras.Model) -> list[list[str]]:
    """For each Add, the layers whose outputs it sums."""
    return [
        [tensor._keras_history.operation.name for tensor in layer.input]
        for layer in model.layers
        if isinstance(layer, layers.Add)
    ]


@pytest.mark.parametrize(
    ("name", "shape", "parameters"),
    [
        ("dense_resnet", MNIST, 236_938),
        ("dense_sum", MNIST, 236_938),
        ("dense_resnet", CIFAR10, 529_802),
        ("conv_resnet_shallow", CIFAR10, 224_266),
        ("conv_resnet_deep", MNIST, 1_483_082),
        ("conv_resnet_deep", CIFAR10, 1_483_658),
    ],
)
def test_each_system_has_the_source_notebooks_parameter_count(
    name: str, shape: tuple[int, int, int], parameters: int
) -> None:
    assert model_of(name, shape).count_params() == parameters


@pytest.mark.parametrize(
    ("name", "layers_in_order"),
    [
        ("dense_resnet", [*DENSE_STEM, *[*DENSE_BLOCK, "Add 2"] * 3, *DENSE_HEAD]),
        (
            "dense_sum",
            [*DENSE_STEM, *DENSE_BLOCK, "Add 2", *DENSE_BLOCK, "Add 3", *DENSE_BLOCK, "Add 4", *DENSE_HEAD],
        ),
        ("conv_resnet_deep", [*CONV_STEM, *[*DEEP_BLOCK, "Add 2"] * 19, *CONV_HEAD]),
        ("conv_resnet_shallow", [*CONV_STEM, *[*SHALLOW_BLOCK, "Add 2"] * 2, *CONV_HEAD]),
        ("plain", [*CONV_STEM, *DEEP_BLOCK * 19, *CONV_HEAD]),
    ],
)
def test_layers_are_the_notebooks_in_its_order(name: str, layers_in_order: list[str]) -> None:
    assert [kind(layer) for layer in model_of(name).layers] == layers_in_order


@pytest.mark.parametrize(
    ("name", "stem", "last", "blocks"),
    [
        ("dense_resnet", "stem_dense2", "dropout2", 3),
        ("conv_resnet_deep", "stem_pool", "conv2", 19),
        ("conv_resnet_shallow", "stem_pool", "relu2", 2),
    ],
)
def test_a_residual_block_is_added_to_its_own_input(name: str, stem: str, last: str, blocks: int) -> None:
    inputs = [stem, *(f"block{k}_add" for k in range(1, blocks))]
    assert added(model_of(name)) == [[f"block{k}_{last}", before] for k, before in enumerate(inputs, start=1)]


def test_dense_sum_adds_the_stem_and_every_earlier_block() -> None:
    assert added(model_of("dense_sum")) == [
        ["block1_dropout2", "stem_dense2"],
        ["block2_dropout2", "stem_dense2", "block1_add"],
        ["block3_dropout2", "stem_dense2", "block1_add", "block2_add"],
    ]


@pytest.mark.parametrize("name", ["dense_resnet", "dense_sum"])
def test_a_block_starts_from_the_sum_before_it(name: str) -> None:
    model = model_of(name)
    starts = [model.get_layer(f"block{k}_dense1").input._keras_history.operation.name for k in (1, 2, 3)]
    assert starts == ["stem_dense2", "block1_add", "block2_add"]


def test_plain_is_the_deep_network_without_its_shortcuts() -> None:
    plain, deep = model_of("plain"), model_of("conv_resnet_deep")
    assert plain.count_params() == deep.count_params()
    without_adds = [kind(layer) for layer in deep.layers if not isinstance(layer, layers.Add)]
    assert [kind(layer) for layer in plain.layers] == without_adds


@pytest.mark.parametrize(("shape", "sides"), [(MNIST, [26, 24, 8]), (CIFAR10, [30, 28, 9])])
@pytest.mark.parametrize("name", ["conv_resnet_deep", "conv_resnet_shallow"])
def test_the_convolutional_stem_shrinks_valid(name: str, shape: tuple[int, int, int], sides: list[int]) -> None:
    model = model_of(name, shape)
    outputs = [model.get_layer(layer).output.shape[1] for layer in ("stem_conv1", "stem_conv2", "stem_pool")]
    assert outputs == sides


def test_the_network_for_digits_is_cheap_and_has_a_shortcut_around_two_pairs() -> None:
    assert NETWORKS["digits_cnn"].macs(MNIST) <= 6_000_000
    assert added(model_of("digits_cnn", MNIST)) == [
        ["group2_2_relu", "group2_relu"],
        ["group3_2_relu", "group3_relu"],
    ]


@pytest.mark.parametrize("name", QUICK)
def test_every_network_gives_probabilities(name: str) -> None:
    model = model_of(name, *WIDE)
    images = np.random.default_rng(0).random((3, *WIDE[0]), np.float32)
    probabilities = np.asarray(model(images))
    assert probabilities.shape == (3, WIDE[1])
    np.testing.assert_allclose(probabilities.sum(axis=1), 1, atol=1e-6)


@pytest.mark.parametrize(
    ("name", "shape", "classes"),
    [
        *((name, *WIDE) for name in QUICK),
        # A second size of the networks that take longest to build is thorough.
        *(pytest.param(name, *SMALL, marks=() if name in FEW_LAYERS else pytest.mark.thorough) for name in QUICK),
    ],
)
def test_any_picture_size_and_class_count_is_taken(name: str, shape: tuple[int, int, int], classes: int) -> None:
    model = model_of(name, shape, classes)
    assert (model.input_shape, model.output_shape) == ((None, *shape), (None, classes))


@pytest.mark.parametrize("name", ["conv_resnet_deep", "conv_resnet_shallow", "plain"])
@pytest.mark.parametrize(("shape", "told"), [((12, 40, 1), "40x12"), ((40, 12, 3), "12x40")])
def test_a_picture_too_small_to_convolve_is_refused(name: str, shape: tuple[int, int, int], told: str) -> None:
    with pytest.raises(ValueError, match=f"{name} needs images of at least 13x13 pixels, got {told}"):
        model_of(name, shape)


def test_a_dense_network_takes_a_single_pixel() -> None:
    assert model_of("dense_resnet", (1, 1, 1)).input_shape == (None, 1, 1, 1)


@pytest.mark.parametrize("name", QUICK)
def test_one_class_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="at least 2 classes, got 1"):
        model_of(name, classes=1)
