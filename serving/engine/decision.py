"""What was found of each backend -> which one is used. Pure functions, which know seconds and shares only.

A less exact backend computes its close calls again in float32, so that how fast it is hangs on the pictures. The golden
images decide first; what is written down of the other kind of backend lets the pictures that come decide again.
"""

from collections.abc import Mapping
from dataclasses import replace

from serving.engine.buckets import batch_seconds, images_per_second, with_recomputing, worthwhile
from serving.engine.measurements import Measurement, Other
from serving.engine.probing import Findings, Trial
from serving.engine.providers import Backend

LESS_EXACT = 1.25  # times as fast must a backend be that is less exact than float32
STEPS = 10  # of halving, to find a share to a thousandth


def decide(findings: Findings) -> Measurement:
    """The fastest as it would be served: with the close calls that it would compute again."""
    prepared = {
        backend: worthwhile(trial.seconds) if backend.buckets else trial.seconds
        for backend, trial in findings.trials.items()
    }
    served = {
        backend: _served_seconds(prepared[backend], trial, trial.recomputed_share)
        for backend, trial in findings.trials.items()
    }
    rates = {backend: images_per_second(seconds) for backend, seconds in served.items()}
    order = sorted(rates, key=lambda b: -rates[b] / (1 if b.precision == "float32" else LESS_EXACT))
    best = order[0]

    def choice(backend: Backend, share: float) -> tuple[Backend, dict[int, float], float, int]:
        sizes, trial = prepared[backend], findings.trials[backend]
        seconds = _served_seconds(sizes, trial, share)
        largest = max(seconds)
        buckets = tuple(sorted(sizes)) if backend.buckets else ()
        return replace(backend, buckets=buckets), sizes, seconds[largest] / largest, trial.bytes

    other = None
    exact = next((backend for backend in order if backend.precision == "float32"), None)
    inexact = next((backend for backend in order if backend.precision != "float32"), None)
    if exact is not None and inexact is not None:
        trial = findings.trials[inexact]
        even = _even(prepared[inexact], trial, LESS_EXACT * rates[exact])
        if even is not None and trial.calls is not None:
            other = Other(*choice(exact if best is inexact else inexact, even / 2), even, trial.calls)
    share = findings.trials[best].recomputed_share
    backend, seconds, image_seconds, size = choice(best, share)
    return Measurement(
        backend,
        {str(backend): round(rates[backend], 1) for backend in order},
        reasons(findings),
        seconds=seconds,
        image_seconds=image_seconds,
        recomputed_share=share,
        bytes=size,
        other=other,
    )


def _served_seconds(prepared: Mapping[int, float], trial: Trial, share: float) -> dict[int, float]:
    """What a batch of each size takes where `share` of the pictures are close calls."""
    batches = batch_seconds(prepared)
    return with_recomputing(batches, trial.again, share) if trial.again else batches


def _even(prepared: Mapping[int, float], trial: Trial, rate: float) -> float | None:
    """The share of close calls at which the backend makes `rate` images a second; None where none decides."""

    def reaches(share: float) -> bool:
        return images_per_second(_served_seconds(prepared, trial, share)) >= rate

    low, high = 0.0, 1.0
    if not reaches(low) or reaches(high):
        return None
    for _ in range(STEPS):
        middle = (low + high) / 2
        low, high = (middle, high) if reaches(middle) else (low, middle)
    return low


def reasons(findings: Findings) -> list[str]:
    """Why backends were refused, each reason once: a provider that is not here is so in every precision."""
    first: dict[str, Backend] = {}
    for backend, reason in findings.refused.items():
        first.setdefault(reason, backend)
    if len(first) == 1 and len(findings.refused) > 1 and not findings.trials:
        return list(first)  # no backend was even tried
    return [f"{backend}: {reason}" for reason, backend in first.items()]
