"""`python -m deploy.packed`: the models that a Bento of this checkout will hold, with their sizes.

`bentoml build` takes every artifact in models/, also one that is not under version control: it is named as such.
"""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILES = ("model.onnx", "card.json", "golden.npz")


def packed(root: Path = ROOT) -> list[str]:
    """A line for each artifact."""
    listed = subprocess.run(["git", "ls-files", "models"], cwd=root, capture_output=True, text=True, check=False)
    tracked = set(listed.stdout.splitlines())
    lines = []
    for card in sorted(root.glob("models/*/*/card.json")):
        folder = card.parent
        size = sum((folder / name).stat().st_size for name in FILES if (folder / name).is_file())
        known = listed.returncode != 0 or str(card.relative_to(root)) in tracked
        note = "" if known else "  (not under version control)"
        lines.append(f"{folder.parent.name:<32} version {folder.name:<4} {size / 1e6:6.1f} MB{note}")
    return lines


if __name__ == "__main__":
    print("models in this Bento:", *packed(), sep="\n  ")
    sys.exit(0)
