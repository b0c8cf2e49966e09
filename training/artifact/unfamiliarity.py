"""Features of training pictures -> how far a new picture is from them, as a part of the served graph.

A softmax is sure of what it has never seen; a distance between features is not (Lee et al. 2018, 1807.03888). Two are
known here. Where the training pictures determine a covariance it is Mahalanobis' distance to the nearest class, with
one shrunk covariance for all classes. Elsewhere, with a pretrained network's many features of few pictures, it is one
minus the cosine to the nearest class' mean. Knows features, labels and thresholds; neither pictures nor trainings.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import keras
import numpy as np
import tensorflow as tf

from training.artifact.errors import ExportError
from training.artifact.trust import wilson_interval
from training.data.dataset import independent

OUTPUT = "unfamiliarity"
FALSE_ALARMS = 0.05  # the share of the model's own pictures that may be called unfamiliar
LIMIT = 1e-3  # how far two float32 forms may be apart, as a fraction, where rounding does not move it by more
MOST = 1e-2  # a limit above this would let wrong graphs pass
_DETERMINED = 8  # training pictures for each feature, from which on a covariance is known well enough
_FLAT = 1e-4  # of the largest variance: a direction in which training pictures vary by less counts as if by that


@dataclass(frozen=True)
class Distance:
    """A fitted one: (N, D) features -> (N,) float32, higher where a picture is less like any class.

    `centroids` is (classes, R). For Mahalanobis' distance R is D, and they stand in the space of z = features @
    `projection` (D, R) + `offset` (R,), in which the classes are round. The cosine needs neither of the two.
    """

    method: Literal["mahalanobis", "cosine"]
    projection: np.ndarray
    offset: np.ndarray
    centroids: np.ndarray

    def __call__(self, features: tf.Tensor) -> tf.Tensor:
        """A matrix product or two, so that it costs next to nothing beside a network."""
        x = tf.cast(features, tf.float32)
        if self.method == "cosine":
            cosines = tf.matmul(x, self.centroids, transpose_b=True)
            lengths = tf.sqrt(tf.reduce_sum(x * x, axis=1) + np.float32(1e-12))
            return 1 - tf.reduce_max(cosines, axis=1) / lengths
        z = tf.matmul(x, self.projection) + self.offset
        # |z - m|² = |z|² - 2 z·m + |m|², of which the first part is the same for every class
        nearest = tf.reduce_max(tf.matmul(z, 2 * self.centroids, transpose_b=True) - _squares(self.centroids), axis=1)
        return tf.sqrt(tf.nn.relu(tf.reduce_sum(z * z, axis=1) - nearest) / self.projection.shape[1])


def fit(features: np.ndarray, targets: np.ndarray, method: str | None = None) -> Distance:
    """The distance to the classes of training pictures: features (N, D), targets (N,) int. `method` is chosen by their
    number where it is not named.

    Raises ValueError where features are no finite numbers.
    """
    if not np.isfinite(features).all():
        raise ValueError("the features of training pictures are no finite numbers")
    features = features.astype(np.float64)
    classes = np.unique(targets)
    means = np.stack([features[targets == k].mean(axis=0) for k in classes])
    centre = means.mean(axis=0)
    if (method or _method(features)) == "cosine":
        directions = means / np.maximum(np.linalg.norm(means, axis=1, keepdims=True), 1e-12)
        return Distance("cosine", np.zeros((0, 0), np.float32), np.zeros(0, np.float32), _single(directions))
    from sklearn.covariance import ledoit_wolf  # a model from elsewhere is published without scikit-learn

    residuals = features - means[np.searchsorted(classes, targets)]
    # Shrunk are the correlations: towards one variance for all, narrow features would count for almost nothing.
    widths = residuals.std(axis=0)
    widths = np.maximum(widths, max(_FLAT * widths.max(), 1e-12))
    correlations, _ = ledoit_wolf(residuals / widths, assume_centered=True)
    variances, directions = np.linalg.eigh(correlations)
    projection = directions / np.sqrt(np.maximum(variances, _FLAT * variances[-1])) / widths[:, None]
    return Distance(
        "mahalanobis", *(_single(a) for a in (projection, -centre @ projection, (means - centre) @ projection))
    )


def _method(features: np.ndarray) -> str:
    return "cosine" if len(features) < _DETERMINED * features.shape[1] else "mahalanobis"


def _single(values: np.ndarray) -> np.ndarray:
    return values.astype(np.float32)


def _squares(rows: np.ndarray) -> np.ndarray:
    return (rows * rows).sum(axis=1)


def with_features(model: keras.Model) -> keras.Model:
    """`model` with a second output: the features (N, D) that its last layer, a matrix product, takes.

    Raises ExportError for another last layer.
    """
    last = model.layers[-1]
    if not isinstance(last, keras.layers.Dense) or len(last.input.shape) != 2:
        raise ExportError(f"unfamiliarity takes a model that ends in a Dense layer, got {type(last).__name__}")
    return keras.Model(model.inputs, [model.outputs[0], last.input], name=f"{model.name}_with_features")


def threshold(values: np.ndarray) -> float:
    """The least value that at most FALSE_ALARMS of the validation pictures' values (N,) are above."""
    return float(np.quantile(values, 1 - FALSE_ALARMS, method="higher"))


def stated(distance: Distance, values: np.ndarray, test: np.ndarray, groups: Sequence[str] = ()) -> dict[str, Any]:
    """The card's `unfamiliarity`, from the values of validation (N,) and test pictures (M,).

    `share` of the validation pictures are above the threshold. `interval` holds that of all such pictures with 95 %
    certainty: it is wide where there are few, or few `groups` (N,) of validation pictures that belong together.
    `test_share` is that of the test pictures.
    """
    limit = threshold(values)
    share = float((values > limit).mean())
    return {
        "threshold": limit,
        "share": share,
        "interval": wilson_interval(share, independent(groups) if len(groups) else len(values)),
        "test_share": float((test > limit).mean()),
        "method": distance.method,
        "features": int(distance.centroids.shape[1]),
        "validation": len(values),
    }


def scale_of(reference: np.ndarray) -> np.ndarray:
    """What differences from golden values (n,) are divided by: their sizes, or the median of those close to 0.

    The service compares alike (`serving/engine/exactness.py`).
    """
    size = np.abs(reference.astype(np.float64))
    return np.maximum(size, max(float(np.median(size)), 1e-12))
