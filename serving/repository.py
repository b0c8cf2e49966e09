"""All served models of one process: names and versions -> a warm model, its decoder and its queue.

Loads what `artifacts` selects through `runtime`; answers which model a request means. Knows nothing of HTTP.
"""

import asyncio
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from PIL import Image

from serving import artifacts, runtime
from serving.batching import Batcher
from serving.errors import DeadlineExceeded, StartError, UnknownModel
from serving.images import open_image, to_array
from serving.settings import Settings

Prediction = dict[str, Any]

INLINE_PIXELS = 128 * 128  # up to this, decoding costs less than waking a thread
INLINE_SECONDS = 0.001  # of a batch of 32; up to this, a run does
INLINE_BYTES = 128 * 1024  # of a file; reading the header of a larger one may already take long
# Two, so that one enormous picture does not hold up all others; more would cost memory, up to 0.8 GB each, and there
# is a worker for every core.
_DECODERS = ThreadPoolExecutor(2, thread_name_prefix="decode")


class ServedModel:
    """One version, ready: bytes -> image -> probabilities -> ranked predictions."""

    def __init__(self, model: runtime.Model, settings: Settings):
        self.model = model
        self.artifact = model.artifact
        self._settings = settings
        self.batcher = Batcher(
            model.run,
            None if model.batch_seconds < INLINE_SECONDS else ThreadPoolExecutor(1, thread_name_prefix=model.name),
            queue=settings.queue,
            deadline_seconds=settings.deadline_ms / 1000,
        )

    async def decode(self, data: bytes | memoryview) -> np.ndarray:
        """An upload's bytes as this model's input (H, W, C) uint8; raises what images.decode_image raises.

        Big pictures are decoded beside the event loop (Pillow releases the GIL), small ones sooner than a thread wakes.
        Raises DeadlineExceeded for one that had to wait too long for its turn.
        """
        if len(data) <= INLINE_BYTES:
            image = open_image(data, self._settings.max_pixels)
            if image.width * image.height <= INLINE_PIXELS:
                return self._to_array(image)
        expires = time.monotonic() + self._settings.deadline_ms / 1000
        return await asyncio.get_running_loop().run_in_executor(_DECODERS, self._decode, data, expires)

    def _decode(self, data: bytes | memoryview, expires: float) -> np.ndarray:
        if time.monotonic() > expires:
            raise DeadlineExceeded(f"not decoded within {self._settings.deadline_ms} ms")
        return self._to_array(open_image(data, self._settings.max_pixels))

    def _to_array(self, image: Image.Image) -> np.ndarray:
        artifact = self.artifact
        return to_array(image, artifact.input_shape, artifact.input_convention, artifact.resample)

    async def classify(self, images: Sequence[np.ndarray], top_k: int) -> list[list[Prediction]]:
        """Ranked predictions for each decoded image, in order. Raises Overloaded or DeadlineExceeded."""
        return [self.rank(probabilities, top_k) for probabilities in await self.batcher.classify(images)]

    def rank(self, probabilities: np.ndarray, top_k: int) -> list[Prediction]:
        """The `top_k` most probable classes of (K,) probabilities, best first; ties by index."""
        labels = self.artifact.labels
        best = np.argsort(-probabilities, kind="stable")[:top_k].tolist()
        return [{"label": labels[i], "index": i, "probability": round(float(probabilities[i]), 6)} for i in best]

    def describe(self) -> dict[str, Any]:
        artifact = self.artifact
        return {
            "version": artifact.version,
            "labels": list(artifact.labels),
            "input_shape": list(artifact.input_shape),
            "input_convention": artifact.input_convention,
            "provider": self.model.provider,
            "provider_reason": self.model.reason,
            "largest_deviation": self.model.deviation,
            "metrics": artifact.card.get("metrics"),
        }


class Repository:
    """Every loaded model. Raises StartError if one is damaged or cannot run, or if the default is not among them."""

    def __init__(self, settings: Settings, threads: int):
        self.default = settings.default_model
        self._models: dict[str, dict[int, ServedModel]] = {}
        for path in artifacts.select(settings.models, settings.versions):
            model = runtime.load(artifacts.read(path), settings.provider, threads)
            self._models.setdefault(model.artifact.name, {})[model.artifact.version] = ServedModel(model, settings)
        if self.default not in self._models:
            raise StartError(
                f"SHORTCUT_DEFAULT_MODEL={self.default}: no such model in {settings.models}; "
                f"there is {', '.join(self._models)}"
            )

    def __iter__(self) -> Iterator[ServedModel]:
        return (model for versions in self._models.values() for model in versions.values())

    def find(self, name: str | None = None, version: int | None = None) -> ServedModel:
        """The named model (or the default) in the given version (or its latest). Raises UnknownModel."""
        name = self.default if name is None else name
        versions = self._models.get(name)
        if versions is None:
            raise UnknownModel(f"no model {_shown(name)}; there is {', '.join(self._models)}")
        if version is None:
            return versions[max(versions)]
        if version not in versions:
            raise UnknownModel(f"{name} has no version {version}; there is {', '.join(map(str, sorted(versions)))}")
        return versions[version]

    def describe(self) -> dict[str, Any]:
        """The body of GET /models."""
        return {
            "default": self.default,
            "models": [
                {"name": name, "versions": [versions[v].describe() for v in sorted(versions)]}
                for name, versions in self._models.items()
            ],
        }

    def describe_model(self, name: str) -> dict[str, Any]:
        """The body of GET /models/{name}: what GET /models says of it, and the latest version's card."""
        latest = self.find(name)
        versions = self._models[name]
        return {
            "name": name,
            "default": name == self.default,
            "versions": [versions[v].describe() for v in sorted(versions)],
            "card": latest.artifact.card,
        }


def _shown(text: str) -> str:
    """Client text in a message: quoted, printable, short."""
    return ascii(text[:80])
