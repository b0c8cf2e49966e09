"""How far rounding moves a network's answers, and the limit for its other forms that follows from it."""

import json
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
from keras import layers

from training.artifact import publishing
from training.artifact.exactness import LEAST, MOST, agreement, limit_for, spread_of
from training.artifact.graph import ExportError
from training.artifact.publishing import export

pytestmark = pytest.mark.usefixtures("drawn_once")

SHAPE = (6, 6, 3)


class Held:
    """A weight that is an array."""

    def __init__(self, values: np.ndarray):
        self.values = values

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        return np.array(self.values, dtype)

    def assign(self, value: np.ndarray) -> None:
        self.values = value


def cancelling(amplification: float) -> tuple[Held, Any]:
    """Two classes whose logits differ by weights that cancel: (big + 1) - big, times the picture's first pixel."""
    weights = Held(np.array([amplification + 1, -amplification], np.float64))

    def predict(images: np.ndarray) -> np.ndarray:
        second = 1 / (1 + np.exp(-weights.values.sum() * images[:, 0, 0, 0] / 255))
        return np.stack([1 - second, second], axis=1)

    return weights, predict


def pictures(count: int = 6) -> np.ndarray:
    images = np.full((count, *SHAPE), 200, np.uint8)
    images[0] = 0  # whatever the weights are, the answer is one half
    return images


def test_answers_move_as_far_as_the_network_amplifies_rounding() -> None:
    spreads = []
    for amplification in (1.0, 100.0, 10_000.0):
        weights, predict = cancelling(amplification)
        before = weights.values.copy()
        spread = spread_of(pictures(), predict, [weights])
        assert spread[0] == 0
        np.testing.assert_array_equal(weights.values, before)
        spreads.append(spread[1])
    assert spreads[0] < spreads[1] < spreads[2]
    assert 20 < spreads[2] / spreads[1] < 500


def test_a_coarser_precision_moves_answers_further() -> None:
    weights, predict = cancelling(1.0)
    assert spread_of(pictures(), predict, [weights], "float16")[1] > 100 * spread_of(pictures(), predict, [weights])[1]


def test_weights_are_put_back_where_the_computation_fails() -> None:
    weights, predict = cancelling(1.0)
    before, calls = weights.values.copy(), []

    def failing(images: np.ndarray) -> np.ndarray:
        calls.append(1)
        if len(calls) > 3:
            raise KeyboardInterrupt
        return predict(images)

    with pytest.raises(KeyboardInterrupt):
        spread_of(pictures(), failing, [weights])
    np.testing.assert_array_equal(weights.values, before)


def test_whole_numbers_stay() -> None:
    seeds = Held(np.array([3, 4], np.uint32))
    spread_of(pictures(), lambda images: np.full((len(images), 2), 0.5), [seeds])
    assert seeds.values.tolist() == [3, 4]


@pytest.mark.parametrize(("spread", "limit"), [([0.0, 1e-6], LEAST), ([1e-6, 2e-4], 4e-4), ([0.0, 0.3], MOST)])
def test_the_limit_follows_the_widest_spread(spread: list[float], limit: float) -> None:
    assert limit_for(np.array(spread)) == pytest.approx(limit)


def test_only_a_clear_best_class_must_stay() -> None:
    reference = np.array([[0.5002, 0.4998], [0.6, 0.4]])
    assert agreement(reference[:, ::-1], reference, 1e-3) == (pytest.approx(0.2), 1)
    difference, changed = agreement(np.array([[0.4999, 0.5001], [0.6, 0.4]]), reference, 1e-3)
    assert (difference, changed) == (pytest.approx(3e-4), 0)
    assert agreement(np.full((2, 2), np.nan), reference, 1e-3)[0] == np.inf


# In an export


def amplifying(amplification: float) -> keras.Model:
    """x (W + c) - x c: what rounding does to the two products, as large as c, does not cancel."""
    keras.utils.set_random_seed(2)
    image = layers.Input(SHAPE)
    products = layers.Dense(12, use_bias=False, kernel_initializer=keras.initializers.RandomNormal(stddev=0.6))
    x = layers.Flatten()(image)
    model = keras.Model(image, layers.Dense(6, activation="softmax", name="difference")(products(x)))
    kernel = products.get_weights()[0]
    kernel[:, 6:] = amplification
    kernel[:, :6] += amplification
    products.set_weights([kernel])
    identity = np.eye(6, dtype=np.float32)
    model.get_layer("difference").set_weights([np.concatenate([identity, -identity]), np.zeros(6, np.float32)])
    return model


def exactness_of(model: keras.Model, output: Path) -> dict[str, float]:
    folder = export(model, "toy", labels="abcdef", output=output, card={})
    found: dict[str, float] = json.loads((folder / "card.json").read_text())["exactness"]
    return found


def test_the_card_states_limit_spread_and_difference(tmp_path: Path) -> None:
    model = amplifying(1.0)
    before = model.get_weights()
    found = exactness_of(model, tmp_path)
    assert set(found) == {"float32_limit", "spread", "difference"}
    assert found["float32_limit"] == LEAST
    assert 0 < found["spread"] < LEAST
    assert found["difference"] <= LEAST
    for now, then in zip(model.get_weights(), before, strict=True):
        np.testing.assert_array_equal(now, then)


def test_a_network_that_amplifies_rounding_gets_a_wider_limit(tmp_path: Path) -> None:
    found = exactness_of(amplifying(1000.0), tmp_path)
    assert LEAST < found["float32_limit"] <= MOST
    assert found["float32_limit"] == pytest.approx(2 * found["spread"])
    assert found["difference"] <= found["float32_limit"]


def test_a_network_whose_answers_are_rounding_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=r"rounding decides this model's answers.*nothing was published"):
        exactness_of(amplifying(1e6), tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_wider_limit_still_refuses_a_wrong_graph(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, wrong = amplifying(1000.0), amplifying(1000.0)
    products = wrong.layers[-2]
    products.set_weights([products.get_weights()[0][:, [1, 0, *range(2, 12)]]])  # two neurons in each other's place
    function, _ = publishing.serving_function(wrong, None)
    write = publishing.write_onnx
    monkeypatch.setattr(publishing, "write_onnx", lambda _, *rest: write(function, *rest))
    with pytest.raises(ExportError, match="ONNX disagrees with Keras"):
        exactness_of(model, tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_half_precision_model_is_published(tmp_path: Path) -> None:
    """Its roundings are those of float16, in Keras and in ONNX Runtime at other places."""
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_float16")
    try:
        model = amplifying(1.0)
    finally:
        keras.config.set_dtype_policy(before)
    found = exactness_of(model, tmp_path)
    assert found["difference"] <= found["float32_limit"] <= MOST
