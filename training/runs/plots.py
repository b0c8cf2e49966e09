"""Histories, confusion matrices and confidences -> PNG files."""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np

matplotlib.use("Agg")  # a training may run where there is no screen
from matplotlib import pyplot as plt

from training.artifact.metrics import bins_of


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
    side = min(max(5.0, 0.6 * len(labels)), 40.0)  # inches; a picture of 1,000 classes would not fit memory
    figure, axis = plt.subplots(figsize=(side + 1, side), layout="constrained")
    picture = axis.imshow(shares, vmin=0, vmax=1, cmap="Blues")
    ticks = range(len(labels))
    axis.set_xticks(ticks, labels, rotation=45, ha="right", parse_math=False)  # a class may be called "$"
    axis.set_yticks(ticks, labels, parse_math=False)
    axis.set(xlabel="predicted", ylabel="true", title=title)
    if len(labels) <= 20:
        for i, j in np.ndindex(*shares.shape):
            colour = "white" if shares[i, j] > 0.5 else "black"
            axis.text(j, i, f"{100 * shares[i, j]:.0f}", ha="center", va="center", fontsize=7, color=colour)
    figure.colorbar(picture, shrink=0.8)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def plot_reliability(confidence: np.ndarray, hits: np.ndarray, title: str, path: Path) -> None:
    """How often answers of a confidence (N,) are right (Guo et al. 2017, figure 1), and precision by share answered."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    index = bins_of(confidence)
    middles = [(confidence[index == b].mean(), hits[index == b].mean()) for b in np.unique(index)]
    left.plot([0, 1], [0, 1], color="grey", linestyle=":")
    left.plot(*zip(*middles, strict=True), marker="o")
    left.set(xlabel="mean confidence", ylabel="share that is right", xlim=(0, 1.02), ylim=(0, 1.02))
    right_of_surest = np.cumsum(hits[np.argsort(-confidence, kind="stable")]) / np.arange(1, len(hits) + 1)
    right.plot(np.arange(1, len(hits) + 1) / len(hits), right_of_surest)
    right.set(xlabel="share of images answered, the surest first", ylabel="precision", xlim=(0, 1))
    for axis in (left, right):
        axis.grid(alpha=0.3)
    figure.suptitle(title)
    figure.savefig(path, dpi=100)
    plt.close(figure)
