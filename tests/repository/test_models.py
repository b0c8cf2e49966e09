import asyncio
import gc
import itertools
import json
import os
import shutil
import time
import weakref
from dataclasses import replace
from pathlib import Path

import pytest

from serving import artifacts
from serving.engine.measurements import Measurements
from serving.errors import ImageTooLarge, StartError, Unavailable, UnknownModel
from serving.images.picture import decode_image
from serving.operations import tallies
from serving.repository.decoding import INLINE_PIXELS
from serving.repository.models import Repository, started_with, verify
from serving.settings import Settings
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    models = tmp_path_factory.mktemp("models")
    for version in (1, 2):
        toy.write_artifact(models, version=version, seed=version)
    return Settings(
        models=models, default_model="toy-colours", versions="all", provider="cpu", max_pixels=1_000_000, cache=models
    )


@pytest.fixture(scope="module")
def repository(settings: Settings) -> Repository:
    return Repository(settings, 1, Measurements(settings.cache))


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
    wrong = replace(settings, default_model="nobody")
    with pytest.raises(StartError, match="SHORTCUT_DEFAULT_MODEL=nobody"):
        Repository(wrong, 1, Measurements(settings.cache))
    with pytest.raises(StartError, match="SHORTCUT_DEFAULT_MODEL=nobody"):
        list(verify(wrong, 1, Measurements(settings.cache)))


def test_only_model_is_the_default_where_none_is_named(settings: Settings, tmp_path: Path) -> None:
    toy.write_artifact(tmp_path / "models")
    unnamed = replace(settings, models=tmp_path / "models", default_model=Settings.default_model, cache=tmp_path)
    repository = Repository(unnamed, 1, Measurements(tmp_path))
    assert repository.find().artifact.name == "toy-colours"
    toy.write_artifact(tmp_path / "models", name="another")
    renewed = repository.renewed()
    assert renewed is not None
    assert renewed.find().artifact.name == "toy-colours"  # requests go on meaning the same
    with pytest.raises(StartError, match="there is another, toy-colours"):
        Repository(unnamed, 1, Measurements(tmp_path))


def test_the_parent_decides_for_every_model_and_the_workers_follow(settings: Settings, tmp_path: Path) -> None:
    auto = replace(settings, provider="auto", cache=tmp_path)
    measurements = Measurements(tmp_path)
    chosen = list(verify(auto, 1, measurements))
    assert [name for name, _ in chosen] == ["toy-colours version 1", "toy-colours version 2"]
    assert list(verify(auto, 1, Measurements(tmp_path))) != []
    reasons = [served.model.reason for served in Repository(auto, 1, Measurements(tmp_path))]
    assert [reason.startswith("the provider that is ready first") for reason in reasons] == [True, True]


@pytest.mark.parametrize("side", [8, 2 * int(INLINE_PIXELS**0.5)])
def test_small_and_big_pictures_are_decoded_alike(repository: Repository, side: int) -> None:
    served = repository.find()
    picture = encode(colours((side, side)))
    answered = asyncio.run(served.answer(picture))
    image = decode_image(picture, (8, 8, 3))
    expected = toy.expected(image[None], toy.weights((8, 8, 3), 3, seed=2))[0]
    assert answered.probabilities.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_the_pixel_limit_is_the_settings(repository: Repository) -> None:
    for form in ("BMP", "PNG"):
        with pytest.raises(ImageTooLarge, match="the limit is 1,000,000"):
            asyncio.run(repository.find().answer(encode(colours((8, 8)).resize((2000, 1000)), form)))


def test_beside_a_bad_version_good_ones_are_served_and_nothing_is_left_behind(tmp_path: Path) -> None:
    toy.write_artifact(tmp_path, version=1)
    toy.write_artifact(tmp_path, name="other")
    settings = Settings(models=tmp_path, default_model="toy-colours", versions="all", provider="cpu", cache=tmp_path)
    repository = Repository(settings, 1, Measurements(tmp_path))
    repository.replace(None)
    watched = len(tallies.watched)
    (toy.write_artifact(tmp_path, version=2) / "model.onnx").write_bytes(b"no graph")
    for version in (3, 4):
        toy.write_artifact(tmp_path, version=version)
        renewed = repository.renewed()
        assert renewed is not None
        renewed.replace(repository)
        repository = renewed
        assert [path.name for path in repository.refused] == ["2"]
    assert sorted(served.artifact.version for served in repository) == [1, 1, 3, 4]
    assert len(tallies.watched) == watched + 2
    shutil.rmtree(tmp_path / "toy-colours" / "3")
    shutil.rmtree(tmp_path / "toy-colours" / "4")
    renewed = repository.renewed()
    assert renewed is not None
    renewed.replace(repository)
    assert len(tallies.watched) == watched
    for served in renewed:
        served.retire()


def test_a_model_that_is_refused_is_not_unknown(tmp_path: Path) -> None:
    toy.write_artifact(tmp_path)
    settings = Settings(models=tmp_path, default_model="toy-colours", provider="cpu", cache=tmp_path)
    repository = Repository(settings, 1, Measurements(tmp_path))
    (toy.write_artifact(tmp_path, name="other") / "model.onnx").write_bytes(b"no graph")
    renewed = repository.renewed()
    assert renewed is not None
    with pytest.raises(Unavailable, match="'other' cannot be served at the moment"):
        renewed.find("other")


# What changes in the folder


def folder_of_one(tmp_path: Path) -> Settings:
    toy.write_artifact(tmp_path / "models")
    return Settings(models=tmp_path / "models", default_model="toy-colours", provider="cpu", cache=tmp_path)


