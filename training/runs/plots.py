"""Histories and confusion matrices -> PNG files. Knows matplotlib and nothing else of the project."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # a training may run where there is no screen
from matplotlib import pyplot as plt


def plot_curves(history: dict[str, list[float]], title: str, path: Path) -> None:
    """Loss and categorical accuracy by epoch, training beside validation; `history` as Keras keeps it."""
    figure, axes = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    epochs = range(1, len(history["loss"]) + 1)
    for axis, key in zip(axes, ("loss", "categorical_accuracy"), strict=True):
        for name, label in ((key, "training"), (f"val_{key}", "validation")):
            axis.plot(epochs, history[name], marker="o", label=label)
        axis.set(xlabel="epoch", ylabel=key.replace("_", " "), xticks=list(epochs)[:: max(1, len(epochs) // 10)])
        axis.grid(alpha=0.3)
        axis.legend()
    figure.suptitle(title)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def plot_confusion(counts: np.ndarray, labels: Sequence[str], title: str, path: Path) -> None:
    """Shares of each true class (rows) by predicted class; `counts` is (K, K) int."""
    shares = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    side = max(5.0, 0.6 * len(labels))
    figure, axis = plt.subplots(figsize=(side + 1, side), layout="constrained")
    picture = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    ticks = range(len(labels))
    axis.set_xticks(ticks, labels, rotation=45, ha="right")
    axis.set_yticks(ticks, labels)
    axis.set(xlabel="predicted", ylabel="true", title=title)
    if len(labels) <= 20:
        for i, j in np.ndindex(*shares.shape):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axis.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(picture, shrink=0.8)
    figure.savefig(path, dpi=100)
    plt.close(figure)
