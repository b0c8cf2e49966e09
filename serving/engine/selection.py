"""Artifacts -> warm models on the fastest backend that reproduces their golden outputs.

A model is served at once, by ONNX Runtime on the processor. Which backend is faster is found out meanwhile, in a child
process, and remembered; then the model moves there. Knows nothing of requests or queues.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from serving.artifacts import Artifact
from serving.engine.buckets import Run, images_per_second, worthwhile
from serving.engine.exactness import RULE, deciding_close_calls, golden_check
from serving.engine.measurements import Measurement, Measurements
from serving.engine.probing import Findings, probe
from serving.engine.providers import BACKENDS, PROVIDERS, Backend, ProviderError, machine, open_run
from serving.errors import StartError

LESS_EXACT = 1.25  # times as fast must a backend be that is less exact than float32
CPU = Backend("cpu")


class Options(NamedTuple):
    """What may be used: a provider and precision, or "auto" for any; the threads of a run; CUDA graphs."""

    provider: str = "auto"
    precision: str = "auto"
    threads: int = 1
    cuda_graphs: bool = False

    def backends(self, without: Backend | None = None) -> list[Backend]:
        """What may be tried, in order of preference. `without` is a backend that has failed: its provider is only
        taken again where there is no other."""
        found = [
            backend
            for backend in BACKENDS
            if self.provider in ("auto", backend.provider)
            and self.precision in ("auto", backend.precision)
            and (self.cuda_graphs or not backend.graphs)
        ]
        return [backend for backend in found if without is None or backend.provider != without.provider] or found

    def __str__(self) -> str:
        named = {"SHORTCUT_PROVIDER": self.provider, "SHORTCUT_PRECISION": self.precision}
        return ", ".join(f"{name}={value}" for name, value in named.items() if value != "auto")


@dataclass(frozen=True)
class Model:
    """A served version: `run` maps (N, H, W, C) uint8 to (N, K) float32 probabilities, for one thread at a time."""

    artifact: Artifact
    run: Run
    backend: Backend
    reason: str
    deviation: float  # the largest difference to a golden probability
    load_seconds: float
    image_seconds: float  # of one image in a large batch, warm
    measuring: bool = False  # whether `faster` may find a better backend

    @property
    def name(self) -> str:
        return f"{self.artifact.name} version {self.artifact.version}"

    @property
    def provider(self) -> str:
        return PROVIDERS[self.backend.provider]

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.provider} in {self.backend.precision} ({self.reason}), {1 / self.image_seconds:,.0f} "
            f"images/s, golden outputs within {self.deviation:.1e}, loaded in {1000 * self.load_seconds:.0f} ms"
        )


class Proof(NamedTuple):
    """What a process has found about ONNX Runtime and one artifact: others on that machine need not find it again."""

    machine: str
    deviation: float  # the largest difference to a golden probability
    image_seconds: float


def load(
    artifact: Artifact,
    measurements: Measurements,
    options: Options,
    without: Backend | None = None,
    proof: Proof | None = None,
) -> Model:
    """A warm model as soon as there is one that gives right answers: on the processor by ONNX Runtime, where that is
    allowed; with a `proof` a few golden images are enough. `without` is a backend that has failed. Raises StartError
    if a demanded provider is not to be had or nothing reproduces the golden outputs."""
    backends = options.backends(without)
    if proof is not None and proof.machine != machine():
        proof = None
    if CPU in backends:
        reason = "the provider that is ready first; whether another is faster is being measured"
        only = len(backends) == 1
        try:
            return _open(artifact, CPU, options, str(options) if only else reason, measuring=not only, proof=proof)
        except ProviderError as err:
            if only:
                raise StartError(_none(artifact, options, [f"{CPU}: {err}"])) from err
    measurement = measure(artifact, measurements, options, backends)
    try:
        return _open(artifact, measurement.backend, options, _because(measurement, options), measurement.seconds)
    except ProviderError as err:
        raise StartError(_none(artifact, options, [f"{measurement.backend}: {err}"])) from err


def faster(model: Model, measurements: Measurements, options: Options) -> Model:
    """The same version on the fastest backend; takes seconds where that must be measured first, in a child process.

    The model as it was, with the reason, where none is faster.
    """
    try:
        measurement = measure(model.artifact, measurements, options, options.backends())
    except StartError as err:  # not even the provider in use can be measured
        return replace(model, measuring=False, reason=str(err))
    reason = _because(measurement, options)
    if measurement.backend == model.backend:
        return replace(model, measuring=False, reason=reason)
    try:
        with measurements.trying(measurement_key(model.artifact, options.backends(), options)):
            return _open(model.artifact, measurement.backend, options, reason, measurement.seconds)
    except ProviderError as err:
        return replace(model, measuring=False, reason=f"{measurement.backend}: {err}; {reason}")


def measure(
    artifact: Artifact, measurements: Measurements, options: Options, backends: Sequence[Backend]
) -> Measurement:
    """Which of the backends is the fastest: known, or found out now. Raises StartError if none is right."""
    key = measurement_key(artifact, backends, options)
    with measurements.turn:
        known = measurements.find(key)
        if known is not None and known.backend.provider in {backend.provider for backend in backends}:
            return known
        findings = probe(artifact, backends, options.threads)
        if not findings.seconds:
            raise StartError(_none(artifact, options, _reasons(findings)))
        kept = {
            backend: worthwhile(seconds) if backend.buckets else seconds
            for backend, seconds in findings.seconds.items()
        }
        rates = {backend: images_per_second(seconds) for backend, seconds in kept.items()}
        order = sorted(rates, key=lambda b: -rates[b] / (1 if b.precision == "float32" else LESS_EXACT))
        best = order[0]
        chosen = replace(best, buckets=tuple(sorted(kept[best])) if best.buckets else ())
        measurement = Measurement(chosen, {str(b): round(rates[b], 1) for b in order}, _reasons(findings), kept[best])
        measurements.keep(key, measurement, findings.lasting)
        return measurement


class Choice(NamedTuple):
    """How a version will run, and why."""

    name: str
    backend: Backend
    rate: float  # images a second
    reason: str
    proof: Proof | None = None


def choose(artifact: Artifact, measurements: Measurements, options: Options) -> Choice:
    """In the parent: make sure that the workers can `load`, and say what they will take as far as that is known. Raises
    StartError."""
    model = load(artifact, measurements, options)
    proof = Proof(machine(), model.deviation, model.image_seconds) if model.backend == CPU else None
    known = measurements.find(measurement_key(artifact, options.backends(), options)) if model.measuring else None
    if known is not None:
        rate = known.rates.get(str(known.backend), 0.0)
        return Choice(model.name, known.backend, rate, _because(known, options), proof)
    return Choice(model.name, model.backend, 1 / model.image_seconds, model.reason, proof)


def measurement_key(artifact: Artifact, backends: Sequence[Backend], options: Options) -> str:
    """What a measurement holds for."""
    tried = ", ".join(map(str, backends))
    return f"{artifact.sha256[:32]} on {machine()}, {options.threads} threads, rule {RULE}, of {tried}"


def open_backend(
    artifact: Artifact,
    backend: Backend,
    threads: int,
    seconds: dict[int, float] | None = None,
    sizes: Sequence[int] = (),
) -> tuple[Run, float]:
    """A run that has reproduced the golden outputs, in batches of `sizes`, with close calls decided in float32; and the
    largest difference to a golden probability. `seconds` as for open_run. Raises ProviderError."""
    run = open_run(artifact.onnx, backend, threads, seconds)
    deviation, lead = golden_check(run, backend, artifact, sizes)
    if backend.precision != "float32":
        # A session of its own, since one that has computed large batches keeps their memory.
        run = deciding_close_calls(run, open_run(artifact.onnx, backend.exact, threads), lead)
    return run, deviation


def _open(
    artifact: Artifact,
    backend: Backend,
    options: Options,
    reason: str,
    seconds: dict[int, float] | None = None,
    measuring: bool = False,
    proof: Proof | None = None,
) -> Model:
    """A checked and warm model. Raises ProviderError."""
    started = time.perf_counter()
    if proof is None:
        run, deviation = open_backend(artifact, backend, options.threads, seconds)
        seconds = seconds or _timed(run, artifact.golden_images, options.threads)
    else:
        run, deviation = open_backend(artifact, backend, options.threads, sizes=(1,))
        deviation, seconds = max(deviation, proof.deviation), {1: proof.image_seconds}
    largest = max(seconds)
    took = time.perf_counter() - started
    return Model(artifact, run, backend, reason, deviation, took, seconds[largest] / largest, measuring)


def _timed(run: Run, images: np.ndarray, threads: int) -> dict[int, float]:
    """The seconds that a batch takes, by its size; of one thread its own time, which is no one else's."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    began = clock()
    run(images)
    return {len(images): max(clock() - began, 1e-9)}


def _none(artifact: Artifact, options: Options, reasons: Sequence[str]) -> str:
    asked = f"{options}: " if str(options) else ""
    return f"{asked}{artifact.path / 'model.onnx'} cannot be served: {'; '.join(reasons)}"


def _reasons(findings: Findings) -> list[str]:
    """Each reason once: a provider that is not here is so in every precision."""
    first: dict[str, Backend] = {}
    for backend, reason in findings.refused.items():
        first.setdefault(reason, backend)
    return [f"{backend}: {reason}" for reason, backend in first.items()]


def _because(measurement: Measurement, options: Options) -> str:
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in measurement.rates.items())
    rule = f"the fastest that reproduces the golden outputs, a less exact one by {LESS_EXACT} times (images/s: {rates})"
    return "; ".join([*filter(None, [str(options)]), rule, *measurement.refused])
