"""Backends that crash, hang or lie do so in a child process."""

import errno
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving import artifacts
from serving.engine import memory, probing
from serving.engine.buckets import FORMED
from serving.engine.decision import decide
from serving.engine.providers import BACKENDS, Backend
from tests.fixtures import toy

PLANTED = ("-m", "tests.fixtures.planted_backends")


@pytest.fixture
def artifact(tmp_path: Path) -> artifacts.Artifact:
    return artifacts.read(toy.write_artifact(tmp_path))


def probe(artifact: artifacts.Artifact, *names: str) -> probing.Findings:
    return probing.probe(artifact, [Backend(name) for name in (*names, "sound")], 1, 60, PLANTED)


@pytest.mark.parametrize(
    ("name", "lasting", "reason"),
    [
        ("crashes when loaded", True, "ends its process by SIGSEGV"),
        ("crashes", True, "ends its process by SIGFPE"),
        ("crashes when timed", True, "ends its process by SIGILL"),
        ("aborts", False, "ends its process by SIGABRT"),
        ("has no memory", False, "std::bad_alloc"),
        ("exits", False, "ends its process with an error"),
        ("lies", True, "does not reproduce golden.npz"),
        ("lies in large batches", True, "does not reproduce golden.npz: largest difference inf"),
        ("fails", False, "the driver is confused"),
        ("absent", True, "no such device"),
    ],
)
def test_what_is_not_sound_is_refused_and_says_why(
    artifact: artifacts.Artifact, name: str, lasting: bool, reason: str
) -> None:
    """And only a reason that lasts is remembered."""
    found = probe(artifact, name)
    assert found.lasting == lasting
    assert found.refused.keys() == {Backend(name)}
    assert found.refused[Backend(name)].startswith(reason)
    assert found.trials[Backend("sound")].seconds.keys() == set(FORMED)


