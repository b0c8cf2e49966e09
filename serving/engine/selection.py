"""Artifacts -> warm models on the fastest backend that reproduces their golden outputs.

A model is served at once, by ONNX Runtime on the processor. Which backend is faster is found out meanwhile, in a child
process, and remembered; then the model moves there. Knows nothing of requests or queues.

Three values tell of it: `Options` (what is allowed), `Measurement` (what is known of an artifact on this machine, which
processes and starts hand on), `Model` (what runs).
"""

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from serving.artifacts import Artifact
from serving.engine import memory
from serving.engine.buckets import Outputs
from serving.engine.decision import LESS_EXACT, decide, reasons
from serving.engine.exactness import RULE, CloseCalls, ServedRun, deciding_close_calls, golden_check
from serving.engine.measurements import Measurement, Measurements
from serving.engine.probing import probe
from serving.engine.providers import BACKENDS, PROVIDERS, Backend, ProviderError, machine, open_run
from serving.engine.traffic import Traffic, counting
from serving.errors import StartError, Unavailable

log = logging.getLogger("shortcut")
RESERVE = 0.1  # fraction of the memory there is that no model moves into: requests need it
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
        allowed = [
            backend
            for backend in BACKENDS
            if self.provider in ("auto", backend.provider)
            and self.precision in ("auto", backend.precision)
            and (self.cuda_graphs or not backend.graphs)
        ]
        return [backend for backend in allowed if without is None or backend.provider != without.provider] or allowed

    def __str__(self) -> str:
        named = {"SHORTCUT_PROVIDER": self.provider, "SHORTCUT_PRECISION": self.precision}
        return ", ".join(f"{name}={value}" for name, value in named.items() if value != "auto")


@dataclass(frozen=True)
class Model:
    """A served version: `run` maps (N, H, W, C) uint8 to Outputs, for one thread at a time.

    That of a less exact backend also takes thresholds: see `rows`.
    """

    artifact: Artifact
    run: ServedRun
    backend: Backend
    reason: str
    deviation: float  # the largest difference to a golden probability
    load_seconds: float
    image_seconds: float  # of one image in a large batch, warm
    recomputed_share: float = 0.0  # of the golden images, that are computed again in float32
    measuring: bool = False  # whether `faster` may find a better backend
    bytes: int = 0  # of memory, that loading the backend takes at its peak; 0 where nobody has measured it
    traffic: Traffic | None = None  # where the pictures that come decide whether another backend is faster

    @property
    def unsuited(self) -> bool:
        """Whether `faster` may find a better backend: nothing was measured yet, or the pictures ask for another."""
        exact = self.backend.precision == "float32"
        return self.measuring or (self.traffic is not None and self.traffic.wants_other(exact))

    def rows(self, images: np.ndarray, thresholds: np.ndarray | None = None) -> np.ndarray:
        """(N, H, W, C) uint8 -> (N, K) float32 probabilities, or (N, K + 1) where the last is the unfamiliarity.

        `thresholds` (N,) are those by which the best probabilities will be judged, NaN for none: a less exact backend
        computes again in float32 what is near them.
        """
        if thresholds is None or self.backend.precision == "float32":
            probabilities, unfamiliarity = self.run(images)
        else:
            probabilities, unfamiliarity = self.run(images, thresholds)
        return probabilities if unfamiliarity is None else np.column_stack([probabilities, unfamiliarity])

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
    options: Options,
    without: Backend | None = None,
    checked: Measurement | None = None,
) -> Model:
    """A warm model as soon as there is one that gives right answers: on the processor by ONNX Runtime, where that is
    allowed. `checked` is what another process of this machine has found of that: a few golden images are enough then.
    `without` is a backend that has failed. Raises StartError if a demanded provider is not to be had or nothing
    reproduces the golden outputs."""
    backends = options.backends(without)
    refused: list[str] = []
    if CPU in backends:
        reason = "the provider that is ready first; whether another is faster is being measured"
        only = len(backends) == 1
        try:
            return _open(artifact, CPU, options, str(options) if only else reason, checked=checked, measuring=not only)
        except ProviderError as err:
            refused.append(f"{CPU}: {err}")
            if only:
                raise StartError(_none(artifact, options, refused)) from err
    while backends:
        try:
            measurement = measure(artifact, measurements, options, backends)
        except ProviderError as err:
            raise StartError(_none(artifact, options, [*refused, str(err)])) from err
        try:
            return _open(artifact, measurement.backend, options, _because(measurement, options), measurement)
        except ProviderError as err:  # it worked in the child; here is less memory, or other models beside it
            refused.append(f"{measurement.backend}: {err}")
            left = [other for other in backends if str(other) != str(measurement.backend)]
            backends = left if len(left) < len(backends) else []
    raise StartError(_none(artifact, options, refused))


