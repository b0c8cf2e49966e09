"""A folder that has grown since a training -> the same test pictures as then, and some of the new ones.

Splits that are drawn anew would put pictures that a network has learnt from into the test. Knows digests, labels and
groups; opens no picture.
"""

from collections.abc import Sequence

import numpy as np

from training.data.contents import Memory
from training.data.splits import TEST_FRACTION


def test_pictures(
    digests: np.ndarray, targets: np.ndarray, groups: Sequence[str], known: Memory, learnt: np.ndarray, seed: int
) -> np.ndarray:
    """Which pictures (N,) bool are to test with: those that were, and of new ones as many as make TEST_FRACTION of each
    class.

    `digests` (N,) are the pictures' digests, `groups` names what belongs together ("" alone; may be empty), `known` is
    what the last version remembers, and `learnt` what its network has learnt from. New pictures of a known group go
    where that group is. A class that is not tested at all gives one picture, if it has two.
    """
    tested = np.isin(digests, known.tested) & ~np.isin(digests, learnt)
    new = ~np.isin(digests, np.concatenate([known.learnt, known.validated, known.tested, learnt]))
    names = np.array([groups[i] if len(groups) and groups[i] else f"\0{i}" for i in range(len(digests))])
    of_known = {name: bool(tested[names == name].all()) for name in np.unique(names[~new])}
    for i in np.flatnonzero(new):
        if names[i] in of_known:
            tested[i], new[i] = of_known[names[i]], False
    rng = np.random.default_rng(seed)
    for k in np.unique(targets):
        members = targets == k
        wanted = max(round(TEST_FRACTION * members.sum()), int(members.sum() > 1))
        left = rng.permutation(np.unique(names[members & new])).tolist()
        while left and tested[members].sum() < wanted:
            name = left.pop()
            of_group = new & (names == name)
            kept = (members & ~tested & ~of_group).any()
            if of_group.sum() > 2 * (wanted - tested[members].sum()) or not kept:
                continue  # a film that is far too long for what is wanted, or all that there is to learn from
            tested |= of_group
            new &= ~of_group
    return tested
