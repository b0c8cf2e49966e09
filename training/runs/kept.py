"""The folder of kept features on the disk: which pictures it knows, how large it is, what goes when it is too large.

`runs/features/<network>/` has the digests of pictures in one file and their features, in the same order, in another.
Knows bytes and files, neither pictures nor networks, and needs no TensorFlow.
"""

import fcntl
import json
import os
import shutil
from pathlib import Path

FOLDER = "features"  # under runs/
MOST_BYTES = 1 << 30  # of all networks and features
DIGEST = 16  # bytes of a picture's SHA-256
LOCK = "lock"


def places_of(folder: Path, size: int) -> dict[bytes, int]:
    """Where each picture's row is; what an interruption left half-written is cut off."""
    digests, rows = folder / "digests", folder / "rows"
    for file in (digests, rows):
        file.touch()
    whole = min(digests.stat().st_size // DIGEST, rows.stat().st_size // (4 * size))
    os.truncate(digests, whole * DIGEST)
    os.truncate(rows, whole * 4 * size)
    content = digests.read_bytes()
    return {content[i : i + DIGEST]: i // DIGEST for i in range(0, len(content), DIGEST)}


def bound(folder: Path, current: Path | None = None, most: int = MOST_BYTES) -> None:
    """Let `folder` take at most `most` bytes: networks that were used longest ago go with their features.

    `current` stays; where it alone takes more, its features go, and are computed again when they are asked for.
    """
    kept = sorted((path for path in folder.iterdir() if path.is_dir() and path != current), key=_used)
    while kept and size_of(folder) > most:
        if not _in_use(kept[0]):
            shutil.rmtree(kept[0], ignore_errors=True)
        kept.pop(0)
    if current and size_of(folder) > most:
        for name in ("digests", "rows"):
            (current / name).unlink(missing_ok=True)


def _in_use(folder: Path) -> bool:
    """Whether another training computes features there right now."""
    try:
        with (folder / LOCK).open("r") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def _used(path: Path) -> float:
    return path.stat().st_mtime


def size_of(folder: Path) -> int:
    """Bytes of the files below a folder."""
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def held(folder: Path) -> list[tuple[str, int, int]]:
    """What `folder` holds, the most recently used first: a network's key, its pictures, and bytes."""
    kept = []
    for path in sorted((path for path in folder.glob("*") if (path / "body.json").exists()), key=_used, reverse=True):
        digests = path / "digests"
        count = digests.stat().st_size // DIGEST if digests.exists() else 0
        kept.append((json.loads((path / "body.json").read_text())["key"], count, size_of(path)))
    return kept
