"""Which pictures a model was trained on, remembered by their content.

`runs/MODEL/VERSION/pictures.npz` holds 64 bits of a hash for each file, so that a folder that has grown since, or whose
files were renamed, can be measured without a picture that the model has seen. Opens no picture as one.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

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


def remember(data: Dataset, folder: Path) -> None:
    """Write FILE into a run's folder, for a data set of files."""
    if data.files:
        found, count = digests(data.files), len(data.x_train)
        np.savez(folder / FILE, trained=found[:count], tested=found[count:])


def unseen(files: Sequence[Path], folder: Path) -> np.ndarray | None:
    """Which of the files (N,) bool that run has not trained on; None where its folder remembers nothing.

    A picture that lay on both sides of the split, as a copy does, was tested on.
    """
    try:
        with np.load(folder / FILE) as known:
            trained, tested = known["trained"], known["tested"]
    except (OSError, ValueError, KeyError):
        return None
    found = digests(files)
    return ~np.isin(found, trained) | np.isin(found, tested)