def renewed(repository: Repository) -> Repository:
    new = repository.renewed()
    assert new is not None
    new.replace(repository)
    return new


def test_updates_leave_nothing_of_the_versions_before(tmp_path: Path) -> None:
    settings = folder_of_one(tmp_path)
    repository = Repository(settings, 1, Measurements(tmp_path))
    gone = []
    gc.disable()
    try:
        for version in range(2, 32):
            gone += [weakref.ref(repository), weakref.ref(repository.find()), weakref.ref(repository.find().model)]
            toy.write_artifact(settings.models, version=version)
            repository = renewed(repository)
            assert repository.find().artifact.version == version
    finally:
        gc.enable()
    assert [reference() for reference in gone if reference() is not None] == []


def test_a_version_that_failed_for_a_passing_reason_is_tried_again_less_and_less_often(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = folder_of_one(tmp_path)
    repository = Repository(settings, 1, Measurements(tmp_path))
    tries: list[float] = []
    now = 1000.0
    read = artifacts.read

    def failing(path: Path) -> artifacts.Artifact:
        if path.name == "2":
            tries.append(now)
            if len(tries) < 4:
                raise StartError("Input/output error")
        return read(path)

    monkeypatch.setattr(artifacts, "read", failing)
    monkeypatch.setattr(time, "monotonic", lambda: now)
    toy.write_artifact(settings.models, version=2)
    while repository.find().artifact.version == 1:
        if (new := repository.renewed()) is not None:
            new.replace(repository)
            repository = new
            if repository.find().artifact.version == 1:
                assert [path.name for path in repository.refused] == ["2"]
        now += 0.5
        assert now < 1100
    assert repository.refused == {}
    waits = [after - before for before, after in itertools.pairwise(tries)]
    assert waits == [2.0, 4.0, 8.0]


def test_a_link_that_leads_elsewhere_is_noticed_though_files_are_as_long_and_as_old(tmp_path: Path) -> None:
    settings = folder_of_one(tmp_path)
    link = settings.models / "toy-colours" / "1"
    first = link.rename(tmp_path / "first")
    second = toy.write_artifact(tmp_path / "second", seed=5)
    for folder in (first, second):
        for file in folder.iterdir():
            os.utime(file, (0, 0))
    link.symlink_to(first)
    repository = Repository(settings, 1, Measurements(tmp_path))
    assert repository.renewed() is None
    link.unlink()
    link.symlink_to(second)
    assert renewed(repository).find().artifact.sha256 != repository.find().artifact.sha256


def test_what_was_changed_since_the_service_started_is_not_served_under_the_same_version(tmp_path: Path) -> None:
    settings = folder_of_one(tmp_path)
    toy.write_artifact(settings.models, name="other")
    list(verify(settings, 1, Measurements(tmp_path), tmp_path))
    contents = started_with(tmp_path)
    assert len(contents) == 2
    shutil.rmtree(settings.models / "other")
    toy.write_artifact(settings.models, name="other", seed=7)
    later = Repository(settings, 1, Measurements(tmp_path), contents)  # of a worker that replaces a dead one
    with pytest.raises(Unavailable):
        later.find("other")
    [refusal] = later.refused.values()
    assert "changed since the service started" in refusal.reason
    assert started_with(None) == started_with(tmp_path / "nothing") == {}


def test_a_worker_takes_over_what_the_parent_has_found(tmp_path: Path) -> None:
    settings = folder_of_one(tmp_path)
    [(_, known)] = verify(settings, 1, Measurements(tmp_path), tmp_path)
    [started] = started_with(tmp_path).values()
    assert started.checked == known
    assert started.checked is not None
    model = Repository(settings, 1, Measurements(tmp_path), started_with(tmp_path)).find().model
    assert (model.deviation, model.image_seconds) == (known.deviation, known.image_seconds)


def test_a_worker_looks_for_itself_whether_answers_are_right(tmp_path: Path) -> None:
    """Whatever the parent has found."""
    settings = folder_of_one(tmp_path)
    list(verify(settings, 1, Measurements(tmp_path), tmp_path))
    wrong = toy.graph("toy-colours", (8, 8, 3), toy.weights((8, 8, 3), 3, seed=9))
    toy.replace_onnx(settings.models / "toy-colours" / "1", wrong)
    [(path, started)] = started_with(tmp_path).items()
    identity = artifacts.read(Path(path)).identity
    with pytest.raises(StartError, match=r"does not reproduce golden\.npz"):
        Repository(settings, 1, Measurements(tmp_path), {path: started._replace(identity=identity)})


def test_a_worker_that_replaces_another_serves_what_the_others_serve(tmp_path: Path) -> None:
    settings = folder_of_one(tmp_path)
    list(verify(settings, 1, Measurements(tmp_path), tmp_path))
    toy.write_artifact(settings.models, version=2)  # published since, and nobody watches
    later = Repository(settings, 1, Measurements(tmp_path), started_with(tmp_path))
    assert later.find().artifact.version == 1


def test_other_labels_under_the_same_version_are_other_contents(tmp_path: Path) -> None:
    settings = folder_of_one(tmp_path)
    list(verify(settings, 1, Measurements(tmp_path), tmp_path))
    file = settings.models / "toy-colours" / "1" / "card.json"
    card = json.loads(file.read_text())
    card["labels"] = card["labels"][::-1]
    file.write_text(json.dumps(card))
    with pytest.raises(StartError, match="changed since the service started"):
        Repository(settings, 1, Measurements(tmp_path), started_with(tmp_path))
