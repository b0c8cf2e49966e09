"""`python -m benchmarks.digits`: digits as people write them, through the service's own decoding, to a model's answers.

`measure MODEL…` prints the share of right and of unsure answers for each kind of picture, digits and others. `steps`
draws what the decoding does, for docs/digits.md. Knows serving's half only: what the network is trained on,
`training/recipes/distortion.py`, has no part in it.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.digits import sheet
from benchmarks.digits.kinds import KINDS, inks, sheets
from benchmarks.digits.others import WANTED, drawers, pictures
from serving.images.digits import light_on_dark

SHAPE = (28, 28, 1)


def measure(models: Sequence[Path], data: Path, fonts: Path | None, count: int, seed: int, only: str) -> str:
    """A Markdown table: for each kind the share of right answers of each model, and of unsure ones.

    Unsure is what the service would say with the first of the models: that there is no figure, or several, or that the
    picture is unfamiliar.
    """
    import onnxruntime

    sessions = [onnxruntime.InferenceSession(str(path / "model.onnx")) for path in models]
    card = json.loads((models[0] / "card.json").read_text())
    with np.load(data) as archive:
        x_test, y_test = archive["x_test"], archive["y_test"]
    sources = inks((x_test, y_test), fonts)
    rows = [
        ["kind", *(path.parent.name for path in models), "wanted", "unsure", "ms"],
        ["---"] + ["---:"] * (len(models) + 3),
    ]

    def add(name: str, greys: Sequence[np.ndarray], labels: Sequence[int], wanted: str) -> None:
        started = time.perf_counter()
        figures = [light_on_dark(grey, SHAPE, Image.Resampling.BILINEAR) for grey in greys]
        ms = 1000 * (time.perf_counter() - started) / count
        images = np.stack([figure.grey for figure in figures])[..., None]
        answers = [session.run(["probabilities"], {"image": images})[0].argmax(1) for session in sessions]
        unsure = np.array([figure.unsure is not None for figure in figures])
        if "unfamiliarity" in card:
            unsure |= sessions[0].run(["unfamiliarity"], {"image": images})[0] > card["unfamiliarity"]["threshold"]
        right = [f"{100 * np.mean(answer == labels):.1f}" if len(labels) else "–" for answer in answers]
        rows.append([name, *right, wanted, f"{100 * unsure.mean():.1f}", f"{ms:.1f}"])
        print(rows[-1], file=sys.stderr)

    for name, kind in KINDS.items():
        if kind.ink in sources and only in name:
            drawn = list(sheets(kind, sources, count, seed))
            labels = [] if kind.unsure else [digit for _, digit in drawn]
            wanted = f"{100 * kind.right:g}{' unsure' if kind.unsure else ''}"
            add(name, [grey for grey, _ in drawn], labels, wanted)
    for name, drawer in drawers(fonts).items():
        if only in name:
            add(name, list(pictures(drawer, count, seed)), [], f"{100 * WANTED:g} unsure")
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
    drawing = commands.add_parser("steps")
    drawing.add_argument("--output", type=Path, default=Path("docs/digits-steps.png"), help="default: %(default)s")
    args = parser.parse_args(argv)
    if args.command == "steps":
        sheet.write(args.output)
        return 0
    print(measure(args.models, args.data, args.fonts, args.count, args.seed, args.only))
    return 0


if __name__ == "__main__":
    sys.exit(main())
