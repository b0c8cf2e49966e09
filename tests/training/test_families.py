"""The families beside the notebook's: what the papers say of their size, and each at toy size from fit to HTTP."""

import json
from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import keras
import numpy as np
import pytest
from keras import layers
from PIL import Image

from tests.fixtures.inside import running_inside
from tests.fixtures.training import cheap_training
from training.data.loading import load
from training.networks.batch_norm import FusedBatchNormalization
from training.networks.network import build
from training.networks.resnet9 import Dirac, Whitening
from training.networks.table import NETWORKS
from training.recipes.table import recipe_for
from training.recipes.tuned import fast_precision
from training.runs.fitting import fit

SIDE = 13
QUICK = ("resnet9",)
OTHERS = (
    "highway",
    "resnext",
    "densenet_bc",
    "preact_resnet",
    "highway_conv",
    "stochastic_depth",
    "dense_sum_bottleneck",
)


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        pytest.param("densenet_bc_100", 0.8, marks=pytest.mark.thorough),  # Huang et al. 2016, table 2
        pytest.param("preact_resnet_110", 1.7, marks=pytest.mark.thorough),  # He et al. 2015, table 6
        ("preact_resnet", 0.27),  # the same, 20 layers: the others take seconds to build
        pytest.param("resnext_29", 34.4, marks=pytest.mark.thorough),  # Xie et al. 2016, table 7, 8x64d
    ],
)
def test_the_papers_configuration_has_the_papers_parameter_count(name: str, millions: float) -> None:
    model = build(NETWORKS[name], (32, 32, 3), 10, name)
    digits = len(str(millions).partition(".")[2])
    assert round(sum(int(np.prod(w.shape)) for w in model.trainable_weights) / 1e6, digits) == millions


def test_highway_layers_have_the_papers_width_and_their_gates_begin_closed() -> None:
    model = build(NETWORKS["highway"], (28, 28, 1), 10, "highway")
    dense = [layer for layer in model.layers if isinstance(layer, layers.Dense)]
    assert {layer.units for layer in dense[:-1]} == {50}
    gates = [layer for layer in dense if layer.name.endswith("_gate")]
    assert len(gates) == 50
    assert all((np.asarray(layer.bias) == -2).all() for layer in gates)


def test_stochastic_depth_drops_the_last_block_half_of_the_time_and_has_the_deep_networks_weights() -> None:
    model = build(NETWORKS["stochastic_depth"], (32, 32, 3), 10, "stochastic_depth")
    rates = [layer.rate for layer in model.layers if layer.name.endswith("_drop")]
    assert rates == pytest.approx([0.5 * k / 19 for k in range(1, 20)])
    assert model.count_params() == build(NETWORKS["conv_resnet_deep"], (32, 32, 3), 10, "deep").count_params()


def test_the_bottleneck_is_cheaper_than_the_block_it_replaces() -> None:
    shape = (32, 32, 3)
    assert NETWORKS["dense_sum_bottleneck"].macs(shape) < NETWORKS["conv_resnet_deep"].macs(shape) / 4


def test_resnet9_costs_no_more_than_the_notebooks_deep_network() -> None:
    assert NETWORKS["resnet9"].macs((32, 32, 3)) < NETWORKS["conv_resnet_deep"].macs((32, 32, 3))


@pytest.mark.parametrize("scale", [True, False])
def test_fused_batch_norm_trains_as_keras_own(scale: bool) -> None:
    x = np.random.default_rng(0).normal(3, 2, (16, 5, 5, 4)).astype(np.float32)
    ours = FusedBatchNormalization(scale=scale)
    own = layers.BatchNormalization(momentum=0.9, epsilon=1e-5, scale=scale)
    np.testing.assert_allclose(ours(x, training=True), own(x, training=True), atol=1e-5)
    for mine, theirs in zip(ours.get_weights(), own.get_weights(), strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=3e-3)  # the fused variance is that of a sample: n / (n - 1)
    np.testing.assert_allclose(ours(x), own(x), rtol=3e-3, atol=1e-3)


