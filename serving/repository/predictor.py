"""One model without a service: a folder -> a `Predictor`, pictures or arrays -> answers. No loop, queue or deadline.

The same decoder, backends and rules as a served version's. For commands, bulk work and tests.
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, TypeAlias, overload

import numpy as np

from serving import artifacts
from serving.artifacts import Artifact
from serving.engine import selection
from serving.engine.batching import MAX_BATCH
from serving.engine.measurements import Measurements
from serving.engine.selection import Model, Options
from serving.errors import ClassifyError, StartError
from serving.images.picture import Picture
from serving.images.png import plain_png
from serving.repository.answers import Answer, answer, threshold_of
from serving.repository.decoding import to_array
from serving.repository.many import Pictures, check_array
from serving.settings import Settings

ON_CPU = Options("cpu")
_Decoded: TypeAlias = tuple[np.ndarray, str | None] | ClassifyError  # an image and the decoder's doubt


class Predictor:
    """Not for two threads at once. `faster` finds another backend where the pictures ask for it."""

    def __init__(
        self,
        model: Model,
        max_pixels: int = Settings.max_pixels,
        faster: Callable[[Model], Model] | None = None,
    ):
        self.model = model
        self._max_pixels = max_pixels
        self._faster = faster

    @classmethod
    def open(
        cls,
        path: Path | str,
        *,
        options: Options = ON_CPU,
        measurements: Measurements | None = None,
        max_pixels: int = Settings.max_pixels,
    ) -> "Predictor":
        """`path` is a version's folder, models/<name>/<version>, or a model's, of which the latest version is meant.

        By default ONNX Runtime computes, on one core. Where `options` allow more than one backend, the fastest is
        taken, and measured if `measurements` do not know it yet. Raises StartError for a damaged artifact, or a
        provider that is not to be had.
        """
        artifact = artifacts.read(_version(Path(path)))
        measurements = measurements or Measurements(Settings.cache)
        model = selection.load(artifact, measurements, options)
        faster = functools.partial(selection.faster, measurements=measurements, options=options)
        return cls(faster(model) if model.measuring else model, max_pixels, faster)

    @property
    def artifact(self) -> Artifact:
        return self.model.artifact

    @overload
    def predict(
        self, pictures: Pictures, *, partial: Literal[False], min_probability: float | str | None = None
    ) -> list[Answer]: ...
    @overload
    def predict(
        self, pictures: Pictures, *, partial: Literal[True] = True, min_probability: float | str | None = None
    ) -> list[Answer | ClassifyError]: ...
    def predict(self, pictures: Pictures, *, partial: bool = True, min_probability: float | str | None = None) -> Any:
        """`pictures` are files, or an array (N, H, W, C) uint8 of the model's own H, W and C. An answer for each, in
        order; with `partial`, a picture that cannot be decoded has its error in its place, else the first is raised.
        A less exact backend computes again what is close to `min_probability`, which is as for `answers.rank`.
        """
        if isinstance(pictures, np.ndarray):
            check_array(pictures, self.artifact)
        outcomes: list[Answer | ClassifyError] = []
        for decoded, batch in self._batches(pictures, partial, min_probability):
            rows = iter(batch)
            outcomes += [
                one if isinstance(one, ClassifyError) else answer(self.artifact, next(rows), one[1], one[0])
                for one in decoded
            ]
        return outcomes

    def rows(
        self, pictures: Pictures, min_probability: float | str | None = None
    ) -> tuple[list[np.ndarray], list[str | ClassifyError | None]]:
        """`predict` without an object a picture, for `answers.rank_all`: arrays (N, K) or (N, K + 1) float32 with a row
        for each picture that can be decoded; and for every picture the decoder's doubt, or its error."""
        batches: list[np.ndarray] = []
        notes: list[str | ClassifyError | None] = []
        for decoded, rows in self._batches(pictures, True, min_probability):
            if len(rows):
                batches.append(rows)
            notes += [one if isinstance(one, ClassifyError) else one[1] for one in decoded]
        return batches, notes

    def _batches(
        self, pictures: Pictures, partial: bool, min_probability: float | str | None
    ) -> Iterator[tuple[list[_Decoded], np.ndarray]]:
        """Each batch as it was decoded, and the rows of those of its pictures that could be."""
        for start in range(0, len(pictures), MAX_BATCH):
            decoded = [self._decode(picture, partial) for picture in pictures[start : start + MAX_BATCH]]
            images = [one[0] for one in decoded if not isinstance(one, ClassifyError)]
            thresholds = None
            if min_probability is not None:
                thresholds = np.full(len(images), threshold_of(self.artifact.card, min_probability))
            yield decoded, self.model.rows(np.stack(images), thresholds) if images else np.empty((0, 0))
        if self._faster is not None and self.model.unsuited:
            self.model = self._faster(self.model)

    def _decode(self, picture: bytes | np.ndarray, partial: bool) -> _Decoded:
        if isinstance(picture, np.ndarray):
            return picture, None
        artifact = self.artifact
        try:
            array = plain_png(picture, artifact.input_shape, artifact.input_convention, artifact.resize_to)
            if array is not None:
                return array, None
            return to_array(Picture.open(picture, self._max_pixels), artifact)
        except ClassifyError as err:
            if not partial:
                raise
            return err


def _version(path: Path) -> Path:
    """The version's folder that `path` is, or the latest in it."""
    if (path / "model.onnx").is_file():
        return path
    if not path.is_dir():
        raise StartError(f"{path}: no such folder of a model")
    versions = artifacts.versions_of(path)
    if not versions:
        raise StartError(f"{path}: holds neither model.onnx nor a version's folder, as 1 or 20")
    return versions[0]
