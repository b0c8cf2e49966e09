"""Artifacts -> warm models on the fastest backend that reproduces their golden outputs.

Tries what `providers` can open, proves that it computes what Keras did, measures and chooses. Knows nothing of requests
or queues.
"""

import time
import timeit
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from serving.artifacts import Artifact
from serving.engine.measurements import Measurement, Measurements
from serving.engine.providers import BACKENDS, PROVIDERS, Backend, ProviderError, Run, machine, one_line, open_run
from serving.errors import StartError

MEASURED_SECONDS = 0.1  # of each backend, again and again
CLOSE = 0.03  # between the two best probabilities
LESS_EXACT = 1.25  # times as fast must a way be that is less exact than float32
MEASURED_SIZES = (1, 6, 32)
WARM_SIZES = (1, 2, 4, 8, 16, 32)  # a provider may prepare itself for each shape when it first meets it


@dataclass(frozen=True)
class Model:
    """A served version: `run` maps (N, H, W, C) uint8 to (N, K) float32 probabilities."""

    artifact: Artifact
    run: Run
    backend: Backend
    reason: str
    deviation: float  # the largest difference to a golden probability
    load_seconds: float
    image_seconds: float  # of one image in a batch of the golden ones, warm

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


def load(
    artifact: Artifact,
    measurements: Measurements,
    provider: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    without: Backend | None = None,
) -> Model:
    """A warm model on the fastest backend of `provider` and `precision` ("auto" for any) that gives right answers.

    Which one that is `measurements` may know; else it is measured and kept there. `without` is a backend that has
    failed: it is only taken again where there is no other. Raises StartError if a demanded provider is not to be had or
    nothing reproduces the golden outputs.
    """
    backends = candidates(provider, precision)
    if without is not None:
        backends = [backend for backend in backends if backend.provider != without.provider] or backends
    key = measurement_key(artifact, backends, threads)
    demanded = _demand(provider, precision)
    known = measurements.find(key)
    if known is not None and known.backend in backends:
        try:
            return _load(artifact, known.backend, threads, _because(known, demanded))
        except ProviderError:
            pass  # the machine is not what it was, though it looks the same: measure again
    models: list[Model] = []
    reasons: dict[str, Backend] = {}  # a provider that is not here is so in every precision
    for backend in backends:
        try:
            models.append(_load(artifact, backend, threads, demanded))
        except ProviderError as err:
            reasons.setdefault(str(err), backend)
    refused = [f"{backend}: {reason}" for reason, backend in reasons.items()]
    if not models:
        asked = f"{demanded}: " if demanded else ""
        raise StartError(f"{asked}{artifact.path / 'model.onnx'} cannot be served: {'; '.join(refused)}")
    rates = images_per_second(models)
    fastest = sorted(models, key=lambda model: -_worth(model.backend, rates[model.backend]))
    measured = {str(model.backend): round(rates[model.backend], 1) for model in fastest}
    measurement = Measurement(fastest[0].backend, measured, refused)
    measurements.keep(key, measurement)
    return replace(fastest[0], reason=_because(measurement, demanded))


class Choice(NamedTuple):
    """How a version will run, and why."""

    name: str
    backend: Backend
    rate: float  # images a second
    reason: str


def choose(artifact: Artifact, measurements: Measurements, provider: str, precision: str, threads: int) -> Choice:
    """In the parent: make sure that `measurements` knows what `load` will take. Raises StartError.

    A demanded provider is tried even so: it may be gone, and then the start must end here.
    """
    name = f"{artifact.name} version {artifact.version}"
    known = measurements.find(measurement_key(artifact, candidates(provider, precision), threads))
    if known is not None and provider == "auto":
        reason = _because(known, _demand(provider, precision))
        return Choice(name, known.backend, known.rates.get(str(known.backend), 0.0), reason)
    model = load(artifact, measurements, provider, precision, threads)
    return Choice(name, model.backend, 1 / model.image_seconds, model.reason)


def candidates(provider: str, precision: str) -> list[Backend]:
    """What may be tried, in order of preference."""
    return [
        backend
        for backend in BACKENDS
        if provider in ("auto", backend.provider) and (precision == "auto" or backend.precision == precision)
    ]


def measurement_key(artifact: Artifact, backends: Sequence[Backend], threads: int) -> str:
    """What a measurement holds for."""
    return f"{artifact.sha256[:32]} on {machine()}, {threads} threads, of {', '.join(map(str, backends))}"


