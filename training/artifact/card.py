"""The author of card.json: all that an artifact says of itself is put together here.

`card_of_training` and `card_of_unknown_training` state where a model comes from, `write_card` adds what is known only
when its files lie there. Readers ignore keys they do not know.
"""

import contextlib
import hashlib
import json
import os
import platform
import subprocess
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError
from importlib.metadata import version as library_version
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from training.artifact.metrics import measure
from training.artifact.trust import warnings_of, wilson_interval
from training.data.dataset import Dataset
from training.data.pictures import RESAMPLE

if TYPE_CHECKING:
    from training.recipes.recipe import Recipe  # imports Keras, which a model from elsewhere needs not

COMMITTED = ("model.onnx", "golden.npz")  # their hashes stand in the card
LIBRARIES = ("tensorflow", "keras", "tf2onnx", "onnx", "onnxruntime", "numpy")


def card_of_training(
    recipe: "Recipe",
    data: Dataset,
    probabilities: np.ndarray,
    train_accuracy: float,
    epochs: int,
    seconds: float,
    images_per_second: float,
) -> dict[str, Any]:
    """The part of a card that states what was trained on which data, and what it reached.

    `probabilities` (N, K) are the answers to the test split; `train_accuracy` is that of the published epoch.
    """
    metrics = measure(probabilities, data.y_test, data.labels)
    return {
        "network": recipe.network,
        "dataset": {
            "name": data.name,
            "origin": data.origin,
            "train": len(data.x_train),
            "test": len(data.x_test),
            **({"test_groups": data.test_groups} if data.test_groups else {}),
        },
        "input_convention": data.input_convention,
        "resample": RESAMPLE.name.lower(),
        "recipe": {"name": recipe.name, **recipe.hyper_parameters()},
        "metrics": metrics,
        "intervals": {"accuracy": wilson_interval(metrics["accuracy"], data.test_groups or len(data.x_test))},
        "warnings": warnings_of(
            probabilities,
            data.y_test,
            data.labels,
            train_accuracy,
            data.test_groups,
            quick=not recipe.epochs,
            augmented=bool(recipe.augmentation),
        ),
        "training": {
            "epochs": epochs,
            "seconds": round(seconds, 1),
            "images_per_second": round(images_per_second, 1),
            "hardware": hardware(),
        },
    }


def card_of_unknown_training(network: str, name: str, origin: str, convention: str) -> dict[str, Any]:
    """The same part for a model that was trained elsewhere: nothing was measured, so nothing is stated."""
    return {
        "network": network,
        "dataset": {"name": name.rpartition("-")[2], "origin": origin, "train": None, "test": None},
        "input_convention": convention,
        "resample": RESAMPLE.name.lower(),
        "recipe": None,
        "metrics": None,
        "training": None,
    }


def write_card(
    folder: Path, parameters: int, name: str, labels: Sequence[str], shape: Sequence[int], card: dict[str, Any]
) -> None:
    """Write folder/card.json: `card`, the model's own figures, and sizes and hashes of the files in the folder."""
    whole = {
        "name": name,
        **card,
        "labels": list(labels),
        "input_shape": list(shape),
        "parameters": parameters,
        "libraries": {"python": platform.python_version(), **_libraries()},
        "revision": _revision(),
        "files": {
            file: {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
            for file in COMMITTED
            if (content := (folder / file).read_bytes())
        },
    }
    (folder / "card.json").write_text(json.dumps(whole, indent=2, ensure_ascii=False) + "\n")


def _libraries() -> dict[str, str]:
    """The versions of those that are installed: an ONNX file is published without TensorFlow."""
    versions = {}
    for library in LIBRARIES:
        with contextlib.suppress(PackageNotFoundError):
            versions[library] = library_version(library)
    return versions


def hardware() -> str:
    """The accelerators TensorFlow sees, else the CPU and how many cores this process may use."""
    import tensorflow as tf

    gpus = [tf.config.experimental.get_device_details(gpu) for gpu in tf.config.list_physical_devices("GPU")]
    if gpus:
        return ", ".join(str(gpu.get("device_name", "GPU")) for gpu in gpus)
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        cpu = next(line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        cpu = platform.processor() or platform.machine()
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cpu}, {cores} cores"


def _revision() -> str | None:
    """The commit this ran from, marked if the code was changed since; None outside a checkout."""
    root = Path(__file__).resolve().parents[2]
    try:
        command = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12", "--exclude=*"]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip() or None
    except (OSError, subprocess.CalledProcessError):
        return None
