import json
import os
import threading
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnxruntime as ort
import pytest

from serving import artifacts
from serving.engine import exactness, memory, providers, selection, traffic
from serving.engine.buckets import FORMED, SIZES, Outputs, worthwhile
from serving.engine.exactness import Check, CloseCalls
from serving.engine.measurements import FILE, Measurement, Measurements
from serving.engine.probing import Findings, Trial
from serving.engine.providers import BACKENDS, Backend, ProviderError
from serving.engine.selection import CPU, Model, Options
from serving.errors import StartError
from tests.fixtures import toy

EXACT = CPU.tolerance


@pytest.fixture
def artifact(tmp_path: Path) -> artifacts.Artifact:
    return artifacts.read(toy.write_artifact(tmp_path))


@pytest.fixture
def measurements(tmp_path: Path) -> Measurements:
    return Measurements(tmp_path / "cache")


def fastest(artifact: artifacts.Artifact, measurements: Measurements, options: Options = Options()) -> Model:  # noqa: B008
    return selection.faster(selection.load(artifact, measurements, options), measurements, options)


def test_the_cpu_provider_computes_what_the_graph_says(
    artifact: artifacts.Artifact, measurements: Measurements
) -> None:
    model = selection.load(artifact, measurements, Options("cpu"))
    images = np.random.default_rng(5).integers(0, 256, (7, 8, 8, 3), dtype=np.uint8)
    assert np.abs(model.run(images).probabilities - toy.expected(images, toy.weights((8, 8, 3), 3))).max() < 1e-6
    assert model.provider == "CPUExecutionProvider"
    assert model.reason == "SHORTCUT_PROVIDER=cpu"
    assert model.deviation < 1e-6
    assert 0 < model.image_seconds < model.load_seconds
    assert not model.measuring


def test_a_batch_gives_what_single_images_give(artifact: artifacts.Artifact, measurements: Measurements) -> None:
    """On whatever backend is the fastest here, within its tolerance."""
    model = fastest(artifact, measurements)
    images = artifact.golden_images
    singles = np.concatenate([model.run(images[i : i + 1]).probabilities for i in range(len(images))])
    for size in range(1, 33):
        assert np.abs(model.run(images[:size]).probabilities - singles[:size]).max() <= model.backend.tolerance


@pytest.mark.skipif(
    "CUDAExecutionProvider" in ort.get_available_providers(), reason="this onnxruntime was built with CUDA"
)
def test_a_demanded_provider_that_is_not_there_ends_the_start(
    artifact: artifacts.Artifact, measurements: Measurements
) -> None:
    with pytest.raises(StartError, match=r"SHORTCUT_PROVIDER=cuda: .*model.onnx cannot be served: .*without CUDA"):
        selection.load(artifact, measurements, Options("cuda"))
    with pytest.raises(StartError, match="without CUDA"):
        selection.choose(artifact, measurements, Options("cuda"))


def test_openvino_reproduces_the_golden_outputs_where_it_is_installed(
    artifact: artifacts.Artifact, measurements: Measurements
) -> None:
    try:
        model = selection.load(artifact, measurements, Options("openvino", "float32"))
    except StartError as err:
        assert "openvino is not installed" in str(err) or "x86-64 only" in str(err)
        pytest.skip(str(err))
    assert model.provider == "OpenVINO"
    assert model.deviation <= EXACT
    assert model.reason.startswith("SHORTCUT_PROVIDER=openvino, SHORTCUT_PRECISION=float32; the fastest")


@pytest.mark.parametrize("provider", ["auto", "cuda", "openvino", "cpu"])
def test_float32_forbids_everything_else(provider: str) -> None:
    assert {backend.precision for backend in Options(provider, "float32").backends()} == {"float32"}


def test_cuda_graphs_are_only_tried_where_they_are_asked_for() -> None:
    assert not any(backend.graphs for backend in Options().backends())
    assert {backend.graphs for backend in Options("cuda", cuda_graphs=True).backends()} == {True, False}


def test_what_has_failed_is_only_taken_again_where_there_is_no_other() -> None:
    failed = Backend("openvino", "bf16")
    assert "openvino" not in {backend.provider for backend in Options().backends(without=failed)}
    assert {backend.provider for backend in Options("openvino").backends(without=failed)} == {"openvino"}


