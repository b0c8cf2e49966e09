"""A stream of pictures that is not what the model was validated on raises an alert; one that is does not.

The toy network's real answers go through the service's own meter, and what /metrics shows of them through the real
rules, by promtool.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from serving.operations.metrics import TOP_PROBABILITIES, UNFAMILIARITIES
from tests.deploy.test_deploy import PROMETHEUS, promtool
from tests.fixtures import toy
from tests.fixtures.server import ROOT, environment

SHAPE, MINUTES = (8, 8, 3), 90  # the latter: how long the stream lasts
ALERTS = ("ShortcutLabelDrift", "ShortcutConfidenceDrift")
UNFAMILIAR_FROM = 0.6
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


def pictures(count: int, seed: int) -> np.ndarray:
    """Of one colour each, with noise: the toy network answers all three classes."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 200, (count, 1, 1, 3))
    return (colour + rng.integers(0, 56, (count, *SHAPE))).astype(np.uint8)


def answers(images: np.ndarray) -> list[tuple[int, float, float]]:
    """Index, top probability and unfamiliarity of each."""
    probabilities = toy.expected(images, toy.weights(SHAPE, 3))
    strange = toy.expected_unfamiliarity(images)
    best = probabilities.argmax(axis=1)
    return [(int(k), float(row[k]), float(u)) for k, row, u in zip(best, probabilities, strange, strict=True)]


def reference(rows: list[tuple[int, float, float]]) -> dict[str, Any]:
    """The card's, as training writes it."""
    best, top, strange = (np.array(column) for column in zip(*rows, strict=True))
    return {
        "labels": {label: float(np.mean(best == k)) for k, label in enumerate(toy.LABELS)},
        "probability": {str(bound): float(np.mean(top <= bound)) for bound in TOP_PROBABILITIES},
        "unfamiliarity": {str(bound): float(np.mean(strange / UNFAMILIAR_FROM <= bound)) for bound in UNFAMILIARITIES},
    }


def exposed(rows: list[tuple[int, float, float]], card: dict[str, Any]) -> list[str]:
    """The lines of /metrics after these answers."""
    given = {"labels": toy.LABELS, "reference": card, "unfamiliar_from": UNFAMILIAR_FROM, "rows": rows}
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
        try:
            promtool("test", "rules", tmp_path / "drift.yml")
        except AssertionError:  # promtool says that it fires
            fires.append(alert)
    return fires


@pytest.mark.parametrize(
    ("shift", "expected"),
    [
        ("none", []),
        ("the rarest class", list(ALERTS)),
        ("too dark", ["ShortcutConfidenceDrift"]),
        ("few", []),
    ],
)
def test_a_shifted_stream_raises_the_drift_alerts(tmp_path: Path, shift: str, expected: list[str]) -> None:
    card = reference(answers(pictures(4000, seed=1)))
    seen = pictures(3000, seed=2)
    if shift == "the rarest class":
        classes = [index for index, _, _ in answers(seen)]
        rarest = min(set(classes), key=classes.count)
        seen = np.tile(seen[classes.index(rarest)], (3000, 1, 1, 1))
    if shift == "too dark":
        seen = seen // 8
    if shift == "few":
        seen = seen[:1]
    fires = firing(exposed(answers(seen), card), tmp_path)
    assert set(expected) <= set(fires)
    if not expected:
        assert fires == []
