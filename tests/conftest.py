"""Shared by the whole suite: one real service per session, on the committed digits model and two toy versions."""

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.fixtures import toy
from tests.fixtures.server import ROOT, Client, running

pytest_plugins = ["tests.fixtures.summary"]

LONGEST = ("tests/training/", "tests/page/", "tests/edge/")  # the folders whose files take longest


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the files, the long ones come first: no process is left with one at the end."""
    if hasattr(config, "workerinput"):
        items.sort(key=lambda item: [not item.nodeid.startswith(folder) for folder in LONGEST])


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models/ folder: the committed digits_cnn-mnist, and toy-colours in versions 1 and 2."""
    folder = tmp_path_factory.mktemp("served") / "models"
    committed = Path("digits_cnn-mnist") / "1"  # and no version that somebody trained here since
    shutil.copytree(ROOT / "models" / committed, folder / committed)
    toy.write_artifact(folder, version=1)
    toy.write_artifact(folder, version=2, seed=2)
    return folder


@pytest.fixture(scope="session")
def service(models: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    log = tmp_path_factory.mktemp("log") / "service.log"
    with running(
        log, models=str(models), versions="toy-colours:1,2", max_body_bytes="2000000", protocols="all"
    ) as client:
        yield client