def test_a_model_that_does_not_reproduce_its_golden_outputs_is_not_served(
    tmp_path: Path, measurements: Measurements
) -> None:
    folder = toy.write_artifact(tmp_path)
    toy.replace_onnx(folder, toy.graph("toy-colours", (8, 8, 3), toy.weights((8, 8, 3), 3, seed=9)))
    for provider in ("cpu", "auto"):
        with pytest.raises(StartError, match=r"does not reproduce golden\.npz"):
            selection.load(artifacts.read(folder), measurements, Options(provider))


@pytest.mark.parametrize(
    ("off", "images", "precision", "passes"),
    [
        (0.06, 2, "bf16", True),  # one hard image of sixteen
        (0.06, 3, "bf16", False),
        (0.11, 1, "bf16", False),
        (0.04, 32, "bf16", True),
        (0.0002, 1, "float32", False),
        (float("nan"), 1, "bf16", False),
    ],
)
def test_how_far_from_the_golden_outputs_a_backend_may_be(
    artifact: artifacts.Artifact, off: float, images: int, precision: str, passes: bool
) -> None:
    images_of = [image.tobytes() for image in artifact.golden_images]
    assert len(set(images_of)) == len(images_of) == 32

    def run(pixels: np.ndarray) -> Outputs:
        at = [images_of.index(image.tobytes()) for image in pixels]
        answers = artifact.golden_probabilities[at].copy()
        answers[np.array(at) < images, 0] += off
        return Outputs(answers)

    backend = replace(CPU, precision=precision)
    if passes:
        assert exactness.golden_check(run, backend, artifact).deviation == pytest.approx(off, rel=1e-3)
    else:
        with pytest.raises(ProviderError, match=r"does not reproduce golden\.npz"):
            exactness.golden_check(run, backend, artifact)


@pytest.mark.parametrize(("off", "passes"), [(0.0004, True), (0.0006, False)])
def test_float32_may_be_as_far_off_as_the_card_says(tmp_path: Path, off: float, passes: bool) -> None:
    artifact = artifacts.read(toy.write_artifact(tmp_path, exactness={"float32_limit": 5e-4, "spread": 2.5e-4}))

    def run(pixels: np.ndarray) -> Outputs:
        answers = toy.expected(pixels, toy.weights((8, 8, 3), 3))
        answers[:, 0] += off
        return Outputs(answers)

    if passes:
        assert exactness.golden_check(run, CPU, artifact).deviation == pytest.approx(off, rel=1e-2)
    else:
        with pytest.raises(ProviderError, match=r"largest difference 0\.0006 \(limit 0\.0005\)"):
            exactness.golden_check(run, CPU, artifact)


def test_how_far_a_lead_moves_counts_both_classes(artifact: artifacts.Artifact) -> None:
    """One probability may rise and another fall: the lead moves by the sum."""
    images_of = [image.tobytes() for image in artifact.golden_images]

    def run(pixels: np.ndarray) -> Outputs:
        answers = artifact.golden_probabilities[[images_of.index(image.tobytes()) for image in pixels]]
        rows, best, worst = np.arange(len(answers)), answers.argmax(axis=1), answers.argmin(axis=1)
        answers[rows, best] -= 0.03
        answers[rows, worst] += 0.02
        return Outputs(answers)

    found = exactness.golden_check(run, replace(CPU, precision="bf16"), artifact)
    assert found == pytest.approx((0.03, 0.05, 0.0), rel=1e-3)


def test_a_file_that_is_no_onnx_graph_is_named(tmp_path: Path, measurements: Measurements) -> None:
    folder = toy.write_artifact(tmp_path)
    toy.replace_onnx(folder, b"not a graph")
    with pytest.raises(StartError, match=r"model.onnx cannot be served"):
        selection.load(artifacts.read(folder), measurements, Options("cpu"))


# Choosing


FIXED = Backend("openvino", "bf16", SIZES)


