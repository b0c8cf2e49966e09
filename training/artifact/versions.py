"""A folder that is being written -> the next version of a model, or nothing at all.

`models/NAME/VERSION/` appears by a rename, whole, or not. Knows no format: whoever calls writes the files.
"""

import contextlib
import re
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path

from training.artifact.errors import ExportError

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")


def check_name(name: str) -> None:
    """Raise ExportError unless `name` can name a model's folder."""
    if not NAME.fullmatch(name):
        raise ExportError(f"model name {name!r}: use letters, digits, '.', '_' and '-', at most 100")


def new_version(output: Path, name: str, write: Callable[[Path], None]) -> Path:
    """The next free version of `output/name`, whose files `write` puts into a folder. Raises ExportError.

    Whatever `write` raises, nothing is left behind.
    """
    check_name(name)
    parent = output / name
    existed = parent.exists()
    try:
        parent.mkdir(parents=True, exist_ok=True)
        folder = Path(tempfile.mkdtemp(prefix=".tmp-", dir=parent))
    except OSError as err:
        raise ExportError(f"cannot write to {parent}: {err}") from err
    try:
        write(folder)
        folder.chmod(0o755)  # mkdtemp makes it private; a server may run as another user
        return publish(folder, parent)
    except OSError as err:  # a full disk, mostly
        reason = err.strerror or next(iter(str(err).splitlines()), type(err).__name__)
        raise ExportError(f"cannot write to {folder}: {reason}; nothing was published") from err
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        if not existed:
            with contextlib.suppress(OSError):  # another export's version is in it, or that export removed it
                parent.rmdir()


def publish(folder: Path, parent: Path) -> Path:
    """Rename `folder` to the next free integer; another process may take the same number first."""
    while True:
        taken = [int(p.name) for p in parent.iterdir() if p.name.isdecimal()]
        target = parent / str(max(taken, default=0) + 1)
        try:
            # rename(2) replaces an empty folder only: a published version is never empty
            folder.rename(target)
            return target
        except OSError:
            if not target.exists():
                raise
