"""Outcomes -> PNG files under 200 kB: one panel per setting, lines or bars with the range over the seeds.

Knows matplotlib and the shape of an Outcome, no claim and no record.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # the study may run where there is no screen
from matplotlib import pyplot as plt
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from study.verdicts import Outcome, Series

DPI = 80


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
