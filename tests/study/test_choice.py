"""Which network to take, from figures that nobody measured."""

import json
from pathlib import Path

from study.choice import choice, sentences, unbeaten_served
from study.costs import Entry
from study.experiments import FULL, experiments
from study.records import Records


def entry(network: str, accuracy: float, served: float | None) -> Entry:
    return Entry("cifar10", network, "tuned", 10, (accuracy,), 1000, 10**6, (1.0,), ("a machine",), served)


FAST, MIDDLE, BEST = entry("fast", 0.5, 9000), entry("middle", 0.8, 6000), entry("best", 0.9, 3000)
BEATEN = entry("beaten", 0.79, 5000)


def test_each_corner_gets_a_sentence_and_what_is_beaten_none() -> None:
    assert unbeaten_served([BEST, BEATEN, MIDDLE, FAST]) == [BEST, MIDDLE, FAST]
    assert sentences([BEST, BEATEN, MIDDLE, FAST]) == [
        "Take `fast` (tuned) if only speed counts. It has 50.0 % right at 9,000 requests/s.",
        "Between them, `middle` (tuned) answers 2.0 times as many requests as the most accurate, for 10.0 points less. "
        "It has 80.0 % right at 6,000 requests/s.",
        "Take `best` (tuned) if accuracy counts. It has 90.0 % right at 3,000 requests/s.",
    ]


def test_one_that_beats_all_others_is_the_only_one() -> None:
    (only,) = sentences([entry("both", 0.95, 9999), FAST, BEST])
    assert only.startswith("Take `both` (tuned): no other")


def test_the_section_draws_what_was_served_and_names_what_was_not(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    rates = {"resnet9": 3000.0, "highway_conv": 6000.0, "resnext": None}
    for i, network in enumerate(rates):
        accuracy = 0.9 - i / 10
        record = {
            "network": network,
            "dataset": {"name": "cifar10", "origin": "made up"},
            "recipe": {"name": "tuned", "epochs": 20, "seed": 0},
            "metrics": {"accuracy": accuracy, "per_class_accuracy": dict.fromkeys("0123456789", accuracy)},
            "parameters": 1000,
        }
        (tmp_path / "runs" / f"{network}-cifar10.json").write_text(json.dumps(record))
    records = Records(tmp_path / "runs", experiments(FULL))
    assert "No throughput is measured yet" in choice(records, None, tmp_path / "study")
    rows = [
        {"network": network, "dataset": "cifar10", "recipe": "tuned", "requests_per_second": rate}
        for network, rate in rates.items()
        if rate
    ]
    (tmp_path / "served.json").write_text(json.dumps(rows))
    text = choice(records, None, tmp_path / "study")
    assert "![cifar10](study/choice-cifar10.png)" in text
    assert "- Take `highway_conv` (tuned) if only speed counts." in text
    assert "- Not measured, so not drawn: resnext, tuned." in text
    assert (tmp_path / "study" / "choice-cifar10.png").stat().st_size < 200_000
