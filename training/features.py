"""`python -m training.features`: which features of pictures are kept, and with `--clear` none any more."""

import argparse
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path

from training.runs.kept import FOLDER, MOST_BYTES, held, size_of


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m training.features",
        description="List the features of pictures that trainings keep, or delete them: the next training computes "
        "what it needs again.",
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="where fit keeps its runs (default: runs)")
    parser.add_argument("--clear", action="store_true", help="delete them all")
    args = parser.parse_args(argv)
    folder = args.runs / FOLDER
    total = size_of(folder)
    if not folder.is_dir():
        print(f"no features are kept in {folder}")
        return 0
    if args.clear:
        try:
            shutil.rmtree(folder)
        except OSError as err:
            print(f"error: {err.filename or folder}: {err.strerror or err}", file=sys.stderr)
            return 1
        print(f"deleted {folder}: {total / 1e6:,.1f} MB")
        return 0
    for key, count, size in held(folder):
        print(f"{key}  {count:>9,} pictures  {size / 1e6:>8,.1f} MB")
    print(f"{folder}: {total / 1e6:,.1f} MB of at most {MOST_BYTES / 1e6:,.0f} MB; --clear deletes them")
    return 0


if __name__ == "__main__":
    sys.exit(main())