def faster(model: Model, measurements: Measurements, options: Options) -> Model:
    """The same version on the fastest backend; takes seconds where that must be measured first, in a child process.

    The model as it was, with the reason, where none is faster or the fastest does not fit into the memory that is left.
    Never raises: what nobody thought of is logged once, and ends the measuring too.
    """
    try:
        return _faster(model, measurements, options)
    except Exception as err:
        log.exception("%s is not measured", model.name)
        return replace(model, measuring=False, reason=f"not measured: {err!r}")


def _faster(model: Model, measurements: Measurements, options: Options) -> Model:
    try:
        measurement = measure(model.artifact, measurements, options, options.backends())
    except ProviderError as err:  # not even the provider in use can be measured
        return replace(model, measuring=False, reason=f"the provider that was ready first; {err}")
    traffic = model.traffic
    share = None if traffic is None else traffic.share
    measurement = measurement.suited(share)
    reason = _because(measurement, options, share)
    if traffic is not None:
        traffic.moved()
    if measurement.backend == model.backend:
        return _counted(replace(model, measuring=False, reason=reason), measurement)
    try:
        _need_memory(measurement)
        with measurements.trying(measurement_key(model.artifact, options.backends(), options)):
            return _open(model.artifact, measurement.backend, options, reason, measurement, traffic=traffic)
    except ProviderError as err:
        return replace(model, measuring=False, reason=f"{measurement.backend}: {err}; {reason}")


def _counted(model: Model, measurement: Measurement | None, traffic: Traffic | None = None) -> Model:
    """The model; where the pictures that come may ask for another backend, `traffic` (or one of its own) counts the
    close calls among them from now on. A less exact one's run does so already."""
    other = measurement.other if measurement else None
    if other is None or model.traffic is not None:
        return model
    traffic = traffic or Traffic(other.even)
    run = counting(model.run, other.calls, traffic) if model.backend.precision == "float32" else model.run
    return replace(model, run=run, traffic=traffic)


def _need_memory(measurement: Measurement) -> None:
    """Raises ProviderError if the backend needs more memory than is left beside the reserve."""
    left, limit = memory.left(), memory.limit()
    if left is not None and limit is not None and measurement.bytes > left - RESERVE * limit:
        raise ProviderError(
            f"loading it takes up to {memory.megabytes(measurement.bytes)} of memory; {memory.megabytes(left)} of "
            f"{memory.megabytes(limit)} are left, of which {memory.megabytes(RESERVE * limit)} are kept for requests"
        )


def measure(
    artifact: Artifact, measurements: Measurements, options: Options, backends: Sequence[Backend]
) -> Measurement:
    """Which of the backends is the fastest: known, or found out now. Raises ProviderError if none is right."""
    key = measurement_key(artifact, backends, options)
    with measurements.measuring:  # a measurement needs the machine for itself
        known = measurements.find(key)
        if known is not None and known.backend.provider in {backend.provider for backend in backends}:
            return known
        findings = probe(artifact, backends, options.threads)
        if not findings.trials:
            raise ProviderError("; ".join(reasons(findings)))
        measurement = decide(findings)
        measurements.keep(key, measurement, findings.lasting)
        return measurement


def choose(artifact: Artifact, measurements: Measurements, options: Options) -> tuple[Model, Measurement]:
    """In the parent: what the workers can `load`, and where it will be moved to as far as that is known. Raises
    StartError."""
    model = load(artifact, measurements, options)
    known = measurements.find(measurement_key(artifact, options.backends(), options)) if model.measuring else None
    return model, known or measurement_of(model)


