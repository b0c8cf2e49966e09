"""A start with a part of a core: the limit is the kernel's, and the command measures starts of both kinds."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from benchmarks import start
from benchmarks.servers import SERVING_BIN
from tests.fixtures import toy
from tests.fixtures.server import free_port

BUSY = """
import time
began = time.perf_counter()
while time.process_time() < 0.3:
    pass
print(time.process_time() / (time.perf_counter() - began))
"""


def test_the_kernel_gives_no_more_than_the_share() -> None:
    try:
        with start.limited(0.2) as within:
            command = [*within, sys.executable, "-c", BUSY]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
    except OSError as err:
        pytest.skip(str(err))
    assert float(done.stdout) < 0.5  # of a core; without the limit about 1
    assert not list(Path("/sys/fs/cgroup").glob(f"**/shortcut-start-{os.getpid()}"))


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["nobody"], "no such model"),
        (["--cores=0"], "--cores must be above 0"),
        (["--rounds=0"], "--rounds at least 1"),
    ],
)
def test_what_is_wrong_is_told(arguments: list[str], told: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        start.main(arguments)
    assert told in capsys.readouterr().err


@pytest.mark.thorough
@pytest.mark.skipif(not SERVING_BIN.joinpath("bentoml").exists(), reason="the service's environment is not built")
def test_starts_with_one_model_and_with_all(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    try:
        with start.limited(1):
            pass
    except OSError as err:
        pytest.skip(str(err))
    for name in ("toy-a", "toy-b"):
        toy.write_artifact(tmp_path, name)
    arguments = ["toy-a", "--models", str(tmp_path), "--cores=1", "--rounds=1", f"--port={free_port()}"]
    assert start.main(arguments) == 0
    assert re.findall(r"^(\d models?): ready after [\d.]+ s$", capsys.readouterr().out, re.M) == ["1 model", "2 models"]