def test_what_hangs_is_given_up_and_may_be_tried_again_at_the_next_start(
    artifact: artifacts.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    run, patience = probing._run, [60, 2]  # of the next child and of the first, the seconds

    def impatient(*arguments: Any) -> tuple[str, bool]:
        return run(*arguments[:-1], patience.pop())

    monkeypatch.setattr(probing, "_run", impatient)
    found = probe(artifact, "hangs")
    assert patience == []
    assert found.refused == {Backend("hangs"): "does not answer for 2 s"}
    assert found.trials.keys() == {Backend("sound")}
    assert not found.lasting


def test_what_memory_was_short_for_may_be_tried_again_too(artifact: artifacts.Artifact) -> None:
    found = probe(artifact, "is killed")
    assert "want of memory" in found.refused[Backend("is killed")]
    assert not found.lasting


def test_close_calls_of_golden_pictures_are_counted_and_timed(tmp_path: Path) -> None:
    """Of a network that knows nothing: every answer is a close call, and each costs a run in float32 besides."""
    folder = toy.write_artifact(tmp_path)
    nothing = np.zeros((8 * 8 * 3, 3), np.float32)
    toy.replace_onnx(folder, toy.graph("toy-colours", (8, 8, 3), nothing))
    toy.replace_golden(folder, probabilities=toy.expected(artifacts.read(folder).golden_images, nothing))
    found = probing.probe(artifacts.read(folder), [Backend("sound", "bf16"), Backend("cpu")], 1, 60, PLANTED)
    trial = found.trials[Backend("sound", "bf16")]
    assert trial.recomputed_share == 1.0
    assert trial.again.keys() == set(FORMED)
    measurement = decide(found)
    assert measurement.backend == Backend("cpu")  # as fast, and does not compute twice
    assert measurement.rates["cpu"] > measurement.rates["sound bf16"]


def test_a_referee_that_is_wrong_itself_refuses_the_backend(artifact: artifacts.Artifact) -> None:
    found = probing.probe(artifact, [Backend("lying referee", "bf16")], 1, 60, PLANTED)
    assert "does not reproduce golden.npz" in found.refused[Backend("lying referee", "bf16")]


def test_without_room_for_temporary_files_everything_is_refused(
    artifact: artifacts.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A full /tmp."""

    def full(*arguments: Any, **options: Any) -> Any:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    found = probing.probe(artifact, [Backend("cpu")], 1)
    assert found.refused == {Backend("cpu"): "no process can be started: No space left on device"}
    assert not found.lasting


def test_nothing_is_measured_where_the_child_has_no_memory(
    artifact: artifacts.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(memory, "left", lambda: 150_000_000)
    found = probing.probe(artifact, [Backend("cpu")], 1)
    assert "150 MB of memory are left, and it takes 20" in found.refused[Backend("cpu")]
    assert not found.lasting


def test_several_bad_ones_cost_a_child_each(artifact: artifacts.Artifact) -> None:
    found = probe(artifact, "crashes", "talks", "crashes when loaded", "lies")
    assert found.refused.keys() == {Backend(name) for name in ("crashes", "crashes when loaded", "lies")}
    assert found.trials.keys() == {Backend("sound"), Backend("talks")}


def test_what_is_slower_is_found_to_be(artifact: artifacts.Artifact) -> None:
    trials = probe(artifact, "is slow").trials
    assert all(trials[Backend("is slow")].seconds[size] > 0.002 * size for size in FORMED)
    assert trials[Backend("sound")].seconds[32] < trials[Backend("is slow")].seconds[32]


def test_the_real_backends_are_tried_for_real(artifact: artifacts.Artifact) -> None:
    """Whatever this processor does to them, the child answers for each."""
    found = probing.probe(artifact, BACKENDS, 1)
    assert found.trials.keys() | found.refused.keys() == set(BACKENDS)
    for backend, trial in found.trials.items():
        less_exact = backend.precision != "float32"
        assert bool(trial.again) == less_exact
        assert trial.bytes > 0
        assert 0 <= trial.recomputed_share <= less_exact
    assert Backend("cpu") in found.trials


def test_where_no_child_can_work_everything_is_refused(artifact: artifacts.Artifact) -> None:
    found = probing.probe(artifact, [Backend("cpu")], 1, child=("-c", "raise SystemExit('no memory')"))
    assert found.refused == {Backend("cpu"): "ends its process with an error: no memory"}


def test_a_model_that_is_changed_meanwhile_is_not_taken_for_the_old_one(artifact: artifacts.Artifact) -> None:
    toy.write_artifact(artifact.path.parents[1], name="another", seed=3)
    (artifact.path / "model.onnx").write_bytes((artifact.path.parents[1] / "another/1/model.onnx").read_bytes())
    card = json.loads((artifact.path / "card.json").read_text())
    card["files"]["model.onnx"]["sha256"] = toy.sha256(artifact.path / "model.onnx")
    (artifact.path / "card.json").write_text(json.dumps(card))
    found = probing.probe(artifact, [Backend("cpu")], 1)
    assert "the model was changed meanwhile" in found.refused[Backend("cpu")]


def test_the_child_ends_with_its_parent(artifact: artifacts.Artifact, tmp_path: Path) -> None:
    """A worker that is killed leaves no child behind."""
    program = f"""
from pathlib import Path
import subprocess, threading, os, time
from serving import artifacts
from serving.engine import probing
from serving.engine.providers import Backend
started = subprocess.Popen.__init__
def noting(self, *arguments, **options):
    started(self, *arguments, **options)
    Path({str(tmp_path / "child")!r}).write_text(str(self.pid))
subprocess.Popen.__init__ = noting
artifact = artifacts.read(Path({str(artifact.path)!r}))
threading.Thread(target=probing.probe, args=(artifact, [Backend("hangs")], 1, 600, {PLANTED!r}), daemon=True).start()
while not Path({str(tmp_path / "child")!r}).exists():
    time.sleep(0.01)
time.sleep(1)
os.kill(os.getpid(), 9)
"""
    subprocess.run([sys.executable, "-c", program], cwd=probing.ROOT, check=False)
    child = int((tmp_path / "child").read_text())
    for _ in range(200):
        state = Path(f"/proc/{child}/stat")
        if not state.exists() or state.read_text().rpartition(") ")[2][:1] == "Z":
            return
        subprocess.run(["sleep", "0.05"], check=True)
    raise AssertionError("the child lives on")
