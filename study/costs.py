"""Full trainings -> networks beside each other: what accuracy each reached, and what it costs to train and to serve.

A training enters by itself once a file of it is there: a record that `training.fit` wrote, copied to `runs/` under any
name; a seed of the study's full recipes; a model's card. Runs of one recipe that differ in the seed alone are one
entry. Trains nothing and judges no claim.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import fmean
from typing import Any

from study.evidence import mean_range, spread
from study.experiments import Training
from study.figures import Point, plot_costs
from study.records import Record, Records, read
from training.artifact.reading import recipe_name
from training.networks.table import NETWORKS

_NEEDED = ("network", "dataset", "recipe", "metrics", "parameters")
_SHAPES = {"mnist": (28, 28, 1), "digits": (28, 28, 1), "cifar10": (32, 32, 3)}  # of records without `macs`


@dataclass(frozen=True)
class Entry:
    """One network by one recipe; `accuracies` in [0, 1] and `minutes` of training have one value per seed."""

    dataset: str
    network: str
    recipe: str
    epochs: int
    accuracies: tuple[float, ...]
    parameters: int
    macs: int | None
    minutes: tuple[float, ...]
    hardware: tuple[str, ...]
    served: float | None = None  # throughput in requests/s, by `benchmarks.served`
    classes: int = 10

    @property
    def learnt(self) -> bool:
        """Whether it is right more often than guessing is."""
        return fmean(self.accuracies) > ABOVE_CHANCE / self.classes

    @property
    def label(self) -> str:
        return f"{self.network}, {self.recipe}"


COSTS: dict[str, Callable[[Entry], float | None]] = {
    "parameters": lambda entry: entry.parameters,
    "multiply-accumulate operations (MACs) for one image": lambda entry: entry.macs,
    "minutes of training": lambda entry: fmean(entry.minutes) if entry.minutes else None,
    "microseconds a request (1 / throughput)": lambda entry: 1e6 / entry.served if entry.served else None,
}
ABOVE_CHANCE = 1.2  # times guessing, from which on a network has learnt something
SERVED = "served.json"  # beside the folder of the records


def entries(records: Records, models: Path | None) -> dict[str, list[Entry]]:
    """The entries of each data set, the most accurate first; `models` is the folder of the artifacts."""
    runs: dict[str, list[Record]] = {}
    seen = set()
    for record in _full_runs(records, models):
        same = json.dumps([record["network"], record["dataset"], record["recipe"], record["metrics"]], sort_keys=True)
        if same in seen:  # a record and the card of one training
            continue
        seen.add(same)
        recipe = {key: value for key, value in record["recipe"].items() if key != "seed"}
        runs.setdefault(json.dumps([record["network"], record["dataset"]["name"], recipe], sort_keys=True), []).append(
            record
        )
    served = {_which(row): row["requests_per_second"] for row in served_rows(records)}
    found: dict[str, list[Entry]] = {}
    for group in runs.values():
        entry = _entry(group)
        entry = replace(entry, served=served.get((entry.dataset, entry.network, entry.recipe)))
        found.setdefault(entry.dataset, []).append(entry)
    return {name: sorted(found[name], key=lambda e: -fmean(e.accuracies)) for name in sorted(found)}


def served_rows(records: Records) -> list[dict[str, Any]]:
    """What `benchmarks.served` wrote, if it has run."""
    file = records.runs.parent / SERVED
    return json.loads(file.read_text()) if file.exists() else []


def _which(row: dict[str, Any]) -> tuple[str, str, str]:
    return row["dataset"], row["network"], row["recipe"]


def _full_runs(records: Records, models: Path | None) -> Iterator[Record]:
    """Whatever was trained as its recipe says and measured on a whole test split."""
    for row in records.rows.values():
        if isinstance(row, Training) and row.images is None and row.blocks is None and row.name in records.found:
            yield from _usable(records[row.name])
    paths = sorted(records.runs.glob("*.json")) + (sorted(models.glob("*/*/card.json")) if models else [])
    for path in paths:
        yield from _usable(read(path))


def _usable(record: Record | None) -> Iterator[Record]:
    """Nothing for a file that is no record, nor for a model whose training is not known."""
    if record and all(record.get(key) for key in _NEEDED):
        yield record


def _entry(group: Sequence[Record]) -> Entry:
    first = group[0]
    seconds = [s for record in group if (s := _seconds(record))]
    hardware = {record.get("hardware") or (record.get("training") or {}).get("hardware", "") for record in group}
    return Entry(
        first["dataset"]["name"],
        first["network"],
        recipe_name(first) or "",
        first["recipe"].get("epochs", 0),
        tuple(record["metrics"]["accuracy"] for record in group),
        first["parameters"],
        next((record["macs"] for record in group if record.get("macs")), None) or _counted(first),
        tuple(s / 60 for s in seconds),
        tuple(sorted(hardware - {""})),
        classes=len(first["metrics"]["per_class_accuracy"]),
    )


def _seconds(record: Record) -> float:
    return (record.get("training") or {}).get("seconds") or sum(record.get("epoch_seconds", ()))


def _counted(record: Record) -> int | None:
    """Multiply-accumulate operations, by the row of NETWORKS as it is now."""
    shape = record.get("input_shape") or _SHAPES.get(record["dataset"]["name"])
    if shape is None or record["network"] not in NETWORKS:
        return None
    height, width, channels = shape
    return NETWORKS[record["network"]].macs((height, width, channels), len(record["metrics"]["per_class_accuracy"]))


def unbeaten(group: Sequence[Entry], cost: Callable[[Entry], float | None]) -> list[Entry]:
    """The entries to which no other is as accurate at a lower cost, or more accurate at the same; cheapest first.

    What only guesses is none of them, however little it costs."""
    known = [
        (fmean(entry.accuracies), value, entry)
        for entry in group
        if entry.learnt and (value := cost(entry)) is not None
    ]
    best = [
        (value, entry)
        for accuracy, value, entry in known
        if not any((a >= accuracy and v < value) or (a > accuracy and v <= value) for a, v, _ in known)
    ]
    return [entry for _, entry in sorted(best, key=lambda pair: pair[0])]


def section(records: Records, models: Path | None, folder: Path, table: Callable[..., str]) -> str:
    """The page's section with a table for each data set and its plots, which are written to `folder`."""
    parts = [
        "## Networks beside each other\n",
        "Every training by a whole recipe whose record or card is committed, with its test accuracy and its costs. "
        "Times are from the hardware named, which was shared: they compare roughly. *Unbeaten* by a cost are those "
        "to which no other is as accurate at a lower one.\n",
    ]
    if rows := served_rows(records):
        machines = sorted({f"{row['cores']} cores of {row['cpu']} ({row['cpu_kind']}), {row['date']}" for row in rows})
        parts.append(
            "Throughput was measured by `benchmarks.served`: one picture of the network's own size a request, "
            f"32 connections. It ran on {'; '.join(machines)}.\n"
        )
    found = entries(records, models)
    if not found:
        parts.append("Nothing is committed yet.\n")
    for name, group in found.items():
        parts += [f"### {name}\n", table(_HEADER, [_cells(entry) for entry in group])]
        known = {what: cost for what, cost in COSTS.items() if any(cost(entry) is not None for entry in group)}
        parts += [
            f"- unbeaten by {what}: " + "; ".join(entry.label for entry in unbeaten(group, cost))
            for what, cost in known.items()
        ]
        plot_costs({what: _points(group, cost) for what, cost in known.items()}, folder / f"costs-{name}.png")
        parts.append(f"\n![accuracy against costs on {name}]({folder.name}/costs-{name}.png)\n")
    return "\n".join(parts)


_HEADER = (
    "network",
    "recipe",
    "epochs",
    "test accuracy, %",
    "seeds",
    "parameters",
    "million MACs",
    "minutes",
    "on",
    "throughput, requests/s",
)


def _cells(entry: Entry) -> tuple[str, ...]:
    return (
        entry.network,
        entry.recipe,
        str(entry.epochs),
        spread(entry.accuracies),
        str(len(entry.accuracies)),
        f"{entry.parameters:,}",
        "" if entry.macs is None else f"{entry.macs / 1e6:.3g}",
        mean_range(entry.minutes) if entry.minutes else "",
        "; ".join(entry.hardware),
        "" if entry.served is None else f"{entry.served:,.0f}",
    )


def _points(group: Sequence[Entry], cost: Callable[[Entry], float | None]) -> list[Point]:
    return [Point(e.label, e.recipe, value, e.accuracies) for e in group if (value := cost(e)) is not None]
