import asyncio
from dataclasses import replace

import numpy as np
import pytest

from serving.errors import ImageTooLarge, StartError, UnknownModel
from serving.repository import INLINE_PIXELS, Repository
from serving.settings import Settings
from tests import toy
from tests.pictures import colours, encode


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    models = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        toy.write_artifact(models, version=version, seed=version)
    return Settings(models=models, default_model="toy-colours", versions="all", provider="cpu", max_pixels=1_000_000)


@pytest.fixture(scope="module")
def repository(settings: Settings) -> Repository:
    return Repository(settings, threads=1)


def test_the_latest_version_of_the_default_is_meant_when_nothing_is_said(repository: Repository) -> None:
    assert repository.find().artifact.version == 2
    assert repository.find("toy-colours", 1).artifact.version == 1
    assert len(list(repository)) == 2


def test_an_unknown_model_is_told_what_there_is(repository: Repository) -> None:
    with pytest.raises(UnknownModel, match=r"no model 'x\\ny'; there is toy-colours"):
        repository.find("x\ny")
    with pytest.raises(UnknownModel, match="no version 3; there is 1, 2"):
        repository.find("toy-colours", 3)


def test_a_default_that_is_not_there_ends_the_start(settings: Settings) -> None:
    with pytest.raises(StartError, match="SHORTCUT_DEFAULT_MODEL=nobody"):
        Repository(replace(settings, default_model="nobody"), threads=1)


def test_predictions_are_ranked_with_ties_by_index(repository: Repository) -> None:
    ranked = repository.find().rank(np.array([0.25, 0.5, 0.25], np.float32), 3)
    assert [p["index"] for p in ranked] == [1, 0, 2]
    assert ranked[0] == {"label": "green", "index": 1, "probability": 0.5}
    assert len(repository.find().rank(np.array([0.25, 0.5, 0.25]), 99)) == 3


@pytest.mark.parametrize("side", [8, 2 * int(INLINE_PIXELS**0.5)])
def test_small_and_big_pictures_are_decoded_alike(repository: Repository, side: int) -> None:
    served = repository.find()
    image = asyncio.run(served.decode(encode(colours((side, side)))))
    assert image.shape == (8, 8, 3)
    (answer,) = asyncio.run(served.classify([image], 3))
    expected = toy.expected(image[None], toy.weights((8, 8, 3), 3, seed=2))[0]
    assert {p["index"]: p["probability"] for p in answer} == pytest.approx(dict(enumerate(expected)), abs=1e-5)


def test_the_pixel_limit_is_the_settings(repository: Repository) -> None:
    with pytest.raises(ImageTooLarge, match="the limit is 1,000,000"):
        asyncio.run(repository.find().decode(encode(colours((8, 8)).resize((2000, 1000)))))


def test_what_is_served_is_described(repository: Repository) -> None:
    described = repository.describe()
    assert described["default"] == "toy-colours"
    assert [v["version"] for v in described["models"][0]["versions"]] == [1, 2]
    one = repository.describe_model("toy-colours")
    assert one["card"]["name"] == "toy-colours"
    assert one["versions"][0]["provider"] == "CPUExecutionProvider"
    assert one["versions"][0]["provider_reason"] == "SHORTCUT_PROVIDER=cpu"
