"""A model without a service gives the service's answers."""

import asyncio
import shutil
from pathlib import Path

import numpy as np
import pytest

from serving.engine.batching import MAX_BATCH
from serving.errors import InvalidImage, InvalidRequest, StartError
from serving.repository.answers import Answer
from serving.repository.predictor import Predictor
from serving.repository.served import ServedModel
from serving.settings import Settings
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import ROOT


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for version in (1, 2):
        toy.write_artifact(tmp_path, version=version, seed=version)
    return tmp_path / "toy-colours"


def test_folder_of_a_model_means_its_latest_version(folder: Path) -> None:
    assert Predictor.open(folder).artifact.version == 2
    assert Predictor.open(folder / "1").artifact.version == 1


def test_what_is_no_model_is_named(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(StartError, match="no such folder of a model"):
        Predictor.open(tmp_path / "nothing")
    shutil.rmtree(folder / "1")
    (folder / "2").rename(folder / "latest")
    with pytest.raises(StartError, match="holds neither"):
        Predictor.open(folder)


def test_it_answers_as_the_service_does() -> None:
    predictor = Predictor.open(ROOT / "models" / "digits_cnn-mnist" / "1")
    golden = predictor.artifact.golden_images
    pictures = [encode(colours((300, 200)), "JPEG"), b"no picture", encode(colours((28, 28)))]
    served = ServedModel(predictor.model, Settings(), lambda backend: predictor.model)
    first, bad, third = predictor.predict(pictures)
    assert isinstance(bad, InvalidImage)
    for picture, found in ((pictures[0], first), (pictures[2], third)):
        expected = asyncio.run(served.answer(picture))
        assert isinstance(found, Answer)
        assert found.doubt == expected.doubt
        np.testing.assert_array_equal(found.image, expected.image)
        np.testing.assert_allclose(found.probabilities, expected.probabilities, atol=1e-5)
        assert found.stages == []
    found = np.stack([one.probabilities for one in predictor.predict(golden, partial=False)])
    np.testing.assert_allclose(found, predictor.artifact.golden_probabilities, atol=1e-4)


def test_many_are_computed_in_batches(folder: Path) -> None:
    predictor = Predictor.open(folder)
    images = np.random.default_rng(0).integers(0, 256, (2 * MAX_BATCH + 3, 8, 8, 3), dtype=np.uint8)
    found = [one.probabilities for one in predictor.predict(images, partial=False)]
    np.testing.assert_allclose(found, toy.expected(images, toy.weights((8, 8, 3), 3, seed=2)), atol=1e-5)
    assert predictor.predict([]) == []


def test_failures_are_raised_where_none_may_be_left_out(folder: Path) -> None:
    predictor = Predictor.open(folder)
    with pytest.raises(InvalidImage):
        predictor.predict([encode(colours()), b""], partial=False)
    with pytest.raises(InvalidRequest):
        predictor.predict(np.zeros((2, 9, 9, 3), np.uint8))
