"""What `benchmarks.gpu` finds, on the CPU provider for real and of CUDA by a profile as ONNX Runtime writes it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import gpu
from benchmarks.gpu import NotProved, Placement, main, read_profile
from serving import artifacts
from serving.engine import providers
from serving.engine.buckets import Outputs, Run
from serving.engine.providers import Backend
from tests.fixtures import toy

CPU, CUDA = "CPUExecutionProvider", "CUDAExecutionProvider"


def node(operator: str, provider: str) -> dict[str, Any]:
    args = {"op_name": operator, "provider": provider, "node_index": "1", "output_size": "40"}
    return {"cat": "Node", "name": f"{operator}_1_kernel_time", "dur": 12, "ph": "X", "args": args}


EVENTS = [
    {"cat": "Session", "name": "model_loading_array", "dur": 1, "args": {}},
    {"cat": "Node", "name": "Conv_1_fence_before", "dur": 0, "args": {"op_name": "Conv"}},
    node("MemcpyFromHost", CUDA),
    node("FusedConv", CUDA),
    node("FusedConv", CUDA),
    node("Gemm", CUDA),
    {"cat": "Kernel", "name": "cudnn::implicit_convolve_sgemm", "dur": 9, "args": {"stream": "7"}},
]


def test_a_profile_says_where_each_node_ran() -> None:
    placed = read_profile(EVENTS)
    assert placed.require(CUDA) == 3
    assert str(placed) == f"{CUDA} ran 2 FusedConv, 1 Gemm, 1 MemcpyFromHost"


def test_one_convolution_elsewhere_is_no_proof() -> None:
    with pytest.raises(NotProved, match=f"not on {CUDA}: 1 Conv on {CPU}"):
        read_profile([*EVENTS, node("Conv", CPU)]).require(CUDA)


def test_nothing_heavy_is_no_proof() -> None:
    with pytest.raises(NotProved, match="nothing to compute"):
        Placement(read_profile([node("Squeeze", CUDA)]).nodes).require(CUDA)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Images of which the toy network names nine of ten rightly, and the models folder beside."""
    images = np.random.default_rng(5).integers(0, 256, (200, 8, 8, 3), dtype=np.uint8)
    answers = toy.expected(images, toy.weights((8, 8, 3), 3)).argmax(axis=1)
    answers[::10] = (answers[::10] + 1) % 3
    np.savez(tmp_path / "data.npz", x_test=images, y_test=answers[:, None])
    toy.write_artifact(tmp_path / "models", metrics={"accuracy": 0.9})
    toy.write_artifact(tmp_path / "models", name="large", shape=(9, 9, 3), metrics={"accuracy": 0.95})
    return tmp_path / "data.npz"


def examine(data: Path, model: str, *options: str) -> int:
    return main([model, "--models", str(data.parent / "models"), "--seconds", "0.01", "--data", str(data), *options])


def test_all_is_found_out_on_the_cpu_provider(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert examine(data, "toy-colours", "--provider", "cpu") == 0
    said = capsys.readouterr().out
    assert f"toy-colours version 1, cpu: {CPU} ran " in said
    assert "all 1 convolutions and matrix products there; golden outputs within " in said
    assert said.count(" times as fast") == 3
    ending = "accuracy 90.00 %, the CPU provider's 90.00 %, the card's on its own data 90.00 %\nproved\n"
    assert said.endswith(ending)


@pytest.mark.parametrize(
    ("model", "problem"),
    [
        ("large", "do not fit the model"),
        ("nobody", "nobody: no such model"),
    ],
)
def test_what_does_not_hold_is_said(data: Path, model: str, problem: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert examine(data, model, "--provider", "cpu") == 1
    assert problem in capsys.readouterr().err


def test_wrong_answers_and_failures_are_no_proof(
    data: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def lies(artifact: artifacts.Artifact, backend: Backend, threads: int) -> tuple[Run, float]:
        run = providers.open_run(artifact.onnx, backend, threads)

        def wrong(images: np.ndarray) -> Outputs:  # but not of the golden ones
            answer = run(images)
            return answer if len(images) != 8 else Outputs(np.roll(answer.probabilities, 1, axis=1))

        return wrong, 0.0

    def fails(artifact: artifacts.Artifact, backend: Backend, threads: int) -> tuple[Run, float]:
        raise RuntimeError("CUDNN_STATUS_EXECUTION_FAILED")

    for backend, problem in (
        (lies, "NOT PROVED: the accuracy differs from the CPU provider's by more than 0.1 points"),
        (fails, "NOT PROVED: it fails while it runs: CUDNN_STATUS_EXECUTION_FAILED"),
    ):
        monkeypatch.setattr(gpu, "open_backend", backend)
        assert examine(data, "toy-colours", "--provider", "cpu") == 1
        assert problem in capsys.readouterr().err


@pytest.mark.skipif(Path("/dev/nvidia0").exists(), reason="there is a GPU here")
def test_without_a_gpu_it_says_so(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert examine(data, "toy-colours") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: ")
