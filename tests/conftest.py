"""Shared by the whole suite: one real service per session, on the committed digits model and two toy versions."""

import gc
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import hypothesis
import pytest
from PIL import Image

from tests.fixtures import toy
from tests.fixtures.server import ROOT, Client, running

pytest_plugins = ["tests.fixtures.summary", "tests.fixtures.training"]

# An example may take as long as a busy machine makes it, and a failure is found again from what it prints.
hypothesis.settings.register_profile("suite", deadline=None, print_blob=True)
hypothesis.settings.load_profile("suite")

PAGE = "tests/page/"  # its files share a browser and three services
# What takes longest, the longest first, by what `make test` says at its end.
LONGEST = (
    PAGE,
    *(
        f"tests/training/test_{name}.py"
        for name in ("fit", "keras_applications", "epochs", "runs", "others_models", "report", "suitability")
    ),
    "tests/test_readme.py",
    *(f"tests/{name}.py" for name in ("test_faults", "repository/test_watching", "edge/test_draining")),
    *(f"tests/{name}.py" for name in ("engine/test_probing", "deploy/test_deploy", "test_start", "test_hostile")),
    "tests/training/",
    "tests/operations/",
    "tests/client/",
    "tests/edge/",
    "tests/engine/",
    "tests/deploy/",
)


def pytest_configure() -> None:
    """Leave the modules that are imported from here on to no collector of garbage: they stay, TensorFlow's too.

    Looking through all of them again and again takes a sixth of the time until the tests begin.
    """
    gc.disable()


def pytest_collection_finish() -> None:
    gc.freeze()
    gc.enable()


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Where several processes share the files, the long ones come first: no process is left with one at the end."""
    if hasattr(config, "workerinput"):
        items.sort(
            key=lambda item: next((i for i, of in enumerate(LONGEST) if item.nodeid.startswith(of)), len(LONGEST))
        )


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """A file's tests on one process, as `--dist loadfile` has it; all of the page's too."""
    from xdist.scheduler.loadfile import LoadFileScheduling

    class Scheduling(LoadFileScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return PAGE if nodeid.startswith(PAGE) else super()._split_scope(nodeid)

    return Scheduling(config, log) if config.getoption("dist") == "loadfile" else None


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


@pytest.fixture(autouse=True, scope="module")
def pixel_limit() -> Iterator[None]:
    """Pillow has one limit for the process. What a file sets must not refuse the pictures of the next one."""
    before = Image.MAX_IMAGE_PIXELS
    yield
    Image.MAX_IMAGE_PIXELS = before