class Speeds:
    """The seam of the child process and of what it finds: every backend computes as the CPU's, as fast as it is told
    or absent. bf16 is twice as fast."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **rates: float):
        self.probed = 0
        self.rates = rates
        self.lasting = True
        self.close = 0.0  # share of close calls
        self.bytes = 0
        real = providers.open_run

        def open_run(onnx: bytes, backend: Backend, threads: int, *arguments: Any) -> providers.Run:
            if backend.provider not in self.rates:
                raise providers.ProviderError(f"no {backend.provider} was found")
            return real(onnx, CPU, threads)

        def probe(artifact: artifacts.Artifact, backends: Sequence[Backend], threads: int) -> Findings:
            self.probed += 1
            found = Findings(lasting=self.lasting)
            for backend in backends:
                if rate := self.rates.get(backend.provider):
                    less_exact = backend.precision != "float32"
                    rate *= 2 if less_exact else 1
                    seconds = {size: size / rate for size in backend.sizes}
                    again = {size: size / self.rates["cpu"] for size in FORMED} if less_exact else {}
                    share, calls = (self.close, CloseCalls()) if less_exact else (0.0, None)
                    found.trials[backend] = Trial(seconds, again, share, self.bytes, calls)
                else:
                    found.refused[backend] = f"no {backend.provider} was found"
            return found

        monkeypatch.setattr(selection, "open_run", open_run)
        monkeypatch.setattr(selection, "probe", probe)


def test_it_is_served_at_once_and_moves_when_the_fastest_is_known(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = Speeds(monkeypatch, openvino=700, cpu=900)
    first = selection.load(artifact, measurements, Options())
    assert (first.backend, first.measuring, speeds.probed) == (CPU, True, 0)
    model = selection.faster(first, measurements, Options())
    assert (model.backend, model.measuring) == (replace(FIXED, buckets=(1,)), False)
    assert "openvino bf16 in fixed sizes 1,400, openvino bf16 1,400, cpu 900, openvino in fixed" in model.reason
    assert model.reason.count("no cuda was found") == 1
    assert fastest(artifact, measurements, Options(precision="float32")).backend == CPU


def test_a_demanded_backend_that_fails_to_load_makes_way_for_the_next(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As CUDA graphs did that were recorded beside another model's loading."""
    Speeds(monkeypatch, openvino=700, cpu=900)
    real = selection.open_run

    def open_run(onnx: bytes, backend: Backend, *arguments: Any) -> providers.Run:
        if backend.buckets:
            raise ProviderError("operation not permitted when stream is capturing")
        return real(onnx, backend, *arguments)

    monkeypatch.setattr(selection, "open_run", open_run)
    model = selection.load(artifact, measurements, Options("openvino"))
    assert (str(model.backend), model.backend.buckets) == ("openvino bf16", ())


