"""One real training at toy size, shared by the tests of the training half that only read what it left.

A plugin (`pytest_plugins`) rather than a conftest.py: the serving tests must not import TensorFlow.
"""

import contextlib
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

EPOCHS = 4


@pytest.fixture(scope="session")
def toy_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with models/tiny-digits/1, runs/tiny-digits/1 and output.txt, by the command line: 4 epochs of _tiny."""
    from training.fit import main

    folder = tmp_path_factory.mktemp("toy")
    handler = signal.getsignal(signal.SIGTERM)
    with (folder / "output.txt").open("w") as output, contextlib.redirect_stdout(output):
        code = main(
            ["_tiny", "--epochs", str(EPOCHS), "--output", str(folder / "models"), "--runs", str(folder / "runs")]
        )
    signal.signal(signal.SIGTERM, handler)
    assert code == 0
    return folder


@pytest.fixture
def keep_sigterm() -> Iterator[None]:
    """Put back the handler that `training.fit.main` replaces."""
    handler = signal.getsignal(signal.SIGTERM)
    yield
    signal.signal(signal.SIGTERM, handler)
