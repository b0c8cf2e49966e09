import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest

from serving import artifacts
from serving.engine import providers
from serving.engine import selection as runtime
from serving.engine.measurements import FILE, Measurement, Measurements
from serving.engine.providers import Backend, Run
from serving.errors import StartError
from tests.fixtures import toy

EXACT = Backend("cpu").tolerance


@pytest.fixture
def artifact(tmp_path: Path) -> artifacts.Artifact:
    return artifacts.read(toy.write_artifact(tmp_path))


@pytest.fixture
def measurements(tmp_path: Path) -> Measurements:
    return Measurements(tmp_path / "cache")


def test_the_cpu_provider_computes_what_the_graph_says(
    artifact: artifacts.Artifact, measurements: Measurements
) -> None:
    model = runtime.load(artifact, measurements, "cpu")
    images = np.random.default_rng(5).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    assert np.abs(model.run(images) - toy.expected(images, toy.weights((8, 8, 3), 3))).max() < 1e-6
    assert model.provider == "CPUExecutionProvider"
    assert model.reason == "SHORTCUT_PROVIDER=cpu"
    assert model.deviation < 1e-6
    assert 0 < model.image_seconds < model.load_seconds


def test_a_batch_gives_what_single_images_give(artifact: artifacts.Artifact, measurements: Measurements) -> None:
    """In whatever precision `auto` takes here, within its tolerance."""
    model = runtime.load(artifact, measurements)
    images = artifact.golden_images
    singles = np.concatenate([model.run(images[i : i + 1]) for i in range(len(images))])
    for size in (2, 3, 7, 32):
        assert np.abs(model.run(images[:size]) - singles[:size]).max() <= model.backend.tolerance


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime was built with CUDA"
)
def test_a_demanded_provider_that_is_not_there_ends_the_start(
    artifact: artifacts.Artifact, measurements: Measurements
) -> None:
    with pytest.raises(StartError, match=r"SHORTCUT_PROVIDER=cuda: .*model.onnx cannot be served: .*without CUDA"):
        runtime.load(artifact, measurements, "cuda")


def test_cuda_needs_a_gpu_and_not_only_a_build_with_cuda(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    """onnxruntime-gpu lists CUDA on machines without a GPU: the seam is what it says is available."""
    if any(Path("/dev").glob("nvidia[0-9]*")):
        pytest.skip("there is an NVIDIA GPU")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    with pytest.raises(StartError, match="no NVIDIA GPU"):
        runtime.load(artifact, measurements, "cuda")
    assert "no NVIDIA GPU" in runtime.load(artifact, measurements, "auto").reason


def test_openvino_reproduces_the_golden_outputs_where_it_has_a_device(
    artifact: artifacts.Artifact, measurements: Measurements
) -> None:
    try:
        model = runtime.load(artifact, measurements, "openvino", "float32")
    except StartError as err:
        pytest.skip(f"no OpenVINO here: {err}")
    assert model.provider == "OpenVINOExecutionProvider"
    assert model.deviation <= EXACT
    for backend in runtime.candidates("openvino", "bf16"):
        try:
            assert runtime._load(artifact, backend, 1, "").deviation <= backend.tolerance
        except providers.ProviderError as err:
            assert "no bf16" in str(err)


@pytest.mark.parametrize("provider", ["auto", "cuda", "openvino", "cpu"])
def test_float32_forbids_everything_else(provider: str) -> None:
    assert {backend.precision for backend in runtime.candidates(provider, "float32")} == {"float32"}


def test_a_model_that_does_not_reproduce_its_golden_outputs_is_not_served(
    tmp_path: Path, measurements: Measurements
) -> None:
    folder = toy.write_artifact(tmp_path)
    replace_onnx(folder, toy.graph("toy-colours", (8, 8, 3), toy.weights((8, 8, 3), 3, seed=9)))
    with pytest.raises(StartError, match=r"does not reproduce golden\.npz"):
        runtime.load(artifacts.read(folder), measurements, "cpu")


def test_a_file_that_is_no_onnx_graph_is_named(tmp_path: Path, measurements: Measurements) -> None:
    folder = toy.write_artifact(tmp_path)
    replace_onnx(folder, b"not a graph")
    with pytest.raises(StartError, match=r"model.onnx cannot be served"):
        runtime.load(artifacts.read(folder), measurements, "cpu")


def replace_onnx(folder: Path, onnx: bytes) -> None:
    (folder / "model.onnx").write_bytes(onnx)
    card = json.loads((folder / "card.json").read_text())
    card["files"]["model.onnx"]["sha256"] = toy.sha256(folder / "model.onnx")
    (folder / "card.json").write_text(json.dumps(card))


# Choosing


class Speeds:
    """The seam where sessions are opened and measured: each backend is the CPU's, as fast or absent as it is told."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **rates: float):
        self.measured: list[Backend] = []
        self.rates = rates
        real = providers.open_run

        def open_run(onnx: bytes, backend: Backend, threads: int) -> providers.Run:
            if backend.provider not in self.rates:
                raise providers.ProviderError(f"no {backend.provider} was found")
            return real(onnx, Backend("cpu"), threads)

        def images_per_second(models: list[runtime.Model]) -> dict[Backend, float]:
            found = [model.backend for model in models]
            self.measured += found
            return {b: self.rates[b.provider] * (1 if b.precision == "float32" else 2) for b in found}

        monkeypatch.setattr(runtime, "open_run", open_run)
        monkeypatch.setattr(runtime, "images_per_second", images_per_second)


def test_auto_takes_the_fastest_and_says_what_it_measured(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    Speeds(monkeypatch, openvino=700, cpu=900)
    model = runtime.load(artifact, measurements)
    assert model.backend == Backend("openvino", "bf16")
    assert "openvino bf16 1,400, cpu 900, openvino 700" in model.reason
    assert model.reason.count("no cuda was found") == 1
    assert runtime.load(artifact, measurements, precision="float32").backend == Backend("cpu")


def test_what_is_hardly_faster_does_not_pay_for_being_less_exact(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    Speeds(monkeypatch, openvino=500, cpu=900)
    assert runtime.load(artifact, measurements).backend == Backend("cpu")


def test_close_calls_are_decided_exactly() -> None:
    calls = []

    def fast(images: np.ndarray) -> np.ndarray:
        return np.array([[0.9, 0.1], [0.51, 0.49], [0.4, 0.6], [0.495, 0.505]], np.float32)[images[:, 0]]

    def exact(images: np.ndarray) -> np.ndarray:
        calls.append(images[:, 0].tolist())
        return np.full((len(images), 2), [0.48, 0.52], np.float32)

    run = runtime.deciding_close_calls(fast, exact)
    answers = run(np.arange(4)[:, None])
    assert answers.argmax(axis=1).tolist() == [0, 1, 1, 1]
    assert calls == [[1, 3]]
    run(np.array([[0], [2]]))
    assert len(calls) == 1


def test_the_file_holds_the_newest_only(tmp_path: Path) -> None:
    for number in range(300):
        measurements = Measurements(tmp_path)
        assert measurements.find(f"key {number}") is None
        measurements.keep(f"key {number}", Measurement(Backend("cpu"), {"cpu": 1.0}, ["x" * 500]))
    assert len(json.loads((tmp_path / FILE).read_text())) == 256


def test_a_choice_is_measured_once_for_each_artifact_and_machine(
    artifact: artifacts.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = Speeds(monkeypatch, openvino=700, cpu=900)
    cache = tmp_path / "cache"
    first = runtime.load(artifact, Measurements(cache))
    assert len(speeds.measured) == 3
    again = runtime.load(artifact, Measurements(cache))
    assert len(speeds.measured) == 3
    assert (again.backend, again.reason) == (first.backend, first.reason)
    runtime.load(replace(artifact, sha256="another"), Measurements(cache))
    runtime.load(artifact, Measurements(cache), threads=2)
    assert len(speeds.measured) == 9
    monkeypatch.setattr(runtime, "machine", lambda: "another")
    runtime.load(artifact, Measurements(cache))
    assert len(speeds.measured) == 12


def test_a_remembered_way_that_fails_now_is_measured_again(
    artifact: artifacts.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = Speeds(monkeypatch, openvino=700, cpu=900)
    assert runtime.load(artifact, Measurements(tmp_path)).backend.provider == "openvino"
    del speeds.rates["openvino"]
    assert runtime.load(artifact, Measurements(tmp_path)).backend == Backend("cpu")


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', "null"])
def test_a_damaged_cache_only_costs_the_measurement(artifact: artifacts.Artifact, tmp_path: Path, text: str) -> None:
    (tmp_path / FILE).write_text(text)
    assert runtime.load(artifact, Measurements(tmp_path), "cpu").deviation < EXACT
    assert json.loads((tmp_path / FILE).read_text())


@pytest.mark.parametrize(
    "entry", [1, {}, {"backend": {}, "rates": {}, "refused": []}, {"backend": 1, "rates": 2, "refused": 3}]
)
def test_a_damaged_entry_is_no_choice(tmp_path: Path, entry: object) -> None:
    (tmp_path / FILE).write_text(json.dumps({"key": entry}))
    assert Measurements(tmp_path).find("key") is None


def test_what_was_measured_beside_requests_is_kept_for_this_service_only(tmp_path: Path) -> None:
    cache, shared = tmp_path / "cache", tmp_path / "shared"
    measurement = Measurement(Backend("cpu"), {"cpu": 5.0}, ["cuda: none"])
    Measurements(cache, shared, busy=True).keep("key", measurement)
    assert Measurements(cache, shared).find("key") == measurement
    assert Measurements(cache).find("key") is None


def test_hundreds_of_models_reach_the_workers(tmp_path: Path) -> None:
    """By a file: an environment variable ends at 128 KiB."""
    (tmp_path / "file").touch()
    shared = tmp_path / "shared"
    parent = Measurements(tmp_path / "file", shared)
    for number in range(250):
        parent.keep(f"model {number} " + "x" * 900, Measurement(Backend("cpu"), {"cpu": 5.0}, []))
    worker = Measurements(tmp_path / "file", shared)
    assert all(worker.find(f"model {number} " + "x" * 900) is not None for number in range(250))


def test_backends_are_measured_in_turn(artifact: artifacts.Artifact) -> None:
    order: list[str] = []

    def noting(name: str) -> Run:
        def run(images: np.ndarray) -> np.ndarray:
            order.append(name)
            return np.zeros((len(images), 3), np.float32)

        return run

    models = [runtime.Model(artifact, noting(name), Backend(name), "", 0.0, 0.0, 1.0) for name in ("cpu", "openvino")]
    assert runtime.images_per_second(models).keys() == {Backend("cpu"), Backend("openvino")}
    assert order[:6] == ["cpu", "openvino"] * 3


# Providers


@pytest.mark.parametrize(("count", "sizes"), [(1, [1]), (2, [4]), (4, [4]), (5, [4, 1]), (11, [4, 4, 4])])
def test_batches_are_filled_up_to_the_next_bucket(artifact: artifacts.Artifact, count: int, sizes: list[int]) -> None:
    """CUDA's case, on a CPU session that notes the shapes it is given."""
    seen = []
    run = providers.open_run(artifact.onnx, Backend("cpu"), 1)

    def noting(images: np.ndarray) -> np.ndarray:
        seen.append(len(images))
        return run(images)

    images = artifact.golden_images[:count]
    assert np.abs(providers.in_buckets(noting, (1, 4))(images) - run(images)).max() < 1e-6
    assert seen == sizes


def test_the_machine_has_a_name_that_does_not_change() -> None:
    assert providers.machine() == providers.machine()


def test_where_the_cache_cannot_be_written_workers_share_what_one_of_them_measured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    shared = tmp_path / "shared"
    shared.mkdir()
    measurement = Measurement(Backend("cpu"), {"cpu": 5.0}, [])
    Measurements(tmp_path / "file", shared).keep("a model", measurement)
    assert Measurements(tmp_path / "file", shared).find("a model") == measurement
    assert Measurements(tmp_path / "file").find("a model") is None
