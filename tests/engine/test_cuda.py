"""CUDA's rules where there is no GPU, and on the GPU where there is one."""

import threading
import time
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from serving import artifacts
from serving.engine import cuda, providers
from serving.engine.buckets import FORMED
from serving.engine.providers import BACKENDS, Backend
from tests.fixtures import toy

CPU = Backend("cpu")
needs_gpu = pytest.mark.skipif(not cuda.may_work(), reason="no GPU, or an ONNX Runtime without CUDA")


@pytest.fixture
def artifact(tmp_path: Path) -> artifacts.Artifact:
    return artifacts.read(toy.write_artifact(tmp_path))


def test_cuda_needs_a_gpu_and_not_only_a_build_with_cuda(
    artifact: artifacts.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime-gpu lists CUDA on machines without a GPU: the seam is what it says is available."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("there is an NVIDIA GPU")
    monkeypatch.setattr(ort, "get_available_providers", lambda: [cuda.PROVIDER, "CPUExecutionProvider"])
    with pytest.raises(providers.ProviderError, match="no NVIDIA GPU"):
        providers.open_run(artifact.onnx, Backend("cuda"), 1)


def test_a_bound_run_computes_what_a_plain_one_does(artifact: artifacts.Artifact) -> None:
    """CUDA graphs' way, on the CPU's memory."""
    session = providers.open_session(artifact.onnx, CPU, 1, ort.SessionOptions())
    run, images = cuda.bound_run(session, ["probabilities"], 4, "cpu"), artifact.golden_images
    first = run(images[:4])
    for start in (4, 8):
        expected = artifact.golden_probabilities[start : start + 4]
        assert np.abs(run(images[start : start + 4]).probabilities - expected).max() < CPU.tolerance
    assert np.abs(first.probabilities - artifact.golden_probabilities[:4]).max() < CPU.tolerance


def test_nothing_computes_while_a_graph_is_recorded() -> None:
    gate, events = cuda.Gate(), []
    inside, go_on = threading.Event(), threading.Event()

    def compute(name: str) -> None:
        with gate.shared():
            events.append(f"{name} begins")
            inside.set()
            go_on.wait(30)
            events.append(f"{name} ends")

    def record() -> None:
        with gate.alone():
            events.append("recording begins")
            events.append("recording ends")

    first = threading.Thread(target=compute, args=("first",))
    first.start()
    inside.wait(30)
    recording = threading.Thread(target=record)
    recording.start()
    while not gate._recording:  # it waits for the first one
        time.sleep(0.001)
    later = threading.Thread(target=compute, args=("later",))
    later.start()
    go_on.set()
    for thread in (first, recording, later):
        thread.join(30)
    assert events == ["first begins", "first ends", "recording begins", "recording ends", "later begins", "later ends"]


def test_many_compute_at_once() -> None:
    gate, together = cuda.Gate(), threading.Barrier(3, timeout=30)

    def compute() -> None:
        with gate.shared():
            together.wait()

    threads = [threading.Thread(target=compute) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert not together.broken


def test_a_failure_ends_the_recording() -> None:
    gate = cuda.Gate()
    with pytest.raises(RuntimeError), gate.alone():
        raise RuntimeError("no memory")
    with pytest.raises(RuntimeError), gate.shared():
        raise RuntimeError("no memory")
    with gate.alone():
        pass


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (
            "Error in execution: /onnxruntime_src/cuda_call.cc:154 std::conditional_t<THRW, void, Status> CudaCall("
            "ERRTYPE, const char*) [with ERRTYPE = cudaError; bool THRW = true] CUDA failure 901: operation failed due "
            "to a previous error during capture ; GPU=0 ; hostname=inside ; file=/onnxruntime_src/cuda_graph.cc",
            "CUDA failure 901: operation failed due to a previous error during capture",
        ),
        ("CUDNN failure 5003: CUDNN_STATUS_EXECUTION_FAILED", "CUDNN failure 5003: CUDNN_STATUS_EXECUTION_FAILED"),
    ],
)
def test_what_a_library_says_is_the_reason(text: str, reason: str) -> None:
    assert cuda.what_failed(RuntimeError(text)) == reason


# On a GPU


@needs_gpu
@pytest.mark.parametrize("backend", [b for b in BACKENDS if b.provider == "cuda"], ids=str)
def test_a_gpu_reproduces_the_golden_answers(artifact: artifacts.Artifact, backend: Backend) -> None:
    run = providers.open_run(artifact.onnx, backend, 1)
    for size in FORMED:
        images = np.resize(artifact.golden_images, (size, *artifact.golden_images.shape[1:]))
        expected = np.resize(artifact.golden_probabilities, (size, artifact.golden_probabilities.shape[1]))
        for _ in range(3):
            assert np.abs(run(images).probabilities - expected).max() <= backend.tolerance


@needs_gpu
def test_models_that_are_loaded_at_once_disturb_no_recording(artifact: artifacts.Artifact) -> None:
    failed: list[Exception] = []

    def load(backend: Backend) -> None:
        try:
            run = providers.open_run(artifact.onnx, backend, 1)
            for size in FORMED:
                run(np.resize(artifact.golden_images, (size, *artifact.golden_images.shape[1:])))
        except Exception as err:
            failed.append(err)

    threads = [threading.Thread(target=load, args=(b,)) for b in BACKENDS if b.provider == "cuda" for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed
