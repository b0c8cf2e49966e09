"""Artifacts -> warm models on the fastest way to compute that reproduces their golden outputs.

Tries what `providers` can open, proves that it computes what Keras did, measures and chooses. Knows nothing of requests
or queues.
"""

import time
import timeit
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from serving.artifacts import Artifact
from serving.engine.measurements import Choice, Choices
from serving.engine.providers import PROVIDERS, WAYS, ProviderError, Run, Way, machine, one_line, open_run
from serving.errors import StartError

MEASURED_SECONDS = 0.1  # of each way, again and again
CLOSE = 0.03  # between the two best probabilities
LESS_EXACT = 1.25  # times as fast must a way be that is less exact than float32
MEASURED_SIZES = (1, 6, 32)
WARM_SIZES = (1, 2, 4, 8, 16, 32)  # a provider may prepare itself for each shape when it first meets it


@dataclass(frozen=True)
class Model:
    """A served version: `run` maps (N, H, W, C) uint8 to (N, K) float32 probabilities."""

    artifact: Artifact
    run: Run
    way: Way
    reason: str
    deviation: float  # the largest difference to a golden probability
    load_seconds: float
    image_seconds: float  # of one image in a batch of the golden ones, warm

    @property
    def name(self) -> str:
        return f"{self.artifact.name} version {self.artifact.version}"

    @property
    def provider(self) -> str:
        return PROVIDERS[self.way.provider]

    def __str__(self) -> str:
        return (
            f"{self.name}: {self.provider} in {self.way.precision} ({self.reason}), {1 / self.image_seconds:,.0f} "
            f"images/s, golden outputs within {self.deviation:.1e}, loaded in {1000 * self.load_seconds:.0f} ms"
        )


def load(
    artifact: Artifact,
    choices: Choices,
    provider: str = "auto",
    precision: str = "auto",
    threads: int = 1,
    without: Way | None = None,
) -> Model:
    """A warm model on the fastest way of `provider` and `precision` ("auto" for any) that gives right answers.

    Which one that is `choices` may know; else it is measured and kept there. `without` is a way that has failed: it is
    only taken again where there is no other. Raises StartError if a demanded provider is not to be had or nothing
    reproduces the golden outputs.
    """
    ways = candidates(provider, precision)
    if without is not None:
        ways = [way for way in ways if way.provider != without.provider] or ways
    key = choice_key(artifact, ways, threads)
    demanded = _demand(provider, precision)
    known = choices.find(key)
    if known is not None and known.way in ways:
        try:
            return _load(artifact, known.way, threads, _because(known, demanded))
        except ProviderError:
            pass  # the machine is not what it was, though it looks the same: measure again
    models: list[Model] = []
    reasons: dict[str, Way] = {}  # a provider that is not here is so in every precision
    for way in ways:
        try:
            models.append(_load(artifact, way, threads, demanded))
        except ProviderError as err:
            reasons.setdefault(str(err), way)
    refused = [f"{way}: {reason}" for reason, way in reasons.items()]
    if not models:
        asked = f"{demanded}: " if demanded else ""
        raise StartError(f"{asked}{artifact.path / 'model.onnx'} cannot be served: {'; '.join(refused)}")
    rates = {model.way: _images_per_second(model) for model in models}
    fastest = sorted(models, key=lambda model: -_worth(model.way, rates[model.way]))
    choice = Choice(fastest[0].way, {str(model.way): round(rates[model.way], 1) for model in fastest}, refused)
    choices.keep(key, choice)
    return replace(fastest[0], reason=_because(choice, demanded))


def choose(artifact: Artifact, choices: Choices, provider: str, precision: str, threads: int) -> str:
    """In the parent: make sure that `choices` knows the way of `load`, and say which and why. Raises StartError.

    A demanded provider is tried even so: it may be gone, and then the start must end here.
    """
    known = choices.find(choice_key(artifact, candidates(provider, precision), threads))
    if known is None or provider != "auto":
        return str(load(artifact, choices, provider, precision, threads))
    return f"{artifact.name} version {artifact.version}: {known.way} ({_because(known, _demand(provider, precision))})"


def candidates(provider: str, precision: str) -> list[Way]:
    """What may be tried, in order of preference."""
    return [
        way
        for way in WAYS
        if provider in ("auto", way.provider) and (precision == "auto" or way.precision == precision)
    ]


def choice_key(artifact: Artifact, ways: Sequence[Way], threads: int) -> str:
    """What a choice holds for."""
    return f"{artifact.sha256[:32]} on {machine()}, {threads} threads, of {', '.join(map(str, ways))}"


def _load(artifact: Artifact, way: Way, threads: int, reason: str) -> Model:
    """A checked and warm model. Raises ProviderError."""
    started = time.perf_counter()
    run = open_way(artifact.onnx, way, threads)
    golden = artifact.golden_images
    try:
        deviation = golden_check(run, way, artifact)
        for size in WARM_SIZES:
            run(golden[:size])
        seconds = min(timeit.repeat(lambda: run(golden), number=1, repeat=2)) / len(golden)
    except ProviderError:
        raise
    except Exception as err:  # a class of ONNX Runtime's per status code
        raise ProviderError(one_line(err)) from err
    return Model(artifact, run, way, reason, deviation, time.perf_counter() - started, seconds)


def open_way(onnx: bytes, way: Way, threads: int) -> Run:
    """As providers.open_run, with close calls decided in float32. Raises ProviderError."""
    run = open_run(onnx, way, threads)
    return run if way.precision == "float32" else deciding_close_calls(run, open_run(onnx, way.exact, threads))


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


def golden_check(run: Run, way: Way, artifact: Artifact) -> float:
    """The largest difference to the golden probabilities, in one batch and for a lone image.

    Raises ProviderError over the way's tolerance, or if a top-1 changes whose margin in the reference exceeds twice it.
    """
    reference = artifact.golden_probabilities
    answer = run(artifact.golden_images)
    single = run(artifact.golden_images[:1])
    deviation = max(float(np.abs(answer - reference).max()), float(np.abs(single - reference[:1]).max()))
    ordered = np.sort(reference, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * way.tolerance
    flipped = int((answer.argmax(axis=1) != reference.argmax(axis=1))[clear].sum())
    if not deviation <= way.tolerance or flipped:
        raise ProviderError(
            f"does not reproduce golden.npz: largest difference {deviation:.2g} (limit {way.tolerance:g}), "
            f"{flipped} answers changed"
        )
    return deviation


def _images_per_second(model: Model) -> float:
    """The geometric mean of the rates for a lone image and for batches of several sizes: a service meets them all."""
    rates = []
    for size in MEASURED_SIZES:
        images = model.artifact.golden_images[:size]
        seconds: list[float] = []
        while sum(seconds) < MEASURED_SECONDS / len(MEASURED_SIZES):
            started = time.perf_counter()
            model.run(images)
            seconds.append(time.perf_counter() - started)
        rates.append(len(images) / float(np.median(seconds)))
    return float(np.exp(np.mean(np.log(rates))))


def _worth(way: Way, rate: float) -> float:
    return rate if way.precision == "float32" else rate / LESS_EXACT


def _demand(provider: str, precision: str) -> str:
    named = {"SHORTCUT_PROVIDER": provider, "SHORTCUT_PRECISION": precision}
    return ", ".join(f"{name}={value}" for name, value in named.items() if value != "auto")


def _because(choice: Choice, demanded: str) -> str:
    if demanded and len(choice.rates) == 1:
        return "; ".join([demanded, *choice.refused])
    rates = ", ".join(f"{name} {rate:,.0f}" for name, rate in choice.rates.items())
    rule = f"the fastest that reproduces the golden outputs, a less exact one by {LESS_EXACT} times (images/s: {rates})"
    return "; ".join([*filter(None, [demanded]), rule, *choice.refused])
