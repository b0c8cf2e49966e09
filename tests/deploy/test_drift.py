"""A stream of pictures that is not what the model was validated on raises an alert; one that is does not.

A small classifier of scikit-learn's digits answers. Its answers go through the service's own meter, and what /metrics
shows of them through the real rules, by promtool.
"""

import json
import subprocess
import sys
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image, ImageDraw, ImageFont
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression

from serving.operations.metrics import TOP_PROBABILITIES, UNFAMILIARITIES
from tests.deploy.test_deploy import PROMETHEUS, promtool
from tests.fixtures.server import ROOT, environment

SIDE, MINUTES = 8, 90  # pixels; how long the stream lasts
LABELS = tuple("0123456789")
TRAINED, VALIDATED = 600, 600  # pictures; the other 597 come later, as the stream
ALERTS = ("ShortcutLabelDrift", "ShortcutConfidenceDrift")
PROGRAM = """
import json, sys
from serving.operations import metrics

class Queue(list):
    room = 1

given = json.load(sys.stdin)
meter = metrics.Meter("m", 1, given["labels"], given["reference"], given["unfamiliar_from"])
meter.loaded("cpu", "float32", Queue())
for row in given["rows"]:
    meter.answered(*row)
print(metrics.exposition().decode())
"""


Rows = list[tuple[int, float, float]]


@cache
def classifier() -> tuple[Any, np.ndarray, np.ndarray, np.ndarray]:
    """A classifier, the mean picture of each class, the pictures of its validation, and those that come later."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.images))
    images = (data.images[order] * 255 / 16).astype(np.uint8)
    trained, labels = flat(images[:TRAINED]), data.target[order][:TRAINED]
    means = np.stack([trained[labels == label].mean(axis=0) for label in range(10)])
    network = LogisticRegression().fit(trained, labels)
    return network, means, images[TRAINED : TRAINED + VALIDATED], images[TRAINED + VALIDATED :]


def flat(images: np.ndarray) -> np.ndarray:
    found: np.ndarray = images.reshape(len(images), -1) / 255
    return found


def answers(images: np.ndarray) -> Rows:
    """Index, top probability and unfamiliarity (the distance to the nearest mean) of each."""
    network, means, *_ = classifier()
    probabilities = network.predict_proba(flat(images))
    strange = np.linalg.norm(flat(images)[:, None] - means, axis=2).min(axis=1)
    return [(int(row.argmax()), float(row.max()), float(far)) for row, far in zip(probabilities, strange, strict=True)]


def unfamiliar_from(rows: Rows) -> float:
    """The card's threshold: one of a hundred of its own pictures is beyond it."""
    return float(np.quantile([far for _, _, far in rows], 0.99))


def reference(rows: Rows) -> dict[str, Any]:
    """The card's, as training writes it."""
    best, top, strange = (np.array(column) for column in zip(*rows, strict=True))
    threshold = unfamiliar_from(rows)
    return {
        "labels": {label: float(np.mean(best == k)) for k, label in enumerate(LABELS)},
        "probability": {str(bound): float(np.mean(top <= bound)) for bound in TOP_PROBABILITIES},
        "unfamiliarity": {str(bound): float(np.mean(strange / threshold <= bound)) for bound in UNFAMILIARITIES},
    }


def exposed(rows: Rows, validated: Rows) -> list[str]:
    """The lines of /metrics after these answers."""
    card = {"reference": reference(validated), "unfamiliar_from": unfamiliar_from(validated)}
    given = {"labels": LABELS, "rows": rows} | card
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        input=json.dumps(given),
        cwd=ROOT,
        env=environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return [line for line in done.stdout.splitlines() if line.startswith("shortcut_")]