def measurement_of(model: Model) -> Measurement:
    """What loading a model has told of the backend that it runs on: other processes need not compare again."""
    rates = {str(model.backend): 1 / model.image_seconds}
    return Measurement(
        model.backend,
        rates,
        [],
        image_seconds=model.image_seconds,
        recomputed_share=model.recomputed_share,
        deviation=model.deviation,
    )


def absent(model: Model) -> Model:
    """What is known of a model, without what takes memory."""
    return replace(model, artifact=model.artifact.without_contents(), run=_not_in_memory, measuring=False, traffic=None)


def described(artifact: Artifact, known: Measurement) -> Model:
    """A model that is not loaded, as it will be: by what another process has found of it."""
    reason = "not in memory: loaded when somebody asks"
    return Model(
        artifact, _not_in_memory, known.backend, reason, known.deviation, 0.0, known.image_seconds, measuring=False
    )


def _not_in_memory(*arguments: object) -> Outputs:
    raise Unavailable("the model is not in memory")


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
    traffic: Traffic | None = None,
) -> tuple[ServedRun, float]:
    """A run that has reproduced the golden outputs, in batches of `sizes`, with close calls decided in float32; and the
    largest difference to a golden probability. `seconds` as for open_run; `traffic` counts the close calls. Raises
    ProviderError."""
    run = open_run(artifact.onnx, backend, threads, seconds)
    check = golden_check(run, backend, artifact, sizes)
    if backend.precision == "float32":
        return run, check.deviation
    # A session of its own, which computes one image at a time in its check: after large batches it would keep their
    # memory.
    exact = open_run(artifact.onnx, backend.exact, threads)
    try:
        golden_check(exact, backend.exact, artifact, sizes=(1,), every=True)
    except ProviderError as err:
        raise ProviderError(f"what decides its close calls, {backend.exact}, {err}", err.lasting) from err
    calls, count = CloseCalls.of(check, artifact.unfamiliarity_threshold), None if traffic is None else traffic.add
    return deciding_close_calls(run, exact, calls, count), check.deviation


def _open(
    artifact: Artifact,
    backend: Backend,
    options: Options,
    reason: str,
    measurement: Measurement | None = None,
    checked: Measurement | None = None,
    measuring: bool = False,
    traffic: Traffic | None = None,
) -> Model:
    """A checked and warm model, whose pictures `traffic` counts, or one of its own. Raises ProviderError."""
    started = time.perf_counter()
    other = measurement.other if measurement else None
    if other is not None and traffic is None:
        traffic = Traffic(other.even)
    if checked is None:
        known = measurement.seconds if measurement else None
        run, deviation = open_backend(artifact, backend, options.threads, known, traffic=traffic)
    else:
        run, deviation = open_backend(artifact, backend, options.threads, sizes=(1,))
        deviation = max(deviation, checked.deviation)
    known_speed = measurement or checked
    seconds = known_speed.image_seconds if known_speed else _timed(run, artifact.golden_images, options.threads)
    share = measurement.recomputed_share if measurement else 0.0
    took = time.perf_counter() - started
    size = measurement.bytes if measurement else 0
    model = Model(artifact, run, backend, reason, deviation, took, seconds, share, measuring, size)
    return _counted(model, measurement, traffic)


def _timed(run: ServedRun, images: np.ndarray, threads: int) -> float:
    """The seconds that an image takes in a large batch; of one thread its own time, which is no one else's."""
    clock = time.thread_time if threads == 1 else time.perf_counter
    began = clock()
    run(images)
    return max(clock() - began, 1e-9) / len(images)


def _none(artifact: Artifact, options: Options, reasons: Sequence[str]) -> str:
    asked = f"{options}: " if str(options) else ""
    return f"{asked}{artifact.path / 'model.onnx'} cannot be served: {'; '.join(reasons)}"


def _because(measurement: Measurement, options: Options, share: float | None = None) -> str:
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in measurement.rates.items())
    rule = f"the fastest that reproduces the golden outputs, a less exact one by {LESS_EXACT} times (images/s: {rates})"
    if measurement.other is not None:
        rule += f", which pays where fewer than {measurement.other.even:.0%} of the pictures are close calls"
        rule += "" if share is None else f": of the latest {share:.1%} were"
    return "; ".join([*filter(None, [str(options)]), rule, *measurement.refused])
