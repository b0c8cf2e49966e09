"""The output `unfamiliarity`: fitted after a training, alike in every form, and above its threshold for strangers."""

import json
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from serving.operations import metrics
from serving.repository.answers import rank
from serving.repository.predictor import Predictor
from tests.fixtures.training import cheap_export
from training.artifact import publishing
from training.artifact.errors import ExportError
from training.artifact.publishing import export
from training.artifact.reading import run_outputs
from training.artifact.reference import PROBABILITIES, UNFAMILIARITIES, reference
from training.artifact.unfamiliarity import FALSE_ALARMS, fit, stated, threshold, with_features
from training.data.dataset import Dataset
from training.recipes.table import recipe_for
from training.runs.fitting import fit as train

SIDE = 32


def patterns(count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Noisy, coloured pictures in three classes: stripes that lie, stripes that stand, a disc."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    shapes = np.stack([y // 4 % 2, x // 4 % 2, (x - 16) ** 2 + (y - 16) ** 2 < 80])
    labels = np.arange(count) % 3
    colour = rng.uniform(60, 180, (count, 1, 1, 3))
    images = shapes[labels][..., None] * colour + rng.uniform(0, 60, (count, SIDE, SIDE, 3))
    return images.astype(np.uint8), labels


def strangers(count: int) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(9)
    lines = np.zeros((count, SIDE, SIDE, 3), np.uint8)
    for image in lines:  # drawings of another kind: lines along the diagonals
        for _ in range(3):
            at = int(rng.integers(-12, 12))
            image[np.eye(SIDE, k=at, dtype=bool) | np.eye(SIDE, k=at + 1, dtype=bool)] = 255
    return {
        "noise": rng.integers(0, 256, lines.shape, np.uint8),
        "blank": np.broadcast_to(rng.integers(0, 256, (count, 1, 1, 3)), lines.shape).astype(np.uint8),
        "drawings": lines,
    }


@pytest.fixture(scope="module")
def artifact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Trained as a folder of one's own pictures is, by a small network from scratch, which takes seconds."""
    folder = tmp_path_factory.mktemp("unfamiliar")
    (images, labels), (test, targets) = patterns(210, 0), patterns(60, 1)
    data = Dataset("patterns", "drawn", ("lying", "standing", "disc"), "plain", images, labels, test, targets)
    recipe = replace(recipe_for("conv_resnet_shallow", "patterns"), epochs=3, validation=0.4)
    with cheap_export():
        return train(recipe, data, output=folder / "models", runs=folder / "runs")


def card_of(artifact: Path) -> dict:
    return json.loads((artifact / "card.json").read_text())


def test_strangers_are_unsure_and_few_of_its_own(artifact: Path) -> None:
    limit = card_of(artifact)["unfamiliarity"]["threshold"]
    for kind, images in strangers(60).items():
        (values,) = run_outputs(artifact, images, ["unfamiliarity"])
        assert (values > limit).mean() >= 0.95, kind
    (values,) = run_outputs(artifact, patterns(200, 5)[0], ["unfamiliarity"])
    assert (values > limit).mean() <= 4 * FALSE_ALARMS


def test_the_service_says_unfamiliar(artifact: Path) -> None:
    predictor = Predictor.open(artifact)
    answers = predictor.predict(list(strangers(4)["noise"]))
    assert [rank(answer, 1).unsure for answer in answers] == ["unfamiliar"] * 4


def test_the_three_forms_and_golden_agree(artifact: Path) -> None:
    card, archive = card_of(artifact), np.load(artifact / "golden.npz")
    images, golden = archive["image"], archive["unfamiliarity"]
    assert (golden.shape, golden.dtype) == ((32,), np.float32)
    signature = tf.saved_model.load(str(artifact)).signatures["serving_default"]
    limit = card["unfamiliarity"]["float32_limit"]
    for values in (
        run_outputs(artifact, images, ["unfamiliarity"])[0],
        signature(image=tf.constant(images))["unfamiliarity"].numpy(),
    ):
        assert (values.shape, values.dtype) == ((32,), np.float32)
        np.testing.assert_allclose(values, golden, rtol=limit, atol=limit * float(np.median(golden)))


def test_the_card_states_the_threshold_and_what_it_is_known_from(artifact: Path) -> None:
    card = card_of(artifact)
    said = card["unfamiliarity"]
    assert said["method"] == "cosine"  # 256 features of 126 pictures determine no covariance
    assert said["validation"] == 84
    assert 0 < said["share"] <= FALSE_ALARMS
    assert said["interval"][0] < said["share"] < said["interval"][1]
    shares = card["reference"]
    assert sum(shares["labels"].values()) == pytest.approx(1, abs=1e-4)
    assert shares["unfamiliarity"]["1.0"] == pytest.approx(1 - said["share"], abs=1e-4)
    for part in ("probability", "unfamiliarity"):
        assert list(shares[part].values()) == sorted(shares[part].values())


# The parts


def clouds(count: int, features: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Three classes, long in the first direction and narrow in the others."""
    rng = np.random.default_rng(seed)
    targets = np.arange(count) % 3
    widths = np.append(10, np.full(features - 1, 0.1))
    return (rng.normal(0, widths, (count, features)) + 5 * np.eye(3, features)[targets, ::-1]), targets


def test_mahalanobis_follows_the_classes_shape() -> None:
    distance = fit(*clouds(600, 6))
    assert distance.method == "mahalanobis"
    own = np.asarray(distance(clouds(300, 6, 1)[0].astype(np.float32)))
    along, across = (clouds(3, 6, 2)[0] + step * np.eye(6)[k] for step, k in ((15, 0), (3, 1)))
    assert np.asarray(distance(along.astype(np.float32))).max() < np.asarray(distance(across.astype(np.float32))).min()
    limit = threshold(own)
    assert (own > limit).mean() <= FALSE_ALARMS
    assert (np.asarray(distance(across.astype(np.float32))) > limit).all()


def test_mahalanobis_is_what_the_definition_gives() -> None:
    features, targets = clouds(600, 4)
    values = np.asarray(fit(features, targets)(features.astype(np.float32)))
    means = np.stack([features[targets == k].mean(axis=0) for k in range(3)])
    centred = features - means[targets]
    inverse = np.linalg.inv(centred.T @ centred / len(features))
    apart = features[:, None] - means
    expected = np.sqrt(np.einsum("nki,ij,nkj->nk", apart, inverse, apart).min(axis=1) / 4)
    np.testing.assert_allclose(values, expected, rtol=0.05)  # the covariance is shrunk a little


def test_few_pictures_of_many_features_get_the_cosine() -> None:
    distance = fit(*clouds(30, 100))
    assert distance.method == "cosine"
    centroids = distance.centroids
    np.testing.assert_allclose(distance(np.concatenate([centroids, -centroids[:1]])), [0, 0, 0, 1], atol=0.5)
    np.testing.assert_allclose(distance(7 * centroids), 0, atol=1e-6)  # a length says nothing


def test_features_of_nothing_are_finite() -> None:
    for count, features in ((30, 100), (600, 4)):
        points, targets = clouds(count, features)
        points[:, -1] = 0
        assert np.isfinite(fit(points, targets)(np.zeros((1, features), np.float32))).all()
    with pytest.raises(ValueError, match="no finite numbers"):
        fit(np.full((30, 4), np.nan), np.arange(30) % 3)


def test_a_threshold_of_few_pictures_states_a_wide_interval() -> None:
    distance, rng = fit(*clouds(30, 100)), np.random.default_rng(0)
    few, many = (stated(distance, rng.random(count), rng.random(5)) for count in (12, 2000))
    assert few["share"] == 0  # a twelfth would be more than one in twenty
    assert few["interval"][1] - few["interval"][0] > 0.2 > 0.03 > many["interval"][1] - many["interval"][0]


def test_the_reference_has_the_service_s_bounds() -> None:
    assert (PROBABILITIES, UNFAMILIARITIES) == (metrics.TOP_PROBABILITIES, metrics.UNFAMILIARITIES)
    answers = np.array([[0.95, 0.05], [0.4, 0.6], [0.001, 0.999], [0.7, 0.3]], np.float32)
    found = reference(answers, ("a", "b"), np.array([1, 2, 3, 9]), 2.0)
    assert found["labels"] == {"a": 0.5, "b": 0.5}
    assert [found["probability"][key] for key in ("0.5", "0.6", "0.7", "0.95", "0.99", "1.0")] == [
        *(0, 0.25, 0.5, 0.75, 0.75, 1)
    ]
    assert [found["unfamiliarity"][key] for key in ("0.25", "0.5", "1.0", "1.5", "4.0")] == [0, 0.25, 0.5, 0.75, 0.75]


def small() -> keras.Model:
    keras.utils.set_random_seed(2)
    image = keras.layers.Input((8, 8, 1))
    x = keras.layers.Dense(6, activation="relu")(keras.layers.Flatten()(image))
    return keras.Model(image, keras.layers.Dense(3, activation="softmax")(x))


def test_a_form_that_differs_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = small()
    images = np.random.default_rng(0).random((90, 8, 8, 1), np.float32)
    distance = fit(with_features(model).predict(images, verbose=0)[1], np.arange(90) % 3)
    run = publishing.run_outputs

    def off(path: Path, images: np.ndarray, names: list[str]) -> list[np.ndarray]:
        probabilities, values = run(path, images, names)
        return [probabilities, 1.01 * values]

    monkeypatch.setattr(publishing, "run_outputs", off)
    with pytest.raises(ExportError, match=r"ONNX disagrees .* unfamiliarity differs by 0\.01"):
        export(model, "toy", labels=("a", "b", "c"), output=tmp_path, card={}, distance=distance)
    assert list(tmp_path.iterdir()) == []


def test_what_rounding_decides_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model = small()
    images = np.random.default_rng(0).random((90, 8, 8, 1), np.float32)
    distance = fit(with_features(model).predict(images, verbose=0)[1], np.arange(90) % 3)
    monkeypatch.setattr(publishing, "MOST_UNFAMILIAR", 0.0)
    card = {"unfamiliarity": {"threshold": 1.0}}
    artifact = export(model, "toy", labels=("a", "b", "c"), output=tmp_path, card=card, distance=distance)
    assert "rounding moves the model's unfamiliarity" in capsys.readouterr().out
    assert "unfamiliarity" not in card_of(artifact)
    assert "unfamiliarity" not in np.load(artifact / "golden.npz")


def test_a_model_must_end_in_a_dense_layer() -> None:
    model = keras.Sequential([keras.layers.Input((8,)), keras.layers.Dense(3), keras.layers.Softmax()])
    with pytest.raises(ExportError, match="ends in a Dense layer, got Softmax"):
        with_features(model)
