import json
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from serving import artifacts, runtime
from serving.errors import StartError
from tests import toy


@pytest.fixture
def artifact(tmp_path: Path) -> artifacts.Artifact:
    return artifacts.read(toy.write_artifact(tmp_path))


def test_the_cpu_provider_computes_what_the_graph_says(artifact: artifacts.Artifact) -> None:
    model = runtime.load(artifact, "cpu")
    images = np.random.default_rng(5).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    assert np.abs(model.run(images) - toy.expected(images, toy.weights((8, 8, 3), 3))).max() < 1e-6
    assert model.provider == "CPUExecutionProvider"
    assert model.reason == "SHORTCUT_PROVIDER=cpu"
    assert model.deviation < 1e-6


def test_a_batch_gives_what_single_images_give(artifact: artifacts.Artifact) -> None:
    model = runtime.load(artifact, "cpu")
    images = artifact.golden_images
    singles = np.concatenate([model.run(images[i : i + 1]) for i in range(len(images))])
    assert np.abs(model.run(images) - singles).max() <= runtime.FLOAT32_TOLERANCE


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime was built with CUDA"
)
def test_a_demanded_provider_that_is_not_there_ends_the_start(artifact: artifacts.Artifact) -> None:
    with pytest.raises(StartError, match=r"SHORTCUT_PROVIDER=cuda: .*model.onnx cannot be served: .*without CUDA"):
        runtime.load(artifact, "cuda")


def test_cuda_needs_a_gpu_and_not_only_a_build_with_cuda(
    artifact: artifacts.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime-gpu lists CUDA on machines without a GPU: the seam is what it says is available."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("there is an NVIDIA GPU")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(StartError, match="no NVIDIA GPU"):
        runtime.load(artifact, "cuda")
    assert "no NVIDIA GPU" in runtime.load(artifact, "auto").reason


def test_auto_says_why_it_chose(artifact: artifacts.Artifact) -> None:
    model = runtime.load(artifact)
    assert model.provider in runtime.PROVIDERS.values()
    assert model.reason
    assert model.provider in str(model)


def test_openvino_reproduces_the_golden_outputs_where_it_has_a_device(artifact: artifacts.Artifact) -> None:
    try:
        model = runtime.load(artifact, "openvino")
    except StartError as err:
        pytest.skip(f"no OpenVINO here: {err}")
    assert model.provider == "OpenVINOExecutionProvider"
    assert model.deviation <= runtime.FLOAT32_TOLERANCE


def test_a_model_that_does_not_reproduce_its_golden_outputs_is_not_served(tmp_path: Path) -> None:
    folder = toy.write_artifact(tmp_path)
    (folder / "model.onnx").write_bytes(toy.graph("toy-colours", (8, 8, 3), toy.weights((8, 8, 3), 3, seed=9)))
    card = json.loads((folder / "card.json").read_text())
    card["files"]["model.onnx"]["sha256"] = toy.sha256(folder / "model.onnx")
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(StartError, match=r"does not reproduce golden\.npz"):
        runtime.load(artifacts.read(folder), "cpu")


def test_a_file_that_is_no_onnx_graph_is_named(tmp_path: Path) -> None:
    folder = toy.write_artifact(tmp_path)
    (folder / "model.onnx").write_bytes(b"not a graph")
    card = json.loads((folder / "card.json").read_text())
    card["files"]["model.onnx"]["sha256"] = toy.sha256(folder / "model.onnx")
    (folder / "card.json").write_text(json.dumps(card))
    with pytest.raises(StartError, match=r"model.onnx cannot be served"):
        runtime.load(artifacts.read(folder), "cpu")


def test_cores_are_counted_within_affinity() -> None:
    import os

    assert 1 <= runtime.available_cores() <= (os.cpu_count() or 1)
