"""All served models of one process: names and versions -> a warm model, its decoder and its queue.

Loads what `artifacts` selects through `runtime`; answers which model a request means. Knows nothing of HTTP.
"""

import asyncio
import json
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from serving import artifacts, runtime
from serving.batching import Batcher, Job
from serving.choices import Choices
from serving.errors import DeadlineExceeded, StartError, UnknownModel
from serving.images import open_image, plain_png, to_array
from serving.settings import Settings
from serving.telemetry import Meter, Stage

Prediction = dict[str, Any]

INLINE_PIXELS = 128 * 128  # up to this, decoding costs less than waking a thread
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
        self._start = _json({"model": self.artifact.name, "version": self.artifact.version})[:-1] + ',"predictions":['
        self._labels = [
            _json({"label": label, "index": i})[:-1] + ',"probability":' for i, label in enumerate(self.artifact.labels)
        ]
        self._meter = Meter(self.artifact.name, self.artifact.version)
        self.batcher = Batcher(
            model.run,
            ThreadPoolExecutor(1, thread_name_prefix=model.name),
            self._meter,
            image_seconds=model.image_seconds,
            queue=settings.queue,
            deadline_seconds=settings.deadline_ms / 1000,
        )
        self._meter.loaded(model.provider, model.way.precision, self.batcher.__len__)

    def decode_now(self, data: bytes) -> np.ndarray | None:
        """A small upload's bytes as this model's input (H, W, C) uint8; None for one that takes longer than waking a
        thread. Raises what images.decode_image raises."""
        artifact = self.artifact
        if len(data) > INLINE_BYTES:
            return None
        started = time.perf_counter()
        array = plain_png(data, artifact.input_shape, artifact.input_convention)
        if array is None:
            image = open_image(data, self._settings.max_pixels)
            if image.width * image.height > INLINE_PIXELS:
                return None
            array = self._to_array(image)
        self._meter.decoded(time.perf_counter() - started)
        return array

    async def decode(self, data: bytes) -> np.ndarray:
        """The same for any upload; a large one is decoded beside the event loop (Pillow releases the GIL).

        Raises DeadlineExceeded too, for one that had to wait too long for its turn.
        """
        array = self.decode_now(data)
        if array is None:
            started = time.perf_counter()
            array = await asyncio.get_running_loop().run_in_executor(_DECODERS, self._decode, data, started)
            self._meter.decoded(time.perf_counter() - started)
        return array

    def _decode(self, data: bytes, queued: float) -> np.ndarray:
        if time.perf_counter() - queued > self._settings.deadline_ms / 1000:
            raise DeadlineExceeded(f"not decoded within {self._settings.deadline_ms} ms")
        return self._to_array(open_image(data, self._settings.max_pixels))

    def _to_array(self, image: Image.Image) -> np.ndarray:
        artifact = self.artifact
        return to_array(image, artifact.input_shape, artifact.input_convention, artifact.resample)

    def submit(self, image: np.ndarray, done: Callable[[Job], None]) -> Job:
        """Queue one decoded image; `done` gets its job once the answer is there. Raises Overloaded."""
        return self.batcher.submit(image, done)

    async def classify(self, images: Sequence[np.ndarray]) -> list[Job]:
        """The answered job of each decoded image, in order. Raises Overloaded or DeadlineExceeded."""
        return await self.batcher.classify(images)

    def rank(self, probabilities: np.ndarray, top_k: int) -> list[Prediction]:
        """The `top_k` most probable classes of (K,) probabilities, best first; ties by index."""
        labels = self.artifact.labels
        return [{"label": labels[i], "index": i, "probability": p} for i, p in _best(probabilities, top_k)]

    def body(self, probabilities: np.ndarray, top_k: int) -> bytes:
        """The JSON of POST /classify: as json.dumps of `rank` would write it, in half the time."""
        ranked = ",".join([f"{self._labels[i]}{p!r}}}" for i, p in _best(probabilities, top_k)])
        return f"{self._start}{ranked}]}}".encode()

    def describe(self) -> dict[str, Any]:
        artifact = self.artifact
        return {
            "version": artifact.version,
            "labels": list(artifact.labels),
            "input_shape": list(artifact.input_shape),
            "input_convention": artifact.input_convention,
            "provider": self.model.provider,
            "precision": self.model.way.precision,
            "provider_reason": self.model.reason,
            "images_per_second": round(1 / self.model.image_seconds, 1),
            "largest_deviation": self.model.deviation,
            "metrics": artifact.card.get("metrics"),
        }


def verify(settings: Settings, threads: int, choices: Choices) -> Iterator[str]:
    """In the parent, before any worker: read every artifact and decide how it will run; yields a line for each.

    Raises StartError for what would stop a Repository.
    """
    for path in _selected(settings):
        yield runtime.choose(artifacts.read(path), choices, settings.provider, settings.precision, threads)


def _selected(settings: Settings) -> list[Path]:
    paths = artifacts.select(settings.models, settings.versions)
    names = dict.fromkeys(path.parent.name for path in paths)
    if settings.default_model not in names:
        raise StartError(
            f"SHORTCUT_DEFAULT_MODEL={settings.default_model}: no such model in {settings.models}; "
            f"there is {', '.join(names)}"
        )
    return paths


class Repository:
    """Every loaded model. Raises StartError if one is damaged or cannot run, or if the default is not among them."""

    def __init__(self, settings: Settings, threads: int, choices: Choices):
        self.default = settings.default_model
        self._models: dict[str, dict[int, ServedModel]] = {}
        for path in _selected(settings):
            model = runtime.load(artifacts.read(path), choices, settings.provider, settings.precision, threads)
            self._models.setdefault(model.artifact.name, {})[model.artifact.version] = ServedModel(model, settings)

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


def stages(decoding: float, job: Job) -> list[Stage]:
    """Where the time of an answered image went; `decoding` began at that moment."""
    return [
        Stage("decode", decoding, job.queued),
        Stage("queue", job.queued, job.taken),
        Stage("compute", job.taken, job.computed),
    ]


def _best(probabilities: np.ndarray, top_k: int) -> list[tuple[int, float]]:
    """(index, probability rounded to 6 digits), the most probable first; ties by index."""
    values = probabilities.tolist()
    if values[0] != values[0]:  # NaN, which is no JSON; a softmax has it everywhere or nowhere
        raise ArithmeticError("the model's probabilities are not numbers")
    if top_k == 1:
        best = [values.index(max(values))]
    else:
        best = sorted(range(len(values)), key=values.__getitem__, reverse=True)[:top_k]
    return [(i, round(values[i], 6)) for i in best]


def _json(content: Any) -> str:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":"))


def _shown(text: str) -> str:
    """Client text in a message: quoted, printable, short."""
    return ascii(text[:80])
