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

_NUMBERED = re.compile(r"(.*\w)[\s._-]+(\d+)|(.*[^\W\d])(\d+)")  # film3_0012, film three 12, frame12
FEWEST = 3  # films of a class, and pictures of a film: fewer name a camera or a class, unless the films are numbered
MOST = 0.9  # share of a class that one film may hold: more of it is the class itself, or one camera
STATE = "put each film's pictures into a folder inside of its class, or name its CSV `group`"

Group = str | None  # None: alone


def by_folder(files: Sequence[tuple[Path, int]], classes: Sequence[Sequence[Path]]) -> list[Group]:
    """The folder inside of its class' folder that each file is in; `classes` are the folders of each class."""
    return [
        next((_inside(file, folder) for folder in classes[label] if file.is_relative_to(folder)), None)
        for file, label in files
    ]


def _inside(file: Path, folder: Path) -> Group:
    return str(file.parent) if file.parent != folder else None


def by_name(files: Sequence[tuple[Path, int]]) -> tuple[list[Group], list[str]]:
    """What stands before the number at the end of each name, where it seems to name a film; and what looks like films
    and is left apart, for a note. A file without a number stands alone.

    Films without a number of their own, as `park_01`, are found where every class has two and one has FEWEST: they may
    as well be cameras. Films that are numbered, as `film3_01`, are found in each class that has two.
    """
    groups_by_name: list[Group] = []
    numbers: dict[str, list[int]] = {}
    of_class: dict[int, Counter[Group]] = {}
    for file, label in files:
        m = _NUMBERED.fullmatch(file.stem)
        group = f"{label}/{m[1] or m[3]}" if m else None  # in whichever split's folder its frames lie
        if m and group and (m[1] or m[3]) != file.parent.name:  # ImageNet's files are called as their class
            numbers.setdefault(group, []).append(int(m[2] or m[4]))
        of_class.setdefault(label, Counter())[group] += 1
        groups_by_name.append(group)
    several = {label: films for label, counts in of_class.items() if len(films := _films(counts)) > 1}
    most = max(map(len, several.values()), default=0)
    if len(several) == len(of_class) and most >= FEWEST:
        return groups_by_name, []
    seen = {label: [name for name in _films(of_class[label], 1.0) if _counted(name, numbers)] for label in of_class}
    grouped = {label for label in several if len(seen[label]) > 1}
    left = {name for label in of_class if label not in grouped for name in seen[label]}
    if most >= FEWEST:  # some classes are of films, whatever those are called
        left |= {name for label, names in several.items() if label not in grouped for name in names}
    groups = [group if label in grouped else None for group, (_, label) in zip(groups_by_name, files, strict=True)]
    return groups, sorted({name.partition("/")[2] for name in left})


def _films(counts: Counter[Group], most: float = MOST) -> list[str]:
    """The names that could be films of a class with these `counts`: empty where numbers mostly mean something else."""
    numbered = {name: count for name, count in counts.items() if name is not None}
    films = [name for name, count in numbered.items() if count >= FEWEST]
    whole = sum(numbered.values()) < FEWEST * len(numbered) or max(numbered.values(), default=0) > most * counts.total()
    return [] if whole else films


def _counted(film: str, numbers: dict[str, list[int]]) -> bool:
    """Whether a film has a number of its own, and its frames are counted on without gaps."""
    steps = Counter(np.diff(sorted(numbers.get(film, ()))).tolist()).most_common(1)
    return film[-1].isdecimal() and bool(steps) and steps[0][1] >= len(numbers[film]) / 2


def split_groups(targets: np.ndarray, groups: Sequence[Group], seed: int) -> tuple[np.ndarray, np.ndarray]:
    """As `splits.split`, but a group is on one side: whole groups until TEST_FRACTION of each class is set aside.

    What is left of a class to train on is never less than a group that is set aside. Pictures without a group are
    groups of their own.
    """
    if not any(groups):
        return split(targets, seed)
    rng = np.random.default_rng(seed)
    index = np.unique(named(groups, len(groups)), return_inverse=True)[1]
    aside: set[int] = set()
    for k in np.unique(targets):
        sizes = Counter(index[targets == k].tolist())
        wanted = max(1, round(sizes.total() * TEST_FRACTION))
        have = sum(sizes[g] for g in aside)
        for group in rng.permutation([g for g in sizes if g not in aside]).tolist():
            if have >= wanted:
                break
            if sizes[group] <= sizes.total() - have - sizes[group]:
                aside.add(group)
                have += sizes[group]
    test = np.isin(index, list(aside))
    train = np.flatnonzero(~test)
    return train[spread(targets[train], rng)], rng.permutation(np.flatnonzero(test))
