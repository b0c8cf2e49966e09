"""What every peer does with an image: bytes -> Pillow -> ONNX Runtime -> {"label", "probability"}.

Shared so that the servers differ only in how they serve. Knows one artifact (`BENCH_ARTIFACT`, a folder
models/<name>/<version>) and no server; does no more checking than a tutorial would.
"""

import io
import json
import os
from pathlib import Path

import numpy as np
import onnxruntime
from PIL import Image, ImageOps

from benchmarks.peers.framing import framed

# As many processes as cores, one ONNX Runtime thread in each: more threads would take turns on the same cores.
PROCESSES = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Classifier:
    """One session with `threads` threads over the artifact that BENCH_ARTIFACT names."""

    def __init__(self, threads: int = 1) -> None:
        artifact = Path(os.environ["BENCH_ARTIFACT"])
        card = json.loads((artifact / "card.json").read_bytes())
        self.labels: list[str] = card["labels"]
        self._card = card
        self._shape: list[int] = card["input_shape"]  # [H, W, C]
        self._mode = "L" if self._shape[2] == 1 else "RGB"
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")  # HTTP shares the cores
        self._session = onnxruntime.InferenceSession(
            artifact / "model.onnx", options, providers=["CPUExecutionProvider"]
        )

    def decode(self, data: bytes) -> np.ndarray:
        """An upload as (H, W, C) uint8."""
        return self.to_array(Image.open(io.BytesIO(data)))

    def to_array(self, image: Image.Image) -> np.ndarray:
        """A picture as (H, W, C) uint8."""
        image = framed(image.convert(self._mode), self._card)
        if "exif" in image.info:
            image = ImageOps.exif_transpose(image)  # last, when the picture is small: inputs are square
        return np.asarray(image).reshape(self._shape)

    def run(self, images: np.ndarray) -> np.ndarray:
        """(N, H, W, C) uint8 to (N, K) float32."""
        return self._session.run(["probabilities"], {"image": images})[0]

    def answer(self, probabilities: np.ndarray) -> dict[str, str | float]:
        """The most probable class of (K,) probabilities."""
        best = int(probabilities.argmax())
        return {"label": self.labels[best], "probability": float(probabilities[best])}

    def classify(self, data: bytes) -> dict[str, str | float]:
        return self.answer(self.run(self.decode(data)[None])[0])
