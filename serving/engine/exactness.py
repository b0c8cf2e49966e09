"""Whether a backend computes what Keras did, and how less exact ones are kept from changing answers.

Knows runs and an artifact's golden arrays; not which backend is the fastest.
"""

import numpy as np

from serving.artifacts import Artifact
from serving.engine.buckets import Run
from serving.engine.providers import Backend, ProviderError, one_line

CLOSE = 0.03  # between the two best probabilities
MOST_RUNS = 4  # of each batch size, in a check


def golden_check(run: Run, backend: Backend, artifact: Artifact) -> float:
    """The largest difference to the golden probabilities, at every batch size that the backend is prepared for.

    Raises ProviderError if it is over the backend's tolerance, if a top-1 changes whose margin in the reference exceeds
    twice the tolerance, or if a run fails.
    """
    largest = max(backend.checked)
    repeats = -(-largest // len(artifact.golden_images))
    images = np.concatenate([artifact.golden_images] * repeats)
    reference = np.concatenate([artifact.golden_probabilities] * repeats)
    ordered = np.sort(reference, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * backend.tolerance
    deviation, flipped = 0.0, 0
    for size in backend.checked:
        for start in range(0, min(len(images) - size + 1, MOST_RUNS * size), size):
            part = slice(start, start + size)
            try:
                answer = run(images[part])
            except Exception as err:  # a class of ONNX Runtime's per status code, or one of OpenVINO's
                raise ProviderError(one_line(err)) from err
            difference = float(np.abs(answer - reference[part]).max())
            deviation = max(deviation, difference if difference == difference else float("inf"))
            flipped += int((answer.argmax(axis=1) != reference[part].argmax(axis=1))[clear[part]].sum())
    if deviation > backend.tolerance or flipped:
        raise ProviderError(
            f"does not reproduce golden.npz: largest difference {deviation:.2g} (limit {backend.tolerance:g}), "
            f"{flipped} answers changed"
        )
    return deviation


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