def firing(lines: list[str], tmp_path: Path) -> list[str]:
    """The alerts of a service whose counters grow by that much each minute."""
    series = []
    for line in lines:
        name, _, value = line.rpartition(" ")
        name = name.replace("{", '{instance="a",', 1)
        grows = not name.startswith(("shortcut_reference", "shortcut_model", "shortcut_queue_images"))
        series.append(
            {"series": name, "values": f"0+{float(value)}x{MINUTES}" if grows else f"{float(value)}x{MINUTES}"}
        )
    fires = []
    for alert in ALERTS:
        case = {
            "interval": "1m",
            "input_series": series,
            "alert_rule_test": [{"eval_time": "85m", "alertname": alert, "exp_alerts": []}],
        }
        test = {"rule_files": [str(PROMETHEUS / "alerts.yml")], "evaluation_interval": "1m", "tests": [case]}
        (tmp_path / "drift.yml").write_text(yaml.safe_dump(test))
        if not holds(tmp_path / "drift.yml", alert):
            fires.append(alert)
    return fires


def holds(file: Path, alert: str) -> bool:
    """Whether promtool finds that the alert is as the file expects it. Fails where promtool could not find out."""
    try:
        told = promtool("test", "rules", file)
    except AssertionError as failed:
        if f"alertname: {alert}, time:" not in str(failed) or "got:[" not in str(failed):
            raise
        return False
    assert "WARNING" not in told  # of rules that are not there
    return True


def blurred(images: np.ndarray) -> np.ndarray:
    """The mean of each pixel and its neighbours."""
    around = np.pad(images.astype(float), ((0, 0), (1, 1), (1, 1)), mode="edge")
    shifted = [around[:, y : y + SIDE, x : x + SIDE] for y in range(3) for x in range(3)]
    return np.mean(shifted, axis=0).astype(np.uint8)


def letters(count: int) -> np.ndarray:
    """Another data set: drawn capitals, as large as the digits."""
    rng, font, found = np.random.default_rng(0), ImageFont.load_default(28), []
    for _ in range(count):
        drawn = Image.new("L", (4 * SIDE, 4 * SIDE))
        place, letter = tuple(map(float, rng.integers(14, 19, 2))), chr(65 + int(rng.integers(26)))
        ImageDraw.Draw(drawn).text((place[0], place[1]), letter, 255, font, anchor="mm")
        found.append(np.asarray(drawn.resize((SIDE, SIDE), Image.Resampling.BOX)))
    return np.stack(found)


def one_class(images: np.ndarray) -> np.ndarray:
    return np.tile(images[:1], (len(images), 1, 1))


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        (lambda images: images, []),
        (lambda images: images[:1], []),  # too few to say anything
        (lambda images: 255 - images, list(ALERTS)),
        (blurred, list(ALERTS)),
        (lambda images: letters(len(images)), list(ALERTS)),
        (one_class, list(ALERTS)),
        (lambda images: images // 2, ["ShortcutConfidenceDrift"]),
    ],
    ids=["none", "few", "inverted", "blurred", "another data set", "one class", "dark"],
)
def test_a_shifted_stream_raises_the_drift_alerts(
    tmp_path: Path, shift: Callable[[np.ndarray], np.ndarray], expected: list[str]
) -> None:
    *_, validated, later = classifier()
    assert firing(exposed(answers(shift(later)), answers(validated)), tmp_path) == expected


@pytest.mark.parametrize("broken", ["the file", "the series", "the rules"])
def test_a_promtool_that_cannot_tell_is_no_alert(tmp_path: Path, broken: str) -> None:
    case = {
        "input_series": [{"series": "up", "values": "0q90" if broken == "the series" else "0x90"}],
        "alert_rule_test": [{"eval_time": "85m", "alertname": ALERTS[0], "exp_alerts": []}],
    }
    rules = "nowhere.yml" if broken == "the rules" else str(PROMETHEUS / "alerts.yml")
    if broken != "the file":
        (tmp_path / "case.yml").write_text(yaml.safe_dump({"rule_files": [rules], "tests": [case]}))
    with pytest.raises(AssertionError):
        holds(tmp_path / "case.yml", ALERTS[0])
