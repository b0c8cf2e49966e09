"""Outcomes and costs -> PNG files under 200 kB: a panel per setting or kind of cost, with the range over the seeds.

Knows matplotlib and the shapes of an Outcome and of a Point, no claim and no record.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # the study may run where there is no screen
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from study.verdicts import Outcome, Series

DPI = 80
MARKERS = "osD^vP*X"


@dataclass(frozen=True)
class Point:
    """One network in a scatter plot; `group` chooses the marker, `accuracies` in [0, 1] have one value per seed."""

    label: str
    group: str
    cost: float
    accuracies: Sequence[float]


def plot_outcomes(outcomes: Mapping[str, Outcome], path: Path) -> None:
    """One panel for each setting that has something to draw."""
    drawn = {setting: outcome for setting, outcome in outcomes.items() if outcome.series}
    figure, axes = plt.subplots(1, len(drawn), figsize=(1 + 4.6 * len(drawn), 4), layout="constrained", squeeze=False)
    for axis, (setting, outcome) in zip(axes[0], drawn.items(), strict=True):
        if any(isinstance(x, str) for x in outcome.series[0].x):
            _bars(axis, outcome.series)
        else:
            for series in outcome.series:
                _line(axis, series)
            axis.xaxis.get_major_locator().set_params(integer=True)
        axis.set(title=setting, xlabel=outcome.x_label, ylabel=outcome.y_label)
        if outcome.logarithmic:
            axis.set_yscale("log")
        axis.grid(alpha=0.3)
        if len(outcome.series) > 1:
            axis.legend(fontsize=8)
    _save(figure, path)


def plot_old_metric(rows: Sequence[tuple[str, float, float]], path: Path) -> None:
    """(system, categorical accuracy, binary accuracy) as bars, both in [0, 1]."""
    figure, axis = plt.subplots(figsize=(7, 4), layout="constrained")
    labels = [name for name, _, _ in rows]
    series = (
        Series("categorical: the most probable class is right", labels, [[row[1] for row in rows]]),
        Series("binary: outputs on the right side of 0.5", labels, [[row[2] for row in rows]]),
    )
    _bars(axis, series)
    axis.axhline(0.9, color="black", linestyle=":", label="binary accuracy of answering nothing (10 classes)")
    axis.set(ylabel="accuracy", ylim=(0, 1.4))
    axis.legend(fontsize=8, loc="upper left")
    _save(figure, path)


def plot_costs(panels: Mapping[str, Sequence[Point]], path: Path) -> None:
    """A scatter plot of accuracy for each kind of cost: a colour for each network, a marker for each group."""
    points = [point for panel in panels.values() for point in panel]
    labels, groups = (list(dict.fromkeys(names)) for names in ([p.label for p in points], [p.group for p in points]))
    size = (1 + 4.2 * len(panels), 4 + 0.2 * len(labels))
    figure, axes = plt.subplots(1, len(panels), figsize=size, layout="constrained", sharey=True, squeeze=False)
    drawn = {}
    for axis, (what, panel) in zip(axes[0], panels.items(), strict=True):
        for point in panel:
            values = 100 * np.array(point.accuracies)
            mean = values.mean()
            drawn[point.label] = axis.errorbar(
                point.cost,
                mean,
                yerr=[[mean - values.min()], [values.max() - mean]] if len(values) > 1 else None,
                fmt=MARKERS[groups.index(point.group) % len(MARKERS)],
                color=matplotlib.colormaps["tab20"](labels.index(point.label) % 20),
                capsize=3,
            )
        axis.set(xscale="log", xlabel=what)
        axis.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axis.xaxis.set_major_formatter(EngFormatter(sep=""))
        axis.xaxis.set_minor_formatter(NullFormatter())
        axis.grid(alpha=0.3)
    axes[0][0].set_ylabel("test accuracy, %")
    figure.legend([drawn[label] for label in labels], labels, loc="outside lower center", ncols=3, fontsize=8)
    _save(figure, path)


def _line(axis: Axes, series: Series) -> None:
    """The mean over the seeds, and their range as a band."""
    values = np.array(series.runs)
    (line,) = axis.plot(series.x, values.mean(axis=0), marker="o", markersize=3, label=series.label)
    if len(values) > 1:
        axis.fill_between(series.x, values.min(axis=0), values.max(axis=0), color=line.get_color(), alpha=0.2)


def _bars(axis: Axes, group: Sequence[Series]) -> None:
    """The median over the runs, and their range as a whisker."""
    labels = [str(x) for x in group[0].x]
    width = 0.8 / len(group)
    for i, series in enumerate(group):
        values = np.array(series.runs)
        middle = np.median(values, axis=0)
        whiskers = (middle - values.min(axis=0), values.max(axis=0) - middle)
        places = np.arange(len(labels)) + (i - (len(group) - 1) / 2) * width
        axis.bar(places, middle, width, yerr=whiskers if len(values) > 1 else None, label=series.label)
    few = len(labels) < 4
    texts = [label.replace(", ", ",\n") for label in labels]
    axis.set_xticks(range(len(labels)), texts, rotation=0 if few else 30, ha="center" if few else "right", fontsize=8)
    axis.margins(y=0.3 if len(group) > 1 else 0.05)  # room for the legend


def _save(figure: Figure, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=DPI)
    plt.close(figure)
