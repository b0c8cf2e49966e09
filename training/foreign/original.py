"""A network as its author left it, run by its own runtime on pictures that plain NumPy prepared: the reference.

Knows nothing of the graph that is published; that graph is judged by it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import onnxruntime

from training.artifact.errors import ExportError
from training.artifact.pixels import Pixels
from training.data.dataset import batch_for
from training.foreign.network import Input, Output, as_probabilities
from training.foreign.onnx_file import first_line

# Outputs of these names for a batch as the network takes it
Run = Callable[[Sequence[str], np.ndarray], Sequence[np.ndarray]]


@dataclass(frozen=True)
class Original:
    """The network's own runtime, where pictures go in, and which pixels they have."""

    run: Run
    source: Input
    pixels: Pixels

    def raw(self, images: np.ndarray, names: Sequence[str]) -> list[np.ndarray]:
        """The outputs `names` for (n, H, W, C) uint8, in batches of the network's own size, each (n, …)."""
        batch = self.source.batch or batch_for(self.source.shape)
        parts = []
        for start in range(0, len(images), batch):
            part = images[start : start + batch]
            filled = part if self.source.batch is None else np.resize(part, (batch, *part.shape[1:]))
            answers = self.run(names, self.source.given(self.pixels.of(filled)))
            parts.append([answer[: len(part)] if answer.ndim else answer for answer in answers])
        return [np.concatenate(answers) for answers in zip(*parts, strict=True)]

    def probabilities(self, images: np.ndarray, output: Output) -> np.ndarray:
        """(n, K) float32 of `output` for (n, H, W, C) uint8."""
        return as_probabilities(self.raw(images, [output.name])[0], output.ending)


def by_onnx_runtime(session: onnxruntime.InferenceSession) -> Run:
    """ONNX Runtime's session as a Run. It raises ExportError with the runtime's reason."""
    name = next(value.name for value in session.get_inputs())

    def run(names: Sequence[str], given: np.ndarray) -> Sequence[np.ndarray]:
        try:
            return session.run(list(names), {name: given})
        except Exception as err:  # ONNX Runtime has a dozen classes without a common base
            raise ExportError(f"ONNX Runtime cannot run the model: {first_line(err)}") from err

    return run
