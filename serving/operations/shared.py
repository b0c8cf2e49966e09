"""Where the processes of one service keep what they share while it runs: a folder, in memory where that can be.

The parent makes it and its workers find it by an environment variable. A service that can write nowhere serves too, and
only shares nothing; what is mapped into memory is reserved first, since writing to a mapped file on a full disk would
kill the worker (SIGBUS). Knows files only.
"""

import atexit
import os
import shutil
import signal
import tempfile
from pathlib import Path

from serving.errors import StartError

MEMORY = "/dev/shm"  # noqa: S108 (mkdtemp takes a name of its own)
_PARENT = "parent"  # the file with its process id
_FOLDER = "_SHORTCUT_SHARED"  # the environment variable that the parent sets for its workers; not a setting


def need_temporary_files() -> None:
    """Before BentoML looks for a temporary folder: on a read-only root, or a full disk, that is memory.

    Raises StartError where nothing can be written at all: BentoML 1.4.39 cannot start so.
    """
    try:
        tempfile.gettempdir()  # writes a file to see
    except FileNotFoundError as err:
        try:
            with tempfile.TemporaryFile(dir=MEMORY) as file:
                file.write(b"x")
        except OSError:
            raise StartError(f"no place for temporary files: {err}; nor can {MEMORY} be written") from err
        os.environ["TMPDIR"] = tempfile.tempdir = MEMORY


def create(size: int) -> Path | None:
    """In the parent, before it starts workers: an empty folder with room for `size` bytes, removed when the parent
    ends; None if there is none."""
    for place in (MEMORY, None):
        try:
            path = Path(tempfile.mkdtemp(prefix="shortcut-", dir=place))
        except OSError:
            continue
        try:
            reserve(path / "room", size)
        except OSError:
            shutil.rmtree(path, ignore_errors=True)
            continue
        (path / "room").unlink()
        (path / _PARENT).write_text(str(os.getpid()))
        os.environ[_FOLDER] = str(path)
        atexit.register(shutil.rmtree, path, ignore_errors=True)
        return path
    os.environ.pop(_FOLDER, None)
    return None


def stop_service() -> None:
    """In a worker that cannot serve: end the parent, which would start it again for ever. Not whoever has taken the
    parent's place after it died."""
    place = folder()
    try:
        parent = None if place is None else int((place / _PARENT).read_text())
    except (OSError, ValueError):
        return
    if os.getppid() == parent or (parent is None and os.getppid() != 1):
        os.kill(os.getppid(), signal.SIGTERM)


def folder() -> Path | None:
    """What `create` returned in this process or its parent."""
    return Path(os.environ[_FOLDER]) if _FOLDER in os.environ else None


def reserve(path: Path, size: int) -> None:
    """Create a file of zeros that is sure of its room. Raises OSError."""
    with path.open("xb") as file:
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, size)
        else:
            file.write(bytes(size))
