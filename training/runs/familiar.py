"""A trained model and its pictures -> the distance that tells unfamiliar ones, and what the card says of it.

Fitted on training pictures; validation pictures name the threshold and are what a service compares its own stream with.
"""

from typing import Any

import keras
import numpy as np

from training.artifact.errors import ExportError
from training.artifact.reference import reference
from training.artifact.unfamiliarity import OUTPUT, Distance, fit, stated, with_features
from training.data.dataset import Dataset
from training.runs.epochs import batches_of
from training.runs.parts import Part, validation_groups

MOST = 5000  # pictures of each part that are looked at: more change a distance by less than its threshold is known by


def familiar(
    model: keras.Model, data: Dataset, train: Part, validation: Part, seed: int
) -> tuple[Distance | None, dict[str, Any]]:
    """The distance, and the card's `unfamiliarity` and `reference`.

    There is neither where the test split is also the validation: the figures would speak of the pictures that chose
    them. There is no distance for a model that ends in no Dense layer.
    """
    if validation[0] is data.x_test:
        return None, {}
    try:
        whole = with_features(model)
    except ExportError:
        return None, {}
    classes = len(data.labels)
    (_, features), (answers, held_out), (_, others) = (
        whole.predict(batches_of(*part, classes), verbose=0)
        for part in (_some(part, seed) for part in (train, validation, (data.x_test, data.y_test)))
    )
    groups = np.array(validation_groups(data, len(validation[1])), object)
    try:
        distance = fit(features, _some(train, seed)[1])
    except ValueError:  # no numbers: the export says so of the answers, too
        return None, {}
    values, test = (np.asarray(distance(rows)) for rows in (held_out, others))
    unfamiliarity = stated(distance, values, test, groups[_chosen(len(groups), seed)])
    return distance, {
        OUTPUT: unfamiliarity,
        "reference": reference(answers, data.labels, values, unfamiliarity["threshold"]),
    }


def _some(part: Part, seed: int) -> Part:
    """MOST of the pictures, drawn from the seed; all where there are fewer."""
    images, targets = part
    if len(targets) <= MOST:
        return part
    chosen = _chosen(len(targets), seed)
    return images[chosen], targets[chosen]


def _chosen(count: int, seed: int) -> np.ndarray:
    return np.sort(np.random.default_rng(seed).permutation(count)[:MOST])
