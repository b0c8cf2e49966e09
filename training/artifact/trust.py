"""How far a measured accuracy can be trusted: its interval, and warnings that say what to do. Knows only answers."""

from collections.abc import Sequence

import numpy as np

from training.data.dataset import independent

GAP = 0.2  # of accuracy between training and test images
FEW = 200  # test images: below, the interval spans more than ten points


def wilson_interval(share: float, count: float, z: float = 1.96) -> tuple[float, float]:
    """The 95 % interval of a share that was measured on `count` images (Wilson 1927)."""
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * np.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return float(max(0.0, centre - half)), float(min(1.0, centre + half))


def by_class(
    targets: np.ndarray, predicted: np.ndarray, labels: Sequence[str], groups: Sequence[str] = ()
) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Header and rows: each class with its images, recall and precision, and the 95 % intervals of both.

    `targets` and `predicted` (N,) are true classes and answers. Images of one of the `groups` (N,) count as one in the
    intervals; it may be empty.
    """

    def share(right: int, count: int, groups: int) -> str:
        if not count:
            return "–"
        low, high = wilson_interval(right / count, groups)
        return f"{right / count:.4f} ({low:.2f} to {high:.2f})"

    def row(k: int) -> tuple[str, ...]:
        right = int(((targets == k) & (predicted == k)).sum())
        places = [np.flatnonzero(answers == k) for answers in (targets, predicted)]
        seen = [independent([groups[i] for i in of.tolist()]) if len(groups) else len(of) for of in places]
        shares = (share(right, len(of), count) for of, count in zip(places, seen, strict=True))
        return (labels[k], f"{len(places[0]):,}", *shares)

    rows = [row(k) for k in range(len(labels))]
    return ("class", "images", "right of its images (recall)", "right of its answers (precision)"), rows


WHOLE = "train the whole network, without --quick"  # what is better where a classifier alone was trained


def warnings_of(
    probabilities: np.ndarray,
    targets: np.ndarray,
    labels: Sequence[str],
    train_accuracy: float,
    groups: int = 0,
    *,
    quick: bool = False,
    augmented: bool = False,
) -> list[str]:
    """What makes these answers doubtful, one sentence each with what to do.

    `probabilities` (N, K) and `targets` (N,) are of the test split; `train_accuracy` is that of the published epoch.
    `groups` says how many groups the test images make, if they belong together; 0 where each stands alone.
    `quick` is whether a classifier alone was trained, `augmented` whether the network learnt from changed copies.
    """
    longer = WHOLE if quick else "train for more epochs" + ("" if augmented else " or with --recipe augmented")
    shorter = f"or {WHOLE}" if quick else "or train for fewer epochs"
    shorter = shorter if quick or augmented else f"let --recipe augmented change them, {shorter}"
    predicted = probabilities.argmax(axis=1)
    accuracy, count = float((predicted == targets).mean()), len(targets)
    most_frequent = float(np.bincount(targets).max()) / count
    low, high = wilson_interval(accuracy, groups or count)
    warnings = []
    if low <= most_frequent < accuracy:
        warnings.append(
            f"an accuracy of {accuracy:.1%} on {count} test images may be luck: always answering the most frequent "
            f"class reaches {most_frequent:.1%}, and the accuracy may be as low as {low:.1%}. Add test images"
        )
    elif accuracy <= most_frequent:
        warnings.append(
            f"an accuracy of {accuracy:.1%} is no better than always answering the most frequent class "
            f"({most_frequent:.1%}): {longer}, check the labels, or add images"
        )
    if train_accuracy - accuracy > GAP:
        warnings.append(
            f"it is right on {train_accuracy:.1%} of the training images but on {accuracy:.1%} of the test images: "
            f"add images, {shorter}"
        )
    never = [label for k, label in enumerate(labels) if (targets == k).any() and not (predicted == k).any()]
    if never:
        warnings.append(
            f"it never answers {', '.join(never[:10])}{' …' if never[10:] else ''}: "
            "add images of it or look whether they differ from another class at all"
        )
    right = [int((predicted[targets == k] == k).sum()) for k in range(len(labels))]
    of = [int((targets == k).sum()) for k in range(len(labels))]
    low_classes = [
        (label, right[k] / of[k])
        for k, label in enumerate(labels)
        if of[k] and label not in never and wilson_interval(right[k] / of[k], of[k])[1] < accuracy - GAP / 2
    ]
    if low_classes:
        worst = sorted(low_classes, key=lambda one: one[1])
        worst_names = ", ".join(f"{label} ({share:.0%})" for label, share in worst[:10]) + (" …" if worst[10:] else "")
        warnings.append(
            f"far below the others: {worst_names}; look whether these labels are right, add pictures of them, "
            f"or {WHOLE if quick else 'train longer'}"
        )
    if (groups or count) < FEW:
        seen, more = (f"{groups} groups of", "groups of them") if groups else (f"{count}", "test images")
        warnings.append(
            f"{seen} test images are few: the accuracy lies between {low:.1%} and {high:.1%} (95 %); add {more}"
        )
    return warnings
