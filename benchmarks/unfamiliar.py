"""Posts a model's own kind of pictures and strange ones: how many of each does the service call unsure?

`python -m benchmarks.unfamiliar --own test/ --strange drawings/`. Noise and blank sheets are drawn here and need no
files. Knows a running server and its answers; shares no code with the packages that trained or serve the model.
"""

import argparse
import base64
import io
import itertools
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import numpy as np
from PIL import Image

FALSE_ALARMS = 0.05  # at which the two measures are compared
AT_ONCE = 16  # pictures in a request
ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".tif", ".tiff", ".webp")


class MeasureError(Exception):
    """Nothing can be measured; the message says why."""


class Answers(NamedTuple):
    """Of N pictures: the best probability and the unfamiliarity, (N,) float64, and whether it was called unsure."""

    probability: np.ndarray
    unfamiliarity: np.ndarray
    unsure: np.ndarray


def encoded(image: np.ndarray) -> bytes:
    """A PNG of (H, W) or (H, W, 3) uint8."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG")
    return buffer.getvalue()


def noise(count: int, side: int, seed: int) -> Iterator[bytes]:
    rng = np.random.default_rng(seed)
    return (encoded(rng.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count))


def blank(count: int, side: int, seed: int) -> Iterator[bytes]:
    """Sheets of one colour each."""
    rng = np.random.default_rng(seed)
    return (encoded(np.full((side, side, 3), rng.integers(0, 256, 3), np.uint8)) for _ in range(count))


def pictures_in(source: Path, count: int, seed: int) -> Iterator[bytes]:
    """`count` pictures, or all, drawn from a folder with all of its subfolders, or from `x_test` of an .npz."""
    rng = np.random.default_rng(seed)
    if source.is_dir():
        files = sorted(path for path in source.rglob("*") if path.suffix.lower() in ENDINGS)
        if not files:
            raise MeasureError(f"{source}: there is no picture ({', '.join(ENDINGS)})")
        return (files[i].read_bytes() for i in rng.permutation(len(files))[:count])
    try:
        with np.load(source, allow_pickle=False) as archive:
            images = archive["x_test"]
    except (OSError, ValueError, KeyError) as err:
        raise MeasureError(f"{source}: neither a folder of pictures nor an .npz with x_test ({err})") from err
    images = images[..., 0] if images.ndim == 4 and images.shape[3] == 1 else images
    return (encoded(images[i]) for i in rng.permutation(len(images))[:count])


def asked(url: str, model: str, pictures: Iterator[bytes]) -> Answers:
    """What the service answers, by TensorFlow Serving's REST route, which also gives the unfamiliarity."""
    probability, unfamiliarity, unsure = [], [], []
    while part := list(itertools.islice(pictures, AT_ONCE)):
        rows = [{"b64": base64.b64encode(data).decode()} for data in part]
        answer = _json(f"{url}/v1/models/{quote(model, safe='')}:predict", {"instances": rows})
        for row, reason in zip(answer["predictions"], answer.get("unsure", [None] * len(part)), strict=True):
            if not isinstance(row, dict):
                raise MeasureError(f"{model} has no output `unfamiliarity`: train it again, or export it with pictures")
            probability.append(max(row["probabilities"]))
            unfamiliarity.append(row["unfamiliarity"])
            unsure.append(reason is not None)
    return Answers(np.array(probability), np.array(unfamiliarity), np.array(unsure))


def auroc(own: np.ndarray, strange: np.ndarray) -> float:
    """How often a strange picture has a higher value than one of its own; 0.5 is chance. Equal values count half."""
    ordered = np.sort(own)
    below = np.searchsorted(ordered, strange, "left") + np.searchsorted(ordered, strange, "right")
    return float(below.mean() / (2 * len(own)))


def caught(own: np.ndarray, strange: np.ndarray) -> float:
    """The share of strange values above what FALSE_ALARMS of its own are above."""
    return float((strange > np.quantile(own, 1 - FALSE_ALARMS, method="higher")).mean())


def table(kinds: dict[str, Answers]) -> str:
    """In Markdown, a row for each kind; the first is the model's own."""
    own = next(iter(kinds.values()))
    rows = [
        ["pictures", "count", "unsure", "unfamiliar at 5 %", "improbable at 5 %", "AUROC", "of the probability"],
        ["---"] + ["---:"] * 6,
    ]
    for name, kind in kinds.items():
        row = [name, f"{len(kind.unsure):,}", f"{kind.unsure.mean():.1%}"]
        if kind is own:
            row += ["", "", "", ""]
        else:
            pairs = ((own.unfamiliarity, kind.unfamiliarity), (-own.probability, -kind.probability))
            row += [f"{caught(*pair):.1%}" for pair in pairs] + [f"{auroc(*pair):.3f}" for pair in pairs]
        rows.append(row)
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def measure(url: str, model: str | None, own: Path, strange: dict[str, Path], count: int, side: int, seed: int) -> str:
    name = model or _json(f"{url}/models")["default"]
    sources = {"its own": pictures_in(own, count, seed)}
    sources |= {"noise": noise(count, side, seed), "blank sheets": blank(count, side, seed)}
    sources |= {kind: pictures_in(source, count, seed) for kind, source in strange.items()}
    return table({kind: asked(url, name, pictures) for kind, pictures in sources.items()})


def _json(url: str, body: dict[str, Any] | None = None) -> Any:
    data = None if body is None else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(urllib.request.Request(url, data), timeout=60) as response:
            return json.load(response)
    except urllib.error.HTTPError as err:
        raise MeasureError(f"{url}: status {err.code}, {err.read(300).decode(errors='replace')}") from err


def _named(text: str) -> tuple[str, Path]:
    name, equal, path = text.rpartition("=")
    return (name, Path(path)) if equal else (Path(text).name, Path(text))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.unfamiliar",
        description="Say which share of a model's own kind of pictures, and of strange ones, a service calls unsure.",
        epilog="unsure: at the card's threshold, whatever the reason. unfamiliar, improbable at 5 %%: the share beyond "
        "the value that 5 %% of its own pictures are beyond. AUROC: how often a strange picture is further than one "
        "of its own.",
    )
    parser.add_argument("--url", default="http://localhost:3000", help="the server (default: %(default)s)")
    parser.add_argument("--model", help="default: the server's default model")
    sources = "a folder of pictures with its subfolders, or an .npz with x_test"
    parser.add_argument("--own", type=Path, required=True, help=f"pictures of its classes, not trained on: {sources}")
    parser.add_argument(
        "--strange",
        type=_named,
        action="append",
        default=[],
        metavar="[NAME=]PATH",
        help=f"others, repeatable: {sources}",
    )
    parser.add_argument("--count", type=int, default=500, help="pictures of a kind, at most (default: %(default)s)")
    parser.add_argument("--side", type=int, default=64, help="pixels of noise and blank sheets (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(argv)
    try:
        print(measure(args.url, args.model, args.own, dict(args.strange), args.count, args.side, args.seed))
        return 0
    except (MeasureError, OSError) as err:
        print(f"error: {err}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
