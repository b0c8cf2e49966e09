"""The cards in models/ -> the table of results in models/README.md: `python -m training.cards`.

Knows only `card.json`, the NETWORKS table for cards that do not state `macs`, and what `benchmarks.served` wrote.
`--check` says whether the table is up to date instead of writing it.
"""

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from training.artifact.reading import latest_version

BEGIN, END = "<!-- cards: python -m training.cards -->", "<!-- /cards -->"
SERVED = Path("docs/served.json")  # from the folder that models/ is in


def read_cards(models: Path) -> list[dict[str, Any]]:
    """The card of each model's latest version, with `version` added, by data set and then by accuracy."""
    cards = []
    for folder in sorted(p for p in models.iterdir() if p.is_dir()):
        path = latest_version(folder)
        cards.append(json.loads((path / "card.json").read_text()) | {"version": int(path.name)})
    return sorted(cards, key=lambda c: (c["dataset"]["origin"], -(_metrics(c).get("accuracy") or 0)))


def _metrics(card: dict[str, Any]) -> dict[str, Any]:
    """What was measured: nothing of a model that was trained elsewhere, whose card holds null."""
    return card["metrics"] or {}


def table(cards: Sequence[dict[str, Any]], served: Sequence[dict[str, Any]] = ()) -> str:
    """A Markdown table, one row a model; `served` is what `benchmarks.served` found, for any of them."""
    by_version = {(row["model"], row["version"]): row for row in served}
    speeds = [by_version.get((card["name"], card["version"])) for card in cards]
    rows = [
        "| model | trained on | test accuracy | calibration error | MACs | parameters | model.onnx | training "
        "| throughput, requests/s |",
        "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
    ]
    for card, throughput in zip(cards, speeds, strict=True):
        metrics, training = _metrics(card), card["training"] or {}
        cells = (
            f"`{card['name']}`",
            card["dataset"]["origin"],
            _cell(metrics.get("accuracy"), lambda accuracy: f"{100 * accuracy:.2f} %"),
            _cell(metrics.get("calibration_error"), lambda error: f"{error:.3f}"),
            _cell(macs(card), lambda count: f"{count / 1e6:,.{0 if count >= 1e7 else 2}f} M"),
            f"{card['parameters']:,}",
            f"{card['files']['model.onnx']['bytes'] / 1e6:.1f} MB",
            _cell(training.get("seconds"), _duration),
            _cell((throughput or {}).get("requests_per_second"), lambda rate: f"{rate:,.0f}"),
        )
        rows.append(f"| {' | '.join(cells)} |")
    machines = {f"{row['cores']} cores of {row['cpu']}, {row['cpu_kind']}, {row['date']}" for row in speeds if row}
    if machines:
        rows += [
            "",
            f"Throughput: one picture of the model's size a request, 32 connections; {'; '.join(sorted(machines))}.",
        ]
    return "\n".join(rows)


def macs(card: dict[str, Any]) -> int | None:
    """Multiply-accumulate operations for one image; None where neither the card nor a row of NETWORKS tells."""
    if card.get("macs"):
        return int(card["macs"])
    from training.networks.table import NETWORKS  # imports TensorFlow, for old cards only

    if card["network"] not in NETWORKS:
        return None
    height, width, channels = card["input_shape"]
    return NETWORKS[card["network"]].macs((height, width, channels), len(card["labels"]))


def _cell(value: float | None, text: Callable[[float], str]) -> str:
    return "–" if value is None else text(value)


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{seconds / 60:.0f} min"


def replaced(text: str, block: str) -> str:
    """`text` with what stands between the two markers replaced by `block`."""
    head, begun, rest = text.partition(BEGIN)
    _, ended, tail = rest.partition(END)
    if not begun or not ended:
        raise ValueError(f"the markers {BEGIN} … {END} are missing")
    return f"{head}{BEGIN}\n{block}\n{END}{tail}"


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m training.cards", description=__doc__.split("\n\n")[0])
    parser.add_argument("--models", type=Path, default=Path("models"), help="default: models")
    parser.add_argument("--check", action="store_true", help="write nothing; exit 1 if the table is out of date")
    args = parser.parse_args(argv)
    served = args.models.parent / SERVED
    block = table(read_cards(args.models), json.loads(served.read_text()) if served.exists() else ())
    page = args.models / "README.md"
    text = page.read_text()
    if (new := replaced(text, block)) != text:
        if args.check:
            print(f"out of date: {page}; run python -m training.cards", file=sys.stderr)
            return 1
        page.write_text(new)
    print(block)
    return 0


if __name__ == "__main__":
    sys.exit(main())
