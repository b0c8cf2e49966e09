"""One model without a service: a folder -> a `Predictor`, pictures or arrays -> answers. No loop, queue or deadline.

The same decoder, backends and rules as a served version's. For commands, bulk work and tests.
"""

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Literal, overload

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
from serving.repository.answers import Answer, answer
from serving.repository.decoding import to_array
from serving.repository.many import Pictures, check_array
from serving.settings import Settings

ON_CPU = Options("cpu")


class Predictor:
    """Not for two threads at once."""

    def __init__(self, model: Model, max_pixels: int = Settings.max_pixels):
        self.model = model
        self._max_pixels = max_pixels

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
        return cls(selection.faster(model, measurements, options) if model.measuring else model, max_pixels)

    @property
    def artifact(self) -> Artifact:
        return self.model.artifact

    @overload
    def predict(self, pictures: Pictures, *, partial: Literal[False]) -> list[Answer]: ...
    @overload
    def predict(self, pictures: Pictures, *, partial: Literal[True] = True) -> list[Answer | ClassifyError]: ...
    def predict(self, pictures: Pictures, *, partial: bool = True) -> Any:
        """`pictures` are files, or an array (N, H, W, C) uint8 of the model's own H, W and C. An answer for each, in
        order; with `partial`, a picture that cannot be decoded has its error in its place, else the first is raised.
        """
        if isinstance(pictures, np.ndarray):
            check_array(pictures, self.artifact)
        outcomes: list[Answer | ClassifyError] = []
        for start in range(0, len(pictures), MAX_BATCH):
            outcomes += self._batch(pictures[start : start + MAX_BATCH], partial)
        return outcomes

    def _batch(self, pictures: Sequence[bytes] | np.ndarray, partial: bool) -> Iterator[Answer | ClassifyError]:
        decoded = [self._decode(picture, partial) for picture in pictures]
        images = [one[0] for one in decoded if not isinstance(one, ClassifyError)]
        rows = iter(self.model.rows(np.stack(images)) if images else ())
        for one in decoded:
            if isinstance(one, ClassifyError):
                yield one
            else:
                image, doubt = one
                yield answer(self.artifact, next(rows), doubt, image)

    def _decode(self, picture: bytes | np.ndarray, partial: bool) -> tuple[np.ndarray, str | None] | ClassifyError:
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
