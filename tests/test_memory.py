"""The real service with less memory than its models need, by a limit of the kernel's."""

import subprocess
import time
from pathlib import Path

import pytest

from tests.fixtures import toy
from tests.fixtures.cgroups import memory_limit
from tests.fixtures.server import ROOT, command, environment, free_port, running

MB = 10**6


# Put in front of every module of a worker, never of the parent: as the kernel would end it.
KILLED = """
import os, sys
if "_bentoml_impl.worker" in " ".join(sys.orig_argv):
    os.kill(os.getpid(), 9)
"""


@pytest.mark.thorough  # BentoML looks for dead workers every ten seconds
def test_workers_that_die_of_starting_are_told_and_not_replaced_for_ever(tmp_path: Path) -> None:
    toy.write_artifact(tmp_path / "models")
    (tmp_path / "site").mkdir()
    (tmp_path / "site" / "sitecustomize.py").write_text(KILLED)
    settings = {"models": str(tmp_path / "models"), "default_model": "toy-colours", "workers": "1"}
    log = tmp_path / "log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            command(free_port()),
            cwd=ROOT,
            env=environment(**settings) | {"PYTHONPATH": str(tmp_path / "site")},
            stdout=output,
            stderr=output,
        )
        try:
            status = process.wait(300)
        finally:
            process.kill()
            process.wait()
    text = log.read_text()
    assert text.count(": SIGKILL, killed, perhaps for want of memory; now ") == 3, text
    assert "3 workers in a row ended soon after their start: no more are started" in text
    assert status not in (0, -9), text


@pytest.mark.thorough
def test_a_model_does_not_move_where_it_does_not_fit(tmp_path: Path) -> None:
    toy.write_artifact(tmp_path / "models")
    settings = {"models": str(tmp_path / "models"), "default_model": "toy-colours", "workers": "1", "provider": "auto"}
    with (
        memory_limit(330 * MB) as within,
        running(tmp_path / "log", within=within, **settings, cache=str(tmp_path)) as client,
    ):
        deadline = time.monotonic() + 300
        while (version := client.get("/models").json()["models"][0]["versions"][0])["measuring"]:
            assert time.monotonic() < deadline
            time.sleep(0.2)
    assert version["provider"] == "CPUExecutionProvider"
    assert "of memory are left" in version["provider_reason"]
    assert "ended after" not in (tmp_path / "log").read_text()