def test_a_shift_rate_is_a_factor_on_the_shifts_learning_rate_and_is_kept_with_the_model() -> None:
    x = np.random.default_rng(0).normal(3, 2, (16, 5, 5, 4)).astype(np.float32)
    steps, kernels = [], []
    for rate in (1.0, 64.0):
        norm = FusedBatchNormalization(shift_rate=rate, scale=False)
        norm = layers.deserialize(layers.serialize(norm))
        model = keras.Sequential([layers.Conv2D(4, 1, kernel_initializer=Dirac()), norm, layers.Flatten()])
        model.compile(keras.optimizers.SGD(0.001), "mse")
        model(x)
        before = np.asarray(model.layers[0].kernel)
        model.train_on_batch(x, np.ones((16, 100), np.float32))
        steps.append(np.asarray(norm.beta))
        kernels.append(np.asarray(model.layers[0].kernel) - before)
    assert np.abs(steps[0]).min() > 0
    np.testing.assert_allclose(steps[1], 64 * steps[0], rtol=1e-4)
    np.testing.assert_allclose(kernels[1], kernels[0], atol=1e-7)


def test_whitened_patches_of_the_images_are_uncorrelated_and_of_equal_size() -> None:
    smooth = np.random.default_rng(0).random((40, 3, 3, 3)).repeat(4, axis=1).repeat(4, axis=2)
    images = (255 * smooth).astype(np.uint8)
    layer = Whitening(24)
    layer(np.zeros((1, 12, 12, 3), np.float32))
    layer.adapt(images)
    out = np.asarray(layer(images.astype(np.float32) / 255)).reshape(-1, 24)[:, :12]
    covariance = np.cov(out, rowvar=False)
    np.testing.assert_allclose(covariance, np.diag(np.diag(covariance)), atol=0.02)
    assert np.abs(out.mean(axis=0)).max() < 0.02
    assert not layer.trainable_weights


def test_a_dirac_convolution_begins_as_the_identity() -> None:
    x = np.random.default_rng(0).random((2, 6, 6, 3), np.float32)
    layer = layers.Conv2D(5, 3, padding="same", kernel_initializer=Dirac())
    np.testing.assert_allclose(np.asarray(layer(x))[..., :3], x, rtol=1e-6)


@pytest.mark.parametrize(("flags", "precision"), [("fpu amx_bf16", "mixed_bfloat16"), ("fpu avx2", "float32")])
def test_bfloat16_is_for_cpus_that_multiply_it(tmp_path: Path, flags: str, precision: str) -> None:
    (tmp_path / "cpuinfo").write_text(f"flags : {flags}\n")
    assert fast_precision(tmp_path / "cpuinfo") == precision
    assert fast_precision(tmp_path / "absent") == "float32"


@pytest.fixture(scope="module", params=[QUICK, pytest.param(OTHERS, marks=pytest.mark.thorough)], ids="-".join)
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[tuple[str, ...], Path]]:
    """Families, and a folder with models/ of each at toy size: one epoch, and export compares the golden answers."""
    names, folder = request.param, tmp_path_factory.mktemp("families")
    rng = np.random.default_rng(0)
    labels = np.arange(60) % 3
    images = (rng.integers(0, 128, (60, SIDE, SIDE, 3)) + 50 * labels[:, None, None, None]).astype(np.uint8)
    np.savez(folder / "toys.npz", x_train=images, y_train=labels, x_test=images, y_test=labels)
    data = load("toys", folder / "toys.npz")
    with pytest.MonkeyPatch.context() as patch, cheap_training():
        for name in names:
            few = 2 if name.startswith(("preact", "resnext")) else 1
            patch.setitem(NETWORKS, name, replace(NETWORKS[name], blocks=few))
            recipe = replace(recipe_for(name, "toys", "tuned"), epochs=1, batch_size=18)
            fit(recipe, data, output=folder / "models", runs=folder / "runs")
        yield names, folder


def test_every_family_trains_is_published_and_is_served(trained: tuple[tuple[str, ...], Path], tmp_path: Path) -> None:
    names, folder = trained
    image = np.load(folder / "toys.npz")["x_test"][0]
    png = BytesIO()
    Image.fromarray(image).save(png, "PNG")
    first = f"{names[0]}-toys"
    with running_inside(tmp_path / "log", models=str(folder / "models"), default_model=first) as client:
        for name in names:
            model = keras.saving.load_model(folder / "runs" / f"{name}-toys" / "1" / "model.keras", compile=False)
            expected = np.asarray(model(image[None].astype(np.float32) / 255))[0]
            answer = client.post(f"/classify?model={name}-toys", png.getvalue(), "image/png")
            assert answer.status == 200, (name, answer.body)
            given = {p["label"]: p["probability"] for p in answer.json()["predictions"]}
            assert given["0"] == pytest.approx(expected[0], abs=2e-3), name
            card = json.loads((folder / "models" / f"{name}-toys" / "1" / "card.json").read_text())
            assert card["recipe"]["name"] == "tuned"
            assert card["recipe"]["schedule"] == "one_cycle"
