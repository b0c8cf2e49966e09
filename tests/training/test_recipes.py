"""The RECIPES table against the source notebook, and against the cards of the committed artifacts."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest

from tests.fixtures.server import ROOT, committed_artifacts
from training.artifact.metrics import binary_crossentropy
from training.artifact.reading import latest_version
from training.networks import convolutional, dense
from training.networks.table import NETWORKS
from training.recipes.notebook import SYSTEMS
from training.recipes.recipe import SCHEDULES, Recipe
from training.recipes.table import RECIPES, recipe_for


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
    fields = SYSTEMS[model].hyper_parameters()
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
    assert len(SYSTEMS) == 6
    notebook = {**dense.ROWS, **convolutional.ROWS}
    designed_for = {f"{name}-{dataset}" for name in notebook for dataset in NETWORKS[name].datasets}
    assert set(SYSTEMS) == designed_for - {"plain-cifar10", "_tiny-digits", "dense_sum_bottleneck-cifar10"}


def test_the_default_is_the_networks_first_data_set() -> None:
    assert recipe_for("dense_resnet") is SYSTEMS["dense_resnet-mnist"]
    assert recipe_for("conv_resnet_shallow") is SYSTEMS["conv_resnet_shallow-cifar10"]
    assert recipe_for("dense_resnet", "cifar10") is SYSTEMS["dense_resnet-cifar10"]


def test_other_data_gets_the_networks_first_recipe_without_its_result() -> None:
    expected = replace(SYSTEMS["conv_resnet_deep-mnist"], dataset="pets", achieved=None)
    assert recipe_for("conv_resnet_deep", "pets", "notebook") == expected
    assert expected.model_name == "conv_resnet_deep-pets"


def test_plain_trains_as_the_network_it_is_compared_with() -> None:
    assert recipe_for("plain") == replace(SYSTEMS["conv_resnet_deep-cifar10"], network="plain", achieved=None)
    assert recipe_for("plain", "mnist").dataset == "mnist"


def test_own_pictures_and_small_data_sets_get_a_recipe_that_validates_augments_and_recomputes() -> None:
    for network, dataset, augmentation in (
        ("plain", "pets", ("flip", "shift")),
        ("conv_resnet_shallow", "digits", ("shift",)),
    ):
        recipe = recipe_for(network, dataset)
        assert (recipe.name, recipe.network, recipe.dataset) == ("augmented", network, dataset)
        assert recipe.augmentation == augmentation
        assert (recipe.batch_norm, recipe.published, recipe.class_weights) == ("recomputed", "best", True)
        assert 0 < float(recipe.validation) < 0.5


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


@pytest.mark.parametrize(("optimizer", "kind"), [("adam", keras.optimizers.Adam), ("sgd", keras.optimizers.SGD)])
def test_the_optimizer_that_a_recipe_names_is_the_one_that_trains(optimizer: str, kind: type) -> None:
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(10, activation="softmax")])
    replace(recipe_for("dense_resnet"), optimizer=optimizer, weight_decay=0.01).compile(model)
    assert type(model.optimizer) is kind
    assert model.optimizer.weight_decay == pytest.approx(0.01)


@pytest.mark.parametrize("field", ["optimizer", "loss", "schedule"])
def test_a_name_that_no_table_holds_is_refused(field: str) -> None:
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(10, activation="softmax")])
    recipe = replace(recipe_for("dense_resnet"), **{field: "wishful"})
    with pytest.raises(ValueError, match=f"unknown {field} 'wishful': choose from "):
        recipe.rate(0.5) if field == "schedule" else recipe.compile(model)


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_schedule_stays_within_0_and_1_and_only_the_constant_one_never_moves(schedule: str) -> None:
    factors = [SCHEDULES[schedule](progress) for progress in np.linspace(0, 1, 101)]
    assert min(factors) >= 0
    assert max(factors) == pytest.approx(1, abs=0.02)
    assert (len(set(factors)) == 1) == (schedule == "constant")


def test_only_what_differs_from_the_notebooks_ways_is_added_to_the_hyper_parameters() -> None:
    plain = recipe_for("dense_resnet")
    changed = replace(plain, schedule="cosine", augmentation=("flip",), name="tuned", achieved=None)
    assert changed.hyper_parameters() == {**plain.hyper_parameters(), "schedule": "cosine", "augmentation": ["flip"]}


def test_a_recipe_that_there_is_not_is_refused() -> None:
    with pytest.raises(ValueError, match="unknown recipe 'secret': choose from quick, notebook"):
        recipe_for("dense_resnet", "mnist", "secret")


def test_a_row_for_a_network_and_a_data_set_comes_before_one_with_a_pattern(monkeypatch: pytest.MonkeyPatch) -> None:
    mine = Recipe("dense_*", "*", 7, 0.1, name="mine")
    monkeypatch.setitem(RECIPES, "mine", (mine,))
    assert recipe_for("dense_resnet", "mnist") is SYSTEMS["dense_resnet-mnist"]
    assert recipe_for("dense_resnet", "mnist", "mine") == replace(mine, network="dense_resnet", dataset="mnist")
    with pytest.raises(ValueError, match="no recipe mine for plain on pets"):
        recipe_for("plain", "pets", "mine")


def test_keras_takes_this_loss_of_the_sigmoid_of_the_softmax_logits() -> None:
    """What training minimises, as the docstring of recipes says; cards report the loss of the probabilities."""
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(10, activation="softmax")])
    recipe_for("dense_resnet").compile(model)
    loss = model.evaluate(np.eye(2), np.eye(10)[:2], verbose=0, return_dict=True)["loss"]
    kernel, bias = model.get_weights()
    sigmoid = 1 / (1 + np.exp(-(np.eye(2) @ kernel + bias)))
    assert loss == pytest.approx(binary_crossentropy(sigmoid, np.arange(2)), rel=1e-5)
    assert loss != pytest.approx(binary_crossentropy(model.predict(np.eye(2), verbose=0), np.arange(2)), rel=1e-2)


@pytest.mark.parametrize("model", SYSTEMS)
def test_what_a_recipe_achieved_is_what_its_committed_card_says(model: str) -> None:
    achieved = SYSTEMS[model].achieved
    committed = [artifact for artifact in committed_artifacts() if artifact.parent.name == model]
    assert bool(committed) == (achieved is not None)
    if achieved is not None:
        card = json.loads((latest_version(committed[-1].parent, "notebook") / "card.json").read_text())
        assert card["metrics"]["accuracy"] == pytest.approx(achieved, abs=5e-4)
        assert card["recipe"] == SYSTEMS[model].hyper_parameters()


@pytest.mark.parametrize("recipe", [row for row in RECIPES["tuned"] if row.achieved], ids=lambda row: row.model_name)
def test_what_a_tuned_recipe_achieved_is_what_its_committed_card_says(recipe: Recipe) -> None:
    assert_achieved(recipe, latest_version(ROOT / "models" / recipe.model_name, "tuned"))


def assert_achieved(recipe: Recipe, artifact: Path) -> dict[str, Any]:
    """The card of an artifact that is what the recipe says."""
    card: dict[str, Any] = json.loads((artifact / "card.json").read_text())
    machine = {"precision"}  # bfloat16 only where the CPU multiplies it
    stated = {"name": recipe.name, **recipe.hyper_parameters()}
    assert {key: value for key, value in card["recipe"].items() if key not in machine} == {
        key: value for key, value in stated.items() if key not in machine
    }
    assert card["metrics"]["accuracy"] == pytest.approx(recipe.achieved, abs=5e-4)
    return card


def test_the_tuned_recipe_is_that_of_the_families_and_mirrors_no_digits() -> None:
    families = ("densenet_bc", "preact_resnet", "resnext", "highway_conv", "stochastic_depth", "dense_sum_bottleneck")
    assert {recipe_for(name, "cifar10").name for name in families} == {"tuned"}
    for network in ("conv_resnet_deep", "conv_resnet_shallow", "plain", "stochastic_depth", "dense_sum", "highway"):
        for dataset in ("mnist", "digits"):
            recipe = recipe_for(network, dataset, "tuned")
            assert "flip" not in recipe.augmentation
            assert recipe.label_smoothing == 0


def test_the_network_for_digits_is_trained_on_distorted_figures_and_calibrated() -> None:
    recipe = recipe_for("digits_cnn", "mnist")
    assert recipe == recipe_for("digits_cnn", "mnist", "handwriting")
    assert set(recipe.augmentation) == {"pen", "warp", "focus", "light", "remains"}
    assert recipe.drawn_ones > 0
    assert recipe.calibrated
    assert isinstance(recipe.validation, float)  # the test split chooses nothing
    artifact = next(found for found in committed_artifacts() if found.parent.name == recipe.model_name)
    assert assert_achieved(recipe, artifact)["metrics"]["accuracy"] >= 0.995


def test_small_digits_are_trained_long_enough() -> None:
    recipe = recipe_for("dense_resnet", "digits")
    assert (recipe.name, recipe.epochs) == ("tuned", 40)
    assert recipe_for("dense_resnet", "digits", "notebook").epochs == 10


@pytest.mark.thorough
def test_default_recipe_learns_small_digits(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from training.fit import main

    places = ["--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    assert main(["dense_resnet", "--dataset", "digits", *places]) == 0
    card = json.loads((tmp_path / "models" / "dense_resnet-digits" / "1" / "card.json").read_text())
    assert card["metrics"]["accuracy"] >= 0.95
