"""Cross-fitted answers -> an accuracy that all pictures measure, and the pictures whose labels they doubt.

A test of a hundred pictures tells an accuracy to ten points. Folds on fixed features measure with every picture, in
seconds. They also find wrong labels: an answer that is as sure of another class as that class' own pictures usually are
(Northcutt et al. 2021, "Confident Learning", 1911.00068, section 3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from training.artifact.calibration import threshold
from training.artifact.trust import wilson_interval
from training.data.dataset import Dataset, independent, named
from training.data.rows import write_csv
from training.recipes.recipe import Recipe
from training.runs.features import features_of, pretrained_body
from training.runs.linear import FOLDS, cross_fitted, folds_of

MOST = 1000  # pictures: a test split of more than a fifth of them measures well
LEAST = 20
# The share of pictures with doubted labels that is warned of. On ten sets of CIFAR-10's features it was at most 0.105
# with the right labels, and 0.13 to 0.29 where a fifth of them was wrong.
MANY = 0.12
# The folds' classifiers learn from the same pictures, so their answers are no independent trials: the variance is this
# many times as large (Nadeau & Bengio 2003, "Inference for the generalization error", section 3.3: 1/J + n2/n1 in place
# of 1/J, for J folds). In 60 draws of 15 drawn films the accuracy on other films was in the interval in 95 %, without
# this in 83 %; in 60 draws of 30 single pictures in 98 %, without it in 78 %.
SHARED = 1 + FOLDS / (FOLDS - 1)
SHOWN = 5  # doubted pictures that are printed
DOUBTED = "doubted.csv"  # of a run's folder: all of them


@dataclass(frozen=True)
class Folds:
    """Cross-fitted answers (N, K) to pictures with targets (N,), and which of those belong together.

    `groups` is as in `judged`. `doubted` holds indices of pictures, the most doubtful first; of pictures that belong
    together one comes before those that stand for nothing new.
    """

    answers: np.ndarray
    targets: np.ndarray
    groups: tuple[str, ...]
    doubted: tuple[int, ...]

    @property
    def together(self) -> int:
        """How many of the pictures are independent of each other; a film of many frames counts once."""
        return independent(self.groups) if self.groups else len(self.targets)

    @property
    def stated(self) -> dict[str, Any]:
        """The card's `folds`: the accuracy, its 95 % interval, the pictures, and the share of doubted labels."""
        accuracy = float((self.answers.argmax(axis=1) == self.targets).mean())
        return {
            "accuracy": accuracy,
            "interval": wilson_interval(accuracy, self.together / SHARED),
            "pictures": len(self.targets),
            **({"groups": self.together} if any(self.groups) else {}),
            "doubted": round(len(self.doubted) / len(self.targets), 4),
        }

    @property
    def warnings(self) -> list[str]:
        if len(self.doubted) <= MANY * len(self.targets):
            return []
        return [
            f"the folds doubt the labels of {len(self.doubted):,} of {len(self.targets):,} pictures: either many of "
            "them are wrong, or some classes look alike. Look at the pictures that the report lists"
        ]

    @property
    def threshold(self) -> dict[str, Any] | None:
        """The answers that can be relied on, as a card states them."""
        return threshold(self.answers, self.targets, self.groups)

    def told(self, labels: Sequence[str], files: Sequence[Path], folder: Path) -> str:
        """What the user reads: the accuracy, and the first of the doubted pictures. `folder` holds DOUBTED."""
        stated = self.stated
        low, high = stated["interval"]
        of = f" of {stated['groups']:,} groups" if "groups" in stated else ""
        lines = [
            f"by {FOLDS} folds on fixed features: accuracy {stated['accuracy']:.4f} ({low:.3f} to {high:.3f} with 95 % "
            f"certainty, {stated['pictures']:,} images{of})"
        ]
        if self.doubted and files:
            lines.append(
                f"labels in doubt: {len(self.doubted):,} pictures, all listed in {folder / DOUBTED}. The first:"
            )
            for i in self.doubted[:SHOWN]:
                answer = int(self.answers[i].argmax())
                lines.append(f"  {_name(files[i])}: is it {labels[self.targets[i]]}, or {labels[answer]}?")
        return "\n".join(lines + [f"warning: {text}" for text in self.warnings])

    def listed(
        self, labels: Sequence[str], files: Sequence[Path] = (), places: np.ndarray | None = None
    ) -> list[dict[str, Any]]:
        """The doubted pictures for a run's record: where they are among all pictures, and which class they look like.

        `files` (N,) are these pictures' own, and empty for arrays. `places` (N,) says where each of these pictures is
        among all, if these are not the first ones.
        """
        return [
            {
                "picture": int(i if places is None else places[i]),
                **({"file": _name(files[i])} if files else {}),
                "label": labels[self.targets[i]],
                "looks_like": labels[int(self.answers[i].argmax())],
                "probability_of_label": round(float(self.answers[i, self.targets[i]]), 4),
            }
            for i in self.doubted
        ]

    def write(self, folder: Path, labels: Sequence[str], files: Sequence[Path]) -> None:
        """Write all doubted pictures to DOUBTED in a run's folder, the most doubtful first. Nothing if none is."""
        if not self.doubted or not files:
            return
        listed = self.listed(labels, files)
        columns = [key for key in listed[0] if key != "picture"]
        rows = (
            [str(files[i]) if key == "file" else row[key] for key in columns]
            for row, i in zip(listed, self.doubted, strict=True)
        )
        write_csv(folder / DOUBTED, columns, rows)