def _load(artifact: Artifact, backend: Backend, threads: int, reason: str) -> Model:
    """A checked and warm model. Raises ProviderError."""
    started = time.perf_counter()
    run = open_backend(artifact.onnx, backend, threads)
    golden = artifact.golden_images
    try:
        deviation = golden_check(run, backend, artifact)
        for size in WARM_SIZES:
            run(golden[:size])
        seconds = min(timeit.repeat(lambda: run(golden), number=1, repeat=2)) / len(golden)
    except ProviderError:
        raise
    except Exception as err:  # a class of ONNX Runtime's per status code
        raise ProviderError(one_line(err)) from err
    return Model(artifact, run, backend, reason, deviation, time.perf_counter() - started, seconds)


def open_backend(onnx: bytes, backend: Backend, threads: int) -> Run:
    """As providers.open_run, with close calls decided in float32. Raises ProviderError."""
    run = open_run(onnx, backend, threads)
    return run if backend.precision == "float32" else deciding_close_calls(run, open_run(onnx, backend.exact, threads))


def deciding_close_calls(fast: Run, exact: Run) -> Run:
    """`fast`, but images whose two best classes it finds within CLOSE of each other are computed again by `exact`.

    Nearly every answer that bf16 changes is such a one: on CIFAR-10 30 of 10,000 without, 8 with it, for 1.6 % of the
    images twice.
    """

    def run(images: np.ndarray) -> np.ndarray:
        probabilities = fast(images)
        ordered = np.partition(probabilities, -2, axis=1)
        close = np.flatnonzero(ordered[:, -1] - ordered[:, -2] < CLOSE)
        if len(close):
            probabilities[close] = exact(images[close])
        return probabilities

    return run


def golden_check(run: Run, backend: Backend, artifact: Artifact) -> float:
    """The largest difference to the golden probabilities, in one batch and for a lone image.

    Raises ProviderError over the backend's tolerance, or if a top-1 changes whose margin in the reference exceeds twice
    the tolerance.
    """
    reference = artifact.golden_probabilities
    answer = run(artifact.golden_images)
    single = run(artifact.golden_images[:1])
    deviation = max(float(np.abs(answer - reference).max()), float(np.abs(single - reference[:1]).max()))
    ordered = np.sort(reference, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * backend.tolerance
    flipped = int((answer.argmax(axis=1) != reference.argmax(axis=1))[clear].sum())
    if not deviation <= backend.tolerance or flipped:
        raise ProviderError(
            f"does not reproduce golden.npz: largest difference {deviation:.2g} (limit {backend.tolerance:g}), "
            f"{flipped} answers changed"
        )
    return deviation


def images_per_second(models: Sequence[Model]) -> dict[Backend, float]:
    """The geometric mean of each one's rates for a lone image and for batches of several sizes, since a service meets
    them all.

    They are measured in turn, again and again, so that whatever else the machine does falls on all of them alike.
    """
    logarithms = {model.backend: 0.0 for model in models}
    for size in MEASURED_SIZES:
        seconds: dict[Backend, list[float]] = {model.backend: [] for model in models}
        end = time.perf_counter() + len(models) * MEASURED_SECONDS / len(MEASURED_SIZES)
        while time.perf_counter() < end or not all(seconds.values()):
            for model in models:
                images = model.artifact.golden_images[:size]
                started = time.perf_counter()
                model.run(images)
                seconds[model.backend].append((time.perf_counter() - started) / len(images))
        for backend, taken in seconds.items():
            logarithms[backend] -= float(np.log(np.median(taken))) / len(MEASURED_SIZES)
    return {backend: float(np.exp(logarithm)) for backend, logarithm in logarithms.items()}


def _worth(backend: Backend, rate: float) -> float:
    return rate if backend.precision == "float32" else rate / LESS_EXACT


def _demand(provider: str, precision: str) -> str:
    named = {"SHORTCUT_PROVIDER": provider, "SHORTCUT_PRECISION": precision}
    return ", ".join(f"{name}={value}" for name, value in named.items() if value != "auto")


def _because(measurement: Measurement, demanded: str) -> str:
    if demanded and len(measurement.rates) == 1:
        return "; ".join([demanded, *measurement.refused])
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in measurement.rates.items())
    rule = f"the fastest that reproduces the golden outputs, a less exact one by {LESS_EXACT} times (images/s: {rates})"
    return "; ".join([*filter(None, [demanded]), rule, *measurement.refused])
