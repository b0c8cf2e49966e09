"""Which pictures a model was trained on, remembered by their content.

`runs/MODEL/VERSION/pictures.npz` holds 64 bits of a hash for each file, so that a folder that has grown since, or whose
files were renamed, can be measured without a picture that the model has seen. Pictures that were held out to choose the
epoch are remembered apart. Opens no picture as one.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from training.data.dataset import Dataset

FILE = "pictures.npz"
_ENDS = 64 * 1024  # bytes of a file's beginning and of its end: no two photos share those, and photos are large


def digests(files: Sequence[Path]) -> np.ndarray:
    """A number (N,) uint64 for each file's content; 0 for one that cannot be read any more."""
    return np.array([_digest(file) for file in files], np.uint64)


def _digest(file: Path) -> int:
    try:
        with file.open("rb") as opened:
            size = opened.seek(0, 2)
            opened.seek(0)
            content = opened.read(_ENDS)
            opened.seek(max(len(content), size - _ENDS))
            content += opened.read()
    except OSError:
        return 0
    return int.from_bytes(hashlib.sha256(f"{size}:".encode() + content).digest()[:8], "big")


def remember(data: Dataset, folder: Path, held_out: int = 0) -> None:
    """Write FILE into a run's folder, for a data set of files. The last `held_out` of those to train on were not learnt
    from, but chose the epoch."""
    if data.files:
        file_digests, count = digests(data.files), len(data.x_train)
        validated = file_digests[count - held_out : count]
        np.savez(folder / FILE, trained=file_digests[:count], validated=validated, tested=file_digests[count:])


class Memory(NamedTuple):
    """What a run remembers of its pictures: digests (N,) uint64 of those that it learnt from, chose its epoch with, and
    was tested on. Where it does not know which chose the epoch, it counts them among those that it learnt from."""

    learnt: np.ndarray
    validated: np.ndarray
    tested: np.ndarray


def memory(folder: Path) -> Memory | None:
    """That of a run's folder; None where it remembers nothing."""
    try:
        with np.load(folder / FILE) as known:
            trained, tested = known["trained"], known["tested"]
            validated = known["validated"] if "validated" in known else trained[:0]
    except (OSError, ValueError, KeyError):
        return None
    return Memory(trained[~np.isin(trained, validated)], validated, tested)


def unseen(files: Sequence[Path], folder: Path) -> np.ndarray | None:
    """Which of the files (N,) bool that run has not trained on; None where its folder remembers nothing.

    A picture that lay on both sides of the split, as a copy does, was tested on.
    """
    if (known := memory(folder)) is None:
        return None
    file_digests = digests(files)
    return ~np.isin(file_digests, [*known.learnt, *known.validated]) | np.isin(file_digests, known.tested)
