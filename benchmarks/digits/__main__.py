"""`python -m benchmarks.digits`: digits as people write them, through the service's own decoding, to a model's answers.

`measure MODEL…` prints the share of right answers for each kind of picture. Knows serving's half only: what the
network is trained on, `training/recipes/distortion.py`, has no part in it.
"""

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.digits.kinds import KINDS, inks, sheets
from serving.images.digits import light_on_dark

SHAPE = (28, 28, 1)


def measure(models: Sequence[Path], data: Path, fonts: Path | None, count: int, seed: int, only: str) -> str:
    """A Markdown table: for each kind the share of right answers of each model, and of unsure ones."""
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(str(path / "model.onnx")) for path in models]
    with np.load(data) as archive:
        x_test, y_test = archive["x_test"], archive["y_test"]
    sources = inks((x_test, y_test), fonts)
    rows = [
        ["kind", *(path.parent.name for path in models), "wanted", "unsure", "ms"],
        ["---"] + ["---:"] * (len(models) + 3),
    ]
    for name, kind in KINDS.items():
        if kind.ink not in sources or only not in name:
            continue
        pictures = list(sheets(kind, sources, count, seed))
        started = time.perf_counter()
        found = [light_on_dark(grey, SHAPE, Image.Resampling.BILINEAR) for grey, _ in pictures]
        ms = 1000 * (time.perf_counter() - started) / count
        images = np.stack([figure.grey for figure in found])[..., None]
        labels = np.array([digit for _, digit in pictures])
        right = [np.mean(session.run(None, {"image": images})[0].argmax(1) == labels) for session in sessions]
        unsure = np.mean([figure.unsure is not None for figure in found])
        shown = ["–"] * len(models) if kind.unsure else [f"{100 * share:.1f}" for share in right]
        wanted = f"{100 * kind.right:g}{' unsure' if kind.unsure else ''}"
        rows.append([name, *shown, wanted, f"{100 * unsure:.1f}", f"{ms:.1f}"])
        print(rows[-1], file=sys.stderr)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.digits", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", type=Path, required=True, help="mnist.npz")
    common.add_argument("--fonts", type=Path, help="a folder of unpacked Debian packages of fonts, <package>/…")
    common.add_argument("--seed", type=int, default=0)
    measuring = commands.add_parser("measure", parents=[common])
    measuring.add_argument("models", nargs="+", type=Path, metavar="MODEL", help="models/<model>/<version>")
    measuring.add_argument("--count", type=int, default=200, help="pictures of a kind (default: %(default)s)")
    measuring.add_argument("--only", default="", help="kinds whose name holds this")
    args = parser.parse_args(argv)
    print(measure(args.models, args.data, args.fonts, args.count, args.seed, args.only))
    return 0


if __name__ == "__main__":
    sys.exit(main())
