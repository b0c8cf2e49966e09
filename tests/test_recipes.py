"""The RECIPES table against the source notebook, and against the cards of the committed artifacts."""

import json
from dataclasses import replace

import keras
import numpy as np
import pytest

from tests.fixtures.server import committed_artifacts
from training.evaluate import binary_crossentropy
from training.networks import NETWORKS
from training.recipes import RECIPES, recipe_for


@pytest.mark.parametrize(
    ("model", "network", "dataset", "batch_size", "validation"),
    [
        ("dense_resnet-mnist", "dense_resnet", "mnist", 128, "test"),
        ("dense_resnet-cifar10", "dense_resnet", "cifar10", 128, "test"),
        ("conv_resnet_deep-mnist", "conv_resnet_deep", "mnist", 256, 0.2),
        ("conv_resnet_deep-cifar10", "conv_resnet_deep", "cifar10", 256, 0.2),
        ("conv_resnet_shallow-cifar10", "conv_resnet_shallow", "cifar10", 64, 0.2),
        ("dense_sum-mnist", "dense_sum", "mnist", 128, "test"),
    ],
)
def test_each_system_has_the_notebooks_hyper_parameters(
    model: str, network: str, dataset: str, batch_size: int, validation: float | str
) -> None:
    fields = RECIPES[model].hyper_parameters()
    del fields["seed"]  # the notebook set none
    assert fields == {
        "network": network,
        "dataset": dataset,
        "batch_size": batch_size,
        "validation": validation,
        "epochs": 10,
        "optimizer": "adam",
        "learning_rate": 0.001,
        "amsgrad": True,
        "loss": "binary_crossentropy",
    }


def test_there_are_six_systems() -> None:
    assert len(RECIPES) == 6
    designed_for = {f"{name}-{dataset}" for name in NETWORKS for dataset in NETWORKS[name].datasets}
    assert set(RECIPES) == designed_for - {"plain-cifar10", "_tiny-digits"}


def test_the_default_is_the_networks_first_data_set() -> None:
    assert recipe_for("dense_resnet") is RECIPES["dense_resnet-mnist"]
    assert recipe_for("conv_resnet_shallow") is RECIPES["conv_resnet_shallow-cifar10"]
    assert recipe_for("dense_resnet", "cifar10") is RECIPES["dense_resnet-cifar10"]


def test_other_data_gets_the_networks_first_recipe_without_its_result() -> None:
    expected = replace(RECIPES["conv_resnet_deep-mnist"], dataset="pets", achieved=None)
    assert recipe_for("conv_resnet_deep", "pets") == expected
    assert expected.model_name == "conv_resnet_deep-pets"


def test_plain_trains_as_the_network_it_is_compared_with() -> None:
    assert recipe_for("plain") == replace(RECIPES["conv_resnet_deep-cifar10"], network="plain", achieved=None)
    assert recipe_for("plain", "mnist").dataset == "mnist"


@pytest.mark.parametrize("network", NETWORKS)
def test_every_network_has_a_recipe_for_its_first_data_set(network: str) -> None:
    recipe = recipe_for(network)
    assert (recipe.network, recipe.dataset) == (network, NETWORKS[network].datasets[0])


def test_compiling_sets_optimizer_loss_and_an_honestly_named_accuracy() -> None:
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(10, activation="softmax")])
    replace(recipe_for("dense_resnet"), learning_rate=0.01).compile(model)
    assert isinstance(model.optimizer, keras.optimizers.Adam)
    assert model.optimizer.amsgrad
    assert float(model.optimizer.learning_rate) == pytest.approx(0.01)
    figures = model.evaluate(np.eye(2), np.eye(10)[:2], verbose=0, return_dict=True)
    assert set(figures) == {"loss", "categorical_accuracy"}


def test_keras_takes_this_loss_of_the_sigmoid_of_the_softmax_logits() -> None:
    """What training minimises, as the docstring of recipes says; cards report the loss of the probabilities."""
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(10, activation="softmax")])
    recipe_for("dense_resnet").compile(model)
    loss = model.evaluate(np.eye(2), np.eye(10)[:2], verbose=0, return_dict=True)["loss"]
    kernel, bias = model.get_weights()
    sigmoid = 1 / (1 + np.exp(-(np.eye(2) @ kernel + bias)))
    assert loss == pytest.approx(binary_crossentropy(sigmoid, np.arange(2)), rel=1e-5)
    assert loss != pytest.approx(binary_crossentropy(model.predict(np.eye(2), verbose=0), np.arange(2)), rel=1e-2)


@pytest.mark.parametrize("model", RECIPES)
def test_what_a_recipe_achieved_is_what_its_committed_card_says(model: str) -> None:
    achieved = RECIPES[model].achieved
    committed = [artifact for artifact in committed_artifacts() if artifact.parent.name == model]
    assert bool(committed) == (achieved is not None)
    if achieved is not None:
        card = json.loads((committed[-1] / "card.json").read_text())
        assert card["metrics"]["accuracy"] == pytest.approx(achieved, abs=5e-4)
        assert card["recipe"] == RECIPES[model].hyper_parameters()
