"""Entries with a measured throughput -> the page's last section: which network to take, a plot and a sentence each.

Knows accuracy and requests a second; trains nothing, serves nothing and judges no claim.
"""

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean

from study.costs import Entry, entries
from study.figures import Point, plot_costs
from study.records import Records


def choice(records: Records, models: Path | None, folder: Path) -> str:
    """The section, with a plot for each data set of which two or more networks were served; plots go to `folder`."""
    parts = [
        "## Which network?\n",
        "Accuracy on the test images against what the service answers. To the upper right is better; a network that "
        "is missing in the sentences is beaten by another one in both.\n",
    ]
    drawn = False
    for name, group in entries(records, models).items():
        served = [entry for entry in group if entry.served]
        if len(served) < 2:
            continue
        drawn = True
        points = [Point(e.label, e.recipe, e.served, e.accuracies) for e in served if e.served]
        file = f"choice-{name}.png"
        plot_costs({"requests a second": points}, folder / file)
        parts += [f"### {name}: accuracy against requests a second\n", f"![{name}]({folder.name}/{file})\n"]
        parts += [f"- {sentence}" for sentence in sentences(served)]
        if unknown := [entry.label for entry in group if not entry.served]:
            parts.append(f"- Not measured, so not drawn: {'; '.join(unknown)}.")
        parts.append("")
    if not drawn:
        parts.append("No throughput is measured yet: `python -m benchmarks.served` does it.\n")
    return "\n".join(parts)


def sentences(served: Sequence[Entry]) -> list[str]:
    """One for each corner: the fastest, the most accurate, and those between that nothing beats; fastest first."""
    corners = sorted(unbeaten_served(served), key=_rate, reverse=True)
    fastest, best = corners[0], corners[-1]
    if fastest is best:
        return [f"Take `{best.network}` ({best.recipe}): no other is as accurate or as fast. {_figures(best)}"]
    between = [
        f"Between them, `{entry.network}` ({entry.recipe}) answers {_rate(entry) / _rate(best):.1f} times as many "
        f"requests as the most accurate, for {100 * (_accuracy(best) - _accuracy(entry)):.1f} points less. "
        f"{_figures(entry)}"
        for entry in corners[1:-1]
    ]
    return [
        f"Take `{fastest.network}` ({fastest.recipe}) if only speed counts. {_figures(fastest)}",
        *between,
        f"Take `{best.network}` ({best.recipe}) if accuracy counts. {_figures(best)}",
    ]


def unbeaten_served(served: Sequence[Entry]) -> list[Entry]:
    """The entries to which no other is at least as good in both, accuracy and requests a second, and better in one."""
    pairs = [(_accuracy(entry), _rate(entry)) for entry in served]
    return [
        entry
        for entry, (accuracy, rate) in zip(served, pairs, strict=True)
        if not any(a >= accuracy and r >= rate and (a, r) != (accuracy, rate) for a, r in pairs)
    ]


def _figures(entry: Entry) -> str:
    return f"It has {100 * _accuracy(entry):.1f} % right at {_rate(entry):,.0f} requests/s."


def _accuracy(entry: Entry) -> float:
    return fmean(entry.accuracies)


def _rate(entry: Entry) -> float:
    return entry.served or 0.0
