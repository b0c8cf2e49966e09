"""Whether a backend computes what Keras did, and how less exact ones are kept from changing answers.

Knows runs and an artifact's golden arrays; not which backend is the fastest.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from serving.artifacts import Artifact
from serving.engine.buckets import Run
from serving.engine.providers import Backend, ProviderError, one_line

CLOSE = 0.03  # between the two best probabilities, at least
OUTLIERS = 1 / 16  # of the golden images a less exact precision may be off by up to twice its tolerance
RULE = 2  # the number of golden_check's rule: what was measured under another one is measured again
MOST_RUNS = 4  # of each batch size, in a check; of a less exact precision as many as all golden images take


class Check(NamedTuple):
    """How far a backend is from the golden probabilities, at most."""

    deviation: float  # of a probability
    lead: float  # of the lead that an image's best class has over another


def golden_check(run: Run, backend: Backend, artifact: Artifact, sizes: Sequence[int] = ()) -> Check:
    """Compare with the golden probabilities, in batches of `sizes`, by default of every size that the backend is
    prepared for.

    Raises ProviderError if it is over the backend's tolerance, if a top-1 changes whose margin in the reference exceeds
    twice the tolerance, or if a run fails. The golden images are hard ones, noise and shapes that no network has
    learnt: a sixteenth of them may take bfloat16 up to twice its tolerance away.
    """
    sizes = sizes or backend.checked
    repeats = -(-max(sizes) // len(artifact.golden_images))
    images = np.concatenate([artifact.golden_images] * repeats)
    reference = np.concatenate([artifact.golden_probabilities] * repeats)
    best, ordered = reference.argmax(axis=1), np.sort(reference, axis=1)
    clear = ordered[:, -1] - ordered[:, -2] > 2 * backend.tolerance
    largest_of, lead, flipped = np.zeros(len(images)), 0.0, 0
    exact = backend.precision == "float32"
    for size in sizes:
        most = MOST_RUNS * size if exact else max(MOST_RUNS * size, len(artifact.golden_images))
        for start in range(0, min(len(images) - size + 1, most), size):
            part = slice(start, start + size)
            try:
                answer = run(images[part])
            except Exception as err:  # a class of ONNX Runtime's per status code, or one of OpenVINO's
                raise ProviderError(one_line(err)) from err
            change = answer - reference[part]
            difference = np.nan_to_num(np.abs(change).max(axis=1), nan=np.inf)
            largest_of[part] = np.maximum(largest_of[part], difference)
            lead = max(lead, float(np.abs(np.take_along_axis(change, best[part, None], axis=1) - change).max()))
            flipped += int((answer.argmax(axis=1) != best[part])[clear[part]].sum())
    deviation, outliers = float(largest_of.max()), np.mean(largest_of > backend.tolerance)
    if outliers > (0 if exact else OUTLIERS) or deviation > 2 * backend.tolerance or flipped:
        raise ProviderError(
            f"does not reproduce golden.npz: largest difference {deviation:.2g} (limit {backend.tolerance:g}), "
            f"{outliers:.0%} of the images over it, {flipped} answers changed"
        )
    return Check(deviation, lead)


def deciding_close_calls(fast: Run, exact: Run, lead: float = 0.0) -> Run:
    """`fast`, but images whose two best classes it finds close to each other are computed again by `exact`.

    Close is within CLOSE, or as far as it has moved the `lead` of a golden image. Nearly every answer that bf16 changes
    is such a one: of 6,000 on CIFAR-10, 14 without and 4 with it for `conv_resnet_deep`, which computes 1.5 % of the
    images twice; 46 and 4 for `resnet9`, with 1.9 %.
    """
    margin = max(CLOSE, lead)

    def run(images: np.ndarray) -> np.ndarray:
        probabilities = fast(images)
        ordered = np.partition(probabilities, -2, axis=1)
        close = np.flatnonzero(ordered[:, -1] - ordered[:, -2] < margin)
        if len(close):
            probabilities[close] = exact(images[close])
        return probabilities

    return run
