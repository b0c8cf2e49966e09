"""A network without its classifier, kept in a folder -> features of pictures.

ONNX Runtime computes them, several times as fast as a network that could still be trained. The folder also holds what
an artifact of this network and a new classifier is proved with (`headed.py`). Knows neither classes nor data sets.
"""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib.metadata import version
from pathlib import Path
from typing import Any

import keras
import numpy as np
import tensorflow as tf

from training.artifact.exactness import moved
from training.artifact.golden import pictures
from training.artifact.graph import as_onnx, finish_onnx, frozen
from training.artifact.reading import cpu_session
from training.artifact.unfamiliarity import with_features
from training.data.dataset import batch_for

GOLDEN = 40  # drawn pictures whose features are kept, of which an artifact takes 32
FEATURES = "features"
_STATED = "body.json"


@dataclass(frozen=True)
class Body:
    """A folder with body.onnx and body.pb, the same graph: image (N, H, W, C) uint8 -> features (N, D) float32.

    `parameters` and `macs` are those of the network without its classifier; `key` names the network and its weights.
    """

    folder: Path
    key: str
    shape: tuple[int, int, int]
    size: int
    parameters: int
    macs: int
    input: str  # the names of body.pb's tensors
    output: str

    @classmethod
    def open(cls, folder: Path) -> "Body | None":
        """The body in a folder; None where there is none, or one of another library's version."""
        try:
            stated = json.loads((folder / _STATED).read_text())
            if stated.pop("libraries") != _libraries():
                return None
            return cls(folder, **{**stated, "shape": tuple(stated["shape"])})
        except (OSError, ValueError, KeyError, TypeError):
            return None

    @classmethod
    def make(cls, model: keras.Model, folder: Path, key: str, macs: int) -> "Body":
        """Keep `model`, which ends in a Dense layer, without that layer. `macs` are those of the whole model.

        The folder appears whole, in place of what was there. Raises ExportError for another last layer.
        """
        whole = with_features(model)
        shape = tuple(model.input_shape[1:])

        @tf.function(input_signature=[tf.TensorSpec((None, *shape), tf.uint8, name="image")])
        def extract(image: tf.Tensor) -> dict[str, tf.Tensor]:
            return {FEATURES: whole(tf.cast(image, tf.float32) * tf.constant(np.float32(1 / 255)), training=False)[1]}

        size, last = int(whole.outputs[1].shape[1]), model.layers[-1]
        constants = frozen(extract)
        stated = {
            "key": key,
            "shape": list(shape),
            "size": size,
            "parameters": model.count_params() - last.count_params(),
            "macs": macs - size * int(model.output_shape[1]),
            "input": constants.inputs[0].name,
            "output": constants.outputs[0].name,
        }
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".tmp-", dir=folder.parent))
        try:
            (partial / "body.pb").write_bytes(constants.graph.as_graph_def().SerializeToString())
            finish_onnx(as_onnx(extract, "image", (FEATURES,)), partial / "body.onnx", folder.name, ())
            (partial / _STATED).write_text(json.dumps({**stated, "libraries": _libraries()}))
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        return cls(folder, **{**stated, "shape": shape})

    @property
    def has_golden(self) -> bool:
        return (self.folder / "golden.npz").exists()

    def add_golden(self, model: keras.Model) -> None:
        """Keep the features of the golden pictures, as Keras gives them, and as it gives them with moved weights."""
        whole = with_features(model)
        compute = tf.function(lambda images: whole(images, training=False)[1])
        images, part = np.stack(pictures(self.shape, GOLDEN)), batch_for(self.shape)
        weights = model.variables

        def features() -> np.ndarray:
            scaled = (tf.cast(images[i : i + part], tf.float32) / 255 for i in range(0, len(images), part))
            return np.concatenate([np.asarray(compute(batch)) for batch in scaled])

        exact = features()
        away = np.stack([features() for _ in moved(weights)])
        partial = self.folder / "golden.partial.npz"
        np.savez(partial, images=images, features=exact, moved=away)
        partial.replace(self.folder / "golden.npz")

    def golden(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """GOLDEN pictures (G, H, W, C) uint8, their features (G, D), and those with moved weights (draws, G, D)."""
        with np.load(self.folder / "golden.npz") as kept:
            return kept["images"], kept["features"], kept["moved"]

    @cached_property
    def _session(self) -> Any:
        return cpu_session(self.folder / "body.onnx")

    def features(self, images: np.ndarray, indices: Sequence[int]) -> Iterator[np.ndarray]:
        """The features (n, D) float32 of some of the images (N, H, W, C) uint8, one batch after the other."""
        batch = batch_for(self.shape)
        for i in range(0, len(indices), batch):
            yield self._session.run([FEATURES], {"image": images[list(indices[i : i + batch])]})[0]

    def graph(self) -> Callable[[tf.Tensor], tf.Tensor]:
        """The network as a part of the graph that is traced: images (N, H, W, C) uint8 -> (N, D).

        It becomes nodes of that graph. As a function of its own it would be copied three times, which takes seconds.
        """
        definition = tf.compat.v1.GraphDef.FromString((self.folder / "body.pb").read_bytes())

        def extract(image: tf.Tensor) -> tf.Tensor:
            (features,) = tf.graph_util.import_graph_def(
                definition, input_map={self.input: image}, return_elements=[self.output], name="body"
            )
            return tf.ensure_shape(features, (None, self.size))

        return extract


def key_of(*parts: str) -> str:
    """A short name for what these parts name together."""
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:16]


def _libraries() -> dict[str, str]:
    return {name: version(name) for name in ("tensorflow", "keras", "tf2onnx", "onnx")}