def test_what_is_hardly_faster_does_not_pay_for_being_less_exact(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    Speeds(monkeypatch, openvino=500, cpu=900)
    model = fastest(artifact, measurements)
    assert (model.backend, model.measuring) == (CPU, False)
    assert "the fastest that reproduces" in model.reason


def test_a_backend_that_fails_to_load_though_it_was_sound_leaves_the_model_as_it_was(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = Speeds(monkeypatch, openvino=700, cpu=900)
    first = selection.load(artifact, measurements, Options())
    selection.measure(artifact, measurements, Options(), Options().backends())
    del speeds.rates["openvino"]
    model = selection.faster(first, measurements, Options())
    assert (model.run, model.backend, model.measuring) == (first.run, CPU, False)
    assert model.reason.startswith("openvino bf16 in fixed sizes: no openvino was found; ")


def test_a_worker_that_died_of_a_backend_does_not_pull_the_next_one_with_it(
    artifact: artifacts.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Speeds(monkeypatch, openvino=700, cpu=900)
    measurements = Measurements(tmp_path / "cache", tmp_path)
    key = selection.measurement_key(artifact, Options().backends(), Options())
    with measurements.trying(key):
        (mark,) = tmp_path.glob("trying-*")
        assert mark.read_text() == str(os.getpid())
    assert not mark.exists()
    mark.write_text(str(2**22 + 1))  # more than there can be
    model = fastest(artifact, measurements)
    assert (model.backend, model.measuring) == (CPU, False)
    assert "a worker died when it was loaded" in model.reason


def test_close_calls_are_decided_exactly() -> None:
    calls = []

    def fast(images: np.ndarray) -> Outputs:
        answers = np.array([[0.9, 0.1], [0.51, 0.49], [0.4, 0.6], [0.495, 0.505]], np.float32)
        return Outputs(answers[images[:, 0]], np.array([1.0, 2.0, 3.0, 4.0], np.float32)[images[:, 0]])

    def exact(images: np.ndarray) -> Outputs:
        calls.append(images[:, 0].tolist())
        return Outputs(np.full((len(images), 2), [0.48, 0.52], np.float32), np.full(len(images), 9.0, np.float32))

    run = exactness.deciding_close_calls(fast, exact)
    all_four = np.arange(4)[:, None]
    answers = run(all_four)
    assert answers.probabilities.argmax(axis=1).tolist() == [0, 1, 1, 1]
    assert answers.unfamiliarity is not None
    assert answers.unfamiliarity.tolist() == [1, 9, 3, 9]
    assert calls.pop() == [1, 3]
    run(np.array([[0], [2]]))
    assert calls == []
    as_far_as_golden = CloseCalls.of(Check(deviation=0.0, margin=0.22))
    exactness.deciding_close_calls(fast, exact, as_far_as_golden)(all_four)
    assert calls.pop() == [1, 2, 3]
    run(
        all_four, np.array([0.89, np.nan, np.nan, np.nan])
    )  # judged by a threshold that is near: it could go either way
    assert calls.pop() == [0, 1, 3]
    run(all_four, np.array([0.7, np.nan, np.nan, np.nan]))
    assert calls.pop() == [1, 3]
    near_the_cards = CloseCalls.of(Check(0.0, 0.0, unfamiliarity=0.05), threshold=2.9)
    exactness.deciding_close_calls(fast, exact, near_the_cards)(all_four)
    assert calls.pop() == [1, 2, 3]


def test_backends_are_ranked_with_the_close_calls_that_they_compute_again(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    """bf16 runs 1,400 images a second, float32 900: where three of four are computed twice, it serves 660."""
    speeds = Speeds(monkeypatch, openvino=700, cpu=900)
    speeds.close = 0.75
    model = fastest(artifact, measurements)
    assert model.backend == CPU
    assert "cpu 900" in model.reason
    assert "openvino bf16 646" in model.reason
    speeds.close = 0.05
    model = fastest(replace(artifact, sha256="another"), measurements)
    assert (model.backend.precision, model.recomputed_share) == ("bf16", 0.05)
    assert 1 / model.image_seconds == pytest.approx(1 / (1 / 1400 + 0.05 / 900))


def test_pictures_that_come_decide_again_which_backend_pays(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As above: by the golden images float32 is faster, by sure ones bf16 is, as long as few pictures are close."""
    now = [1000.0]
    monkeypatch.setattr(traffic, "time", SimpleNamespace(monotonic=lambda: now[0]))
    Speeds(monkeypatch, openvino=700, cpu=900).close = 0.75
    model = fastest(artifact, measurements)
    seen, even = model.traffic, 1 / (1.25 * 900) - 1 / 1400  # of a second for each image, for what is computed again
    assert seen is not None
    assert seen.even == pytest.approx(even * 900, abs=1e-3)
    assert "which pays where fewer than 16% of the pictures are close calls" in model.reason

    def moved(close: float) -> Model:
        """After so many pictures that the latest decide."""
        seen.add(traffic.LEAST, round(close * traffic.LEAST))
        assert model.unsuited
        return selection.faster(model, measurements, Options())

    model.run(artifact.golden_images)  # is counted
    assert (seen._images, seen.share) == (len(artifact.golden_images), None)
    seen.add(traffic.LEAST, round(0.15 * traffic.LEAST))
    assert not model.unsuited  # too near to the share at which both are equally good
    seen.moved()
    now[0] += traffic.FIRST_SECONDS
    model = moved(0.02)
    assert (model.backend.precision, model.measuring, model.traffic) == ("bf16", False, seen)
    assert "of the latest 2.0% were" in model.reason
    assert not model.unsuited
    model.run(artifact.golden_images)
    assert seen._images == len(artifact.golden_images)
    seen.add(traffic.LEAST, traffic.LEAST)
    assert not model.unsuited  # it has moved just now
    now[0] += 2 * traffic.FIRST_SECONDS
    model = moved(1.0)
    assert (model.backend, model.recomputed_share, model.unsuited) == (CPU, 0.0, False)
    images = len(artifact.golden_images)
    model.run(artifact.golden_images)
    assert seen._images == images  # counted once, whatever computed before


def test_where_no_share_of_close_calls_decides_none_is_counted(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    Speeds(monkeypatch, openvino=500, cpu=900)  # bf16 is less than 1.25 times as fast as float32, however sure it is
    assert fastest(artifact, measurements).traffic is None
    Speeds(monkeypatch, openvino=900, cpu=200_000_000)  # or it does not matter that all is computed again
    assert fastest(replace(artifact, sha256="another"), measurements).traffic is None


def test_what_decides_again_is_remembered(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    Speeds(monkeypatch, openvino=700, cpu=900)
    model = fastest(artifact, measurements)
    key = selection.measurement_key(artifact, Options().backends(), Options())
    known, again = measurements.find(key), Measurements(tmp_path / "cache").find(key)
    assert known == again
    assert known is not None
    assert known.other is not None
    assert known.other.backend == CPU
    assert known.suited(None) is known
    assert known.suited(0.0) is known
    assert known.suited(1.0).backend == CPU
    assert model.backend.precision == "bf16"


def test_the_referee_must_reproduce_the_golden_outputs_too(
    artifact: artifacts.Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = providers.open_run

    def open_run(onnx: bytes, backend: Backend, *arguments: Any) -> providers.Run:
        run = real(onnx, CPU, 1)
        if backend.precision != "float32":
            return run
        return lambda images: Outputs(np.full((len(images), 3), 1 / 3, np.float32))

    monkeypatch.setattr(selection, "open_run", open_run)
    with pytest.raises(ProviderError, match=r"what decides its close calls, cpu, does not reproduce golden\.npz"):
        selection.open_backend(artifact, Backend("openvino", "bf16"), 1)


def test_what_does_not_fit_into_the_memory_that_is_left_is_not_loaded(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = Speeds(monkeypatch, openvino=700, cpu=900)
    speeds.bytes = 60_000_000
    monkeypatch.setattr(memory, "limit", lambda: 1_000_000_000)
    monkeypatch.setattr(memory, "left", lambda: 159_000_000)
    model = fastest(artifact, measurements)
    assert (model.backend, model.measuring) == (CPU, False)
    assert "takes up to 60 MB of memory; 159 MB of 1,000 MB are left, of which 100 MB are kept" in model.reason
    monkeypatch.setattr(memory, "left", lambda: 161_000_000)
    assert fastest(artifact, measurements).backend.provider == "openvino"
    assert speeds.probed == 1


def test_a_hot_update_does_not_wait_for_a_measurement(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = Speeds(monkeypatch, openvino=700, cpu=900)
    begun, gate = threading.Event(), threading.Event()
    quick = selection.probe

    def slow(*arguments: Any) -> Findings:
        begun.set()
        assert gate.wait(60)
        return quick(*arguments)

    monkeypatch.setattr(selection, "probe", slow)
    first = selection.load(artifact, measurements, Options())
    thread = threading.Thread(target=selection.faster, args=(first, measurements, Options()))
    thread.start()
    try:
        assert begun.wait(60)
        assert selection.load(artifact, measurements, Options()).measuring
        assert selection.choose(artifact, measurements, Options())[1].backend == CPU
    finally:
        gate.set()
        thread.join(60)
    assert speeds.probed == 1


def test_measuring_ends_whatever_happens(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fails(*arguments: Any) -> Findings:
        raise RuntimeError("what nobody thought of")

    monkeypatch.setattr(selection, "probe", fails)
    model = fastest(artifact, measurements)
    assert not model.measuring
    assert "what nobody thought of" in model.reason


# Unfamiliarity


@pytest.fixture
def strange(tmp_path: Path) -> artifacts.Artifact:
    return artifacts.read(toy.write_artifact(tmp_path / "strange", unfamiliar_from=0.5))


def test_every_backend_gives_both_outputs(strange: artifacts.Artifact) -> None:
    images = strange.golden_images[:5]
    tried = []
    for backend in BACKENDS:
        try:
            run, _ = selection.open_backend(strange, backend, 1)
        except ProviderError:
            continue
        tried.append(backend.provider)
        probabilities, unfamiliarity = run(images)
        assert np.abs(probabilities - strange.golden_probabilities[:5]).max() <= backend.tolerance
        assert unfamiliarity == pytest.approx(toy.expected_unfamiliarity(images), rel=0.02)
    assert "cpu" in tried


def test_without_that_output_there_is_none(artifact: artifacts.Artifact, measurements: Measurements) -> None:
    model = selection.load(artifact, measurements, Options("cpu"))
    assert model.run(artifact.golden_images).unfamiliarity is None
    assert artifact.unfamiliarity_threshold is None


@pytest.mark.parametrize(
    ("precision", "off", "images", "passes"),
    [
        ("float32", 0.0005, 32, True),
        ("float32", 0.002, 1, False),
        ("bf16", 0.09, 32, True),
        ("bf16", 0.15, 2, True),  # one hard image of sixteen
        ("bf16", 0.15, 3, False),
        ("bf16", 0.25, 1, False),
        ("bf16", float("nan"), 1, False),
    ],
)
def test_how_far_from_the_golden_unfamiliarity_a_backend_may_be(
    strange: artifacts.Artifact, precision: str, off: float, images: int, passes: bool
) -> None:
    """`off` is a share of the value, so that a network whose distances are in thousands is judged alike."""
    at = {image.tobytes(): number for number, image in enumerate(strange.golden_images)}
    golden = strange.golden_unfamiliarity
    assert golden is not None
    scaled = replace(strange, golden_unfamiliarity=4000 * golden)

    def run(pixels: np.ndarray) -> Outputs:
        rows = np.array([at[image.tobytes()] for image in pixels])
        wrong = np.where(rows < images, 1 + off, 1.0)
        return Outputs(strange.golden_probabilities[rows].copy(), (4000 * golden[rows] * wrong).astype(np.float32))

    backend = replace(CPU, precision=precision)
    if passes:
        assert exactness.golden_check(run, backend, scaled).unfamiliarity <= off * 1.01 + 1e-6
    else:
        with pytest.raises(ProviderError, match=r"unfamiliarity differs by"):
            exactness.golden_check(run, backend, scaled)


def test_a_graph_without_the_output_that_golden_holds_is_refused(
    strange: artifacts.Artifact, measurements: Measurements
) -> None:
    toy.replace_onnx(strange.path, toy.graph("toy-colours", (8, 8, 3), toy.weights((8, 8, 3), 3)))
    with pytest.raises(StartError, match="holds `unfamiliarity`, and the graph has no such output"):
        selection.load(artifacts.read(strange.path), measurements, Options("cpu"))


def test_what_is_nearly_unfamiliar_is_decided_in_float32(strange: artifacts.Artifact) -> None:
    threshold = strange.unfamiliarity_threshold
    assert threshold == 0.5
    calls = CloseCalls.of(Check(0.0, 0.0), threshold)
    sure = np.array([[1.0, 0.0]] * 3, np.float32)
    assert calls.among(Outputs(sure, np.array([0.495, 0.48, 0.7]))).tolist() == [0]


def test_the_file_holds_the_newest_only(tmp_path: Path) -> None:
    for number in range(300):
        measurements = Measurements(tmp_path)
        assert measurements.find(f"key {number}") is None
        measurements.keep(f"key {number}", Measurement(CPU, {"cpu": 1.0}, ["x" * 500]))
    assert len(json.loads((tmp_path / FILE).read_text())) == 256


def test_a_choice_is_measured_once_for_each_artifact_and_machine(
    artifact: artifacts.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = Speeds(monkeypatch, openvino=700, cpu=900)
    cache = tmp_path / "cache"
    first = fastest(artifact, Measurements(cache))
    again = fastest(artifact, Measurements(cache))
    assert speeds.probed == 1
    assert (again.backend, again.reason, again.image_seconds) == (first.backend, first.reason, first.image_seconds)
    _, known = selection.choose(artifact, Measurements(cache), Options())
    assert (known.backend, known.rate) == (first.backend, 1400.0)
    fastest(replace(artifact, sha256="another"), Measurements(cache))
    fastest(artifact, Measurements(cache), Options(threads=2))
    assert speeds.probed == 3
    monkeypatch.setattr(selection, "machine", lambda: "another")
    fastest(artifact, Measurements(cache))
    assert speeds.probed == 4


def test_the_parent_measures_nothing_that_the_workers_can_do_without(
    artifact: artifacts.Artifact, measurements: Measurements, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = Speeds(monkeypatch, openvino=700, cpu=900)
    assert selection.choose(artifact, measurements, Options())[1].backend == CPU
    assert speeds.probed == 0
    _, known = selection.choose(artifact, measurements, Options("openvino"))
    assert (known.backend, speeds.probed) == (replace(FIXED, buckets=(1,)), 1)


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}', "null"])
def test_a_damaged_cache_only_costs_the_measurement(
    artifact: artifacts.Artifact, tmp_path: Path, text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    Speeds(monkeypatch, openvino=700, cpu=900)
    (tmp_path / FILE).write_text(text)
    assert fastest(artifact, Measurements(tmp_path)).deviation < EXACT
    assert json.loads((tmp_path / FILE).read_text())


@pytest.mark.parametrize(
    "entry",
    [1, {}, {"backend": {}, "rates": {}, "refused": [], "seconds": {}}, {"backend": 1, "rates": 2, "refused": 3}],
)
def test_a_damaged_entry_is_no_choice(tmp_path: Path, entry: object) -> None:
    (tmp_path / FILE).write_text(json.dumps({"key": entry}))
    assert Measurements(tmp_path).find("key") is None


def test_what_the_next_start_should_not_rely_on_is_kept_for_this_service_only(
    artifact: artifacts.Artifact, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    speeds = Speeds(monkeypatch, openvino=700, cpu=900)
    speeds.lasting = False
    cache, shared = tmp_path / "cache", tmp_path / "shared"
    fastest(artifact, Measurements(cache, shared))
    fastest(artifact, Measurements(cache, shared))
    assert speeds.probed == 1
    fastest(artifact, Measurements(cache))
    assert speeds.probed == 2


def test_what_passes_does_not_reach_the_file_with_what_lasts(tmp_path: Path) -> None:
    measurements = Measurements(tmp_path / "cache", tmp_path)
    measurements.keep("passing", Measurement(CPU, {"cpu": 1.0}, ["openvino: std::bad_alloc"]), lasting=False)
    measurements.keep("lasting", Measurement(CPU, {"cpu": 1.0}, []))
    assert measurements.find("passing") is not None
    assert json.loads((tmp_path / "cache" / FILE).read_text()).keys() == {"lasting"}
    later = Measurements(tmp_path / "cache", tmp_path / "another service")
    assert later.find("passing") is None
    assert later.find("lasting") == measurements.find("lasting")


def test_hundreds_of_models_reach_the_workers(tmp_path: Path) -> None:
    """By a file: an environment variable ends at 128 KiB."""
    (tmp_path / "file").touch()
    shared = tmp_path / "shared"
    parent = Measurements(tmp_path / "file", shared)
    for number in range(250):
        parent.keep(f"model {number} " + "x" * 900, Measurement(CPU, {"cpu": 5.0}, []))
    worker = Measurements(tmp_path / "file", shared)
    assert all(worker.find(f"model {number} " + "x" * 900) is not None for number in range(250))


def test_where_the_cache_cannot_be_written_workers_share_what_one_of_them_measured(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    shared = tmp_path / "shared"
    measurement = Measurement(FIXED, {"openvino": 5.0}, [], worthwhile({1: 0.5, 32: 1.0}))
    Measurements(tmp_path / "file", shared).keep("a model", measurement)
    assert Measurements(tmp_path / "file", shared).find("a model") == measurement
    assert Measurements(tmp_path / "file").find("a model") is None


# Providers


def test_the_machine_has_a_name_that_does_not_change() -> None:
    assert providers.machine() == providers.machine()


def test_every_backend_has_a_name_of_its_own() -> None:
    assert len({str(backend) for backend in BACKENDS}) == len(BACKENDS)
