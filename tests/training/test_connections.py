"""Each connection on numbers that can be worked out by hand, in a stack as a network builds it."""

from collections.abc import Callable

import keras
import numpy as np
import pytest
from keras import layers

from training.networks import connections
from training.networks.network import Connection, Network, Tensor, macs_of, stack
from training.networks.table import NETWORKS


def doubled(x: Tensor, name: str) -> Tensor:
    """A body that a head can follow: twice its input."""
    return layers.Rescaling(2.0, name=f"{name}_double")(x)


def stacked(connection: Connection, blocks: int = 2, width: int = 3) -> keras.Model:
    image = layers.Input((width,))
    row = Network(lambda x, network: x, doubled, blocks, connection, ("toys",), 1, "this test")
    return keras.Model(image, stack(image, row))


@pytest.mark.parametrize(
    ("connection", "expected"),
    [
        (connections.no_shortcut, lambda x: 4 * x),
        (connections.residual, lambda x: 9 * x),  # 2x + x = 3x, then 6x + 3x
        (connections.dense_sum, lambda x: 10 * x),  # 3x, then 6x + 3x + x
        (connections.concatenate, lambda x: np.concatenate([x, 2 * x, 2 * x, 4 * x], axis=1)),
    ],
)
def test_two_blocks_that_double_give(connection: Connection, expected: Callable[[np.ndarray], np.ndarray]) -> None:
    x = np.array([[1.0, -2.0, 3.0]], np.float32)
    np.testing.assert_allclose(stacked(connection)(x), expected(x), rtol=1e-6)


@pytest.mark.parametrize("shape", [(3,), (5, 4, 3)])
def test_a_closed_gate_passes_the_input_and_an_open_one_the_body(shape: tuple[int, ...]) -> None:
    image = layers.Input(shape)
    model = keras.Model(image, connections.gate([image], doubled(image, "b"), "b", 1.0))
    x = np.random.default_rng(0).random((2, *shape), np.float32)
    gate = model.get_layer("b_gate")
    assert gate.get_weights()[1] == pytest.approx(np.full(3, -2.0))
    for bias, factor in ((-50, 1), (50, 2), (0, 1.5)):
        gate.set_weights([np.zeros_like(gate.get_weights()[0]), np.full(3, bias, np.float32)])
        np.testing.assert_allclose(model(x), factor * x, rtol=1e-5)


def test_whole_blocks_are_dropped_in_training_more_often_with_depth_and_never_in_use() -> None:
    model = stacked(connections.drop(0.5), blocks=2, width=4)
    drops = [layer for layer in model.layers if isinstance(layer, layers.Dropout)]
    assert [layer.rate for layer in drops] == [0.25, 0.5]
    x = np.ones((400, 4), np.float32)
    np.testing.assert_allclose(model(x), 9 * x)
    keras.utils.set_random_seed(0)
    trained = np.asarray(model(x, training=True))
    assert (trained == trained[:, :1]).all()  # an image's block is dropped as a whole
    kept_first = 1 + 2 / 0.75
    values = {1.0, kept_first, 5.0, kept_first * 5}  # each block kept or not; what is kept is scaled up
    assert {round(float(v), 4) for v in np.unique(trained)} == {round(v, 4) for v in values}


@pytest.mark.parametrize("name", NETWORKS)
def test_every_row_states_its_source_and_its_smallest_input(name: str) -> None:
    assert NETWORKS[name].source
    assert NETWORKS[name].smallest >= 1


def test_multiply_accumulate_operations_are_counted_by_kernel_and_output() -> None:
    image = layers.Input((8, 8, 3))
    inner = keras.Sequential([layers.Input((6, 6, 4)), layers.DepthwiseConv2D(3), layers.Flatten(), layers.Dense(5)])
    model = keras.Model(image, inner(layers.Conv2D(4, 3, name="first")(image)))
    assert macs_of(model) == 6 * 6 * (3 * 3 * 3 * 4) + 4 * 4 * (3 * 3 * 4) + 64 * 5


def test_both_kernels_of_a_separable_convolution_count() -> None:
    image = layers.Input((8, 8, 3))
    model = keras.Model(image, layers.SeparableConv2D(4, 3, strides=2, padding="same")(image))
    assert macs_of(model) == 4 * 4 * (3 * 3 * 3 + 3 * 4)


def test_the_deep_network_costs_131_millions() -> None:
    assert round(NETWORKS["conv_resnet_deep"].macs((32, 32, 3)) / 1e6) == 131


def test_a_dense_network_costs_its_matrices() -> None:
    shape = (28, 28, 1)
    assert NETWORKS["dense_resnet"].macs(shape) == 784 * 128 + 128 * 128 * 8 + 128 * 10
