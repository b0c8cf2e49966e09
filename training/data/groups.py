"""Which pictures belong together: frames of one film, shots of one patient. They stay in one split.

Frames on both sides of a split make accuracy a matter of memory. Knows names and folders, opens no picture.
"""

import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from training.data.dataset import named
from training.data.splits import TEST_FRACTION, split, spread

_NUMBERED = re.compile(r"(.*\w)[\s._-]+\d+|(.*[^\W\d])\d+")  # film3_0012, film three 12, frame12
FEWEST = 3  # groups of a class, and pictures of a group on average: fewer name a camera or a class, not a film

Group = str | None  # None: alone


def by_folder(files: Sequence[tuple[Path, int]], classes: Sequence[Sequence[Path]]) -> list[Group]:
    """The folder inside of its class' folder that each file is in; `classes` are the folders of each class."""
    return [
        next((_inside(file, folder) for folder in classes[label] if file.is_relative_to(folder)), None)
        for file, label in files
    ]


def _inside(file: Path, folder: Path) -> Group:
    return str(file.parent) if file.parent != folder else None


def by_name(files: Sequence[tuple[Path, int]]) -> list[Group]:
    """What stands before the number at the end of each name, where it seems to name a film: every class has FEWEST of
    them at least, with FEWEST pictures on average. Else nothing belongs together."""
    found = [_NUMBERED.fullmatch(file.stem) for file, _ in files]
    groups = [f"{file.parent}/{m[1] or m[2]}" if m else None for (file, _), m in zip(files, found, strict=True)]
    of_class: dict[int, Counter[Group]] = {}
    for (_, label), group in zip(files, groups, strict=True):
        of_class.setdefault(label, Counter())[group] += 1
    for counts in of_class.values():
        if None in counts or len(counts) < FEWEST or counts.total() < FEWEST * len(counts):
            return [None] * len(files)
    return groups


def split_groups(targets: np.ndarray, groups: Sequence[Group], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As `splits.split`, but a group is on one side: whole groups until TEST_FRACTION of each class is set aside.

    The last group of a class stays for training. Pictures without a group are groups of their own.
    """
    if not any(groups):
        return split(targets, seed)
    rng = np.random.default_rng(seed)
    index = np.unique(named(groups, len(groups)), return_inverse=True)[1]
    aside: set[int] = set()
    for k in np.unique(targets):
        sizes = Counter(index[targets == k].tolist())
        wanted = max(1, round(sizes.total() * TEST_FRACTION))
        have, left = sum(sizes[g] for g in aside), len([g for g in sizes if g not in aside])
        for group in rng.permutation([g for g in sizes if g not in aside]).tolist():
            if have >= wanted or left < 2:
                break
            aside.add(group)
            have, left = have + sizes[group], left - 1
    test = np.isin(index, list(aside))
    train = np.flatnonzero(~test)
    return train[spread(targets[train], rng)], rng.permutation(np.flatnonzero(test))