def _name(file: Path) -> str:
    """As text: bytes that are no UTF-8 are shown as what they are."""
    return str(file).encode(errors="surrogateescape").decode(errors="backslashreplace")


def judged(answers: np.ndarray, targets: np.ndarray, groups: Sequence[str] = ()) -> Folds:
    """What cross-fitted answers (N, K) tell of pictures with targets (N,) and `groups` ("" alone; may be empty)."""
    own = answers[np.arange(len(targets)), targets]
    usual = np.array([own[targets == k].mean() if (targets == k).any() else np.inf for k in range(answers.shape[1])])
    as_sure = np.where(answers >= usual, answers, 0.0)
    best = answers.argmax(axis=1)
    doubted = np.flatnonzero((as_sure.max(axis=1) > 0) & (as_sure.argmax(axis=1) != targets) & (best != targets))
    order = doubted[np.argsort(own[doubted], kind="stable")]
    ordered: list[int] = order.tolist()
    every = named(groups, len(targets))
    names = [every[i] for i in ordered]
    first = dict(reversed(list(zip(names, ordered, strict=True))))
    others = [i for name, i in zip(names, ordered, strict=True) if first[name] != i]
    return Folds(answers, targets, tuple(groups), (*sorted(first.values(), key=ordered.index), *others))


def examined(recipe: Recipe, data: Dataset, runs: Path) -> Folds | None:
    """The folds over all pictures, on features of the recipe's network as it begins; in the order of `data.files`.

    None for more than MOST pictures or fewer than LEAST, for arrays, and for a network that begins with nothing. None,
    too, where mirrored copies are left out: a network that learnt from mirrored pictures, as ImageNet's did, hardly
    tells left from right before it is trained, and would doubt half of the labels.
    """
    count = len(data.x_train) + len(data.x_test)
    if not (data.files and recipe.weights and LEAST <= count <= MOST):
        return None
    if "flip" not in recipe.augmentation:
        print(
            "no folds: mirrored copies are left out, and a network's fixed features hardly tell left from right",
            flush=True,
        )
        return None
    body = pretrained_body(recipe, data.input_shape, runs)
    features = np.concatenate([features_of(body, images) for images in (data.x_train, data.x_test)])
    targets = np.concatenate([data.y_train, data.y_test])
    folds = folds_of(targets, data.groups, recipe.seed)
    every = np.ones(count, bool)
    answers, _ = cross_fitted(features, targets, len(data.labels), folds, every, recipe.class_weights)
    return judged(answers, targets, data.groups)
