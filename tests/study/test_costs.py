"""Networks beside each other, from records of trainings that nobody ran."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from study.costs import COSTS, SERVED, entries, section, unbeaten
from study.experiments import FULL, experiments
from study.records import Records
from study.report import _table
from training.networks.table import NETWORKS


def record(network: str, accuracy: float, seed: int = 0, name: str = "tuned", **more: Any) -> dict[str, Any]:
    return {
        "network": network,
        "dataset": {"name": "cifar10", "origin": "made up"},
        "recipe": {"name": name, "epochs": 20, "seed": seed},
        "metrics": {"accuracy": accuracy, "per_class_accuracy": dict.fromkeys("0123456789", accuracy)},
        "training": {"seconds": 600.0 + 60 * seed, "hardware": "a made-up machine"},
        "parameters": 1000,
        **more,
    }


@pytest.fixture
def made(tmp_path: Path) -> Path:
    """runs/ and models/ with two seeds of a tuned network, its card, another recipe of it, and another network."""
    runs = {
        "resnet9-cifar10": record("resnet9", 0.94, macs=118_000_000),
        "resnet9-cifar10-again": record("resnet9", 0.93, seed=1, macs=118_000_000),
        "resnet9-cifar10-notebook": record("resnet9", 0.8, name="notebook"),
        "highway_conv-cifar10": record("highway_conv", 0.85, parameters=5000),
        "gone-cifar10": record("no_longer_there", 0.7),
    }
    (tmp_path / "runs").mkdir()
    for name, content in runs.items():
        (tmp_path / "runs" / f"{name}.json").write_text(json.dumps(content))
    (tmp_path / "runs" / "notes.json").write_text('{"network": "resnet9"}')
    unknown = record("efficientnet_lite0", 0) | {"metrics": None, "recipe": None, "training": None}
    for name, card in (("resnet9-cifar10", runs["resnet9-cifar10"]), ("lite0", unknown)):
        (tmp_path / "models" / name / "1").mkdir(parents=True)
        (tmp_path / "models" / name / "1" / "card.json").write_text(json.dumps(card))
    return tmp_path


def records(folder: Path) -> Records:
    return Records(folder / "runs", experiments(FULL))


def test_whatever_lies_there_is_an_entry_and_seeds_of_one_recipe_are_one(made: Path) -> None:
    (group,) = entries(records(made), made / "models").values()
    labels = ["resnet9, tuned", "highway_conv, tuned", "resnet9, notebook", "no_longer_there, tuned"]
    assert [entry.label for entry in group] == labels  # the most accurate first
    best = group[0]
    assert sorted(best.accuracies) == [0.93, 0.94]  # the card is of a run that has its record
    assert sorted(best.minutes) == [10, 11]
    assert (best.macs, best.epochs, best.hardware) == (118_000_000, 20, ("a made-up machine",))


def test_a_card_without_a_record_counts_too(made: Path) -> None:
    (made / "runs" / "resnet9-cifar10.json").unlink()
    with_cards, without = (entries(records(made), models)["cifar10"] for models in (made / "models", None))
    assert sorted(with_cards[0].accuracies) == [0.93, 0.94]
    assert without[0].accuracies == (0.93,)


def test_operations_that_no_record_states_are_those_of_the_network_as_it_is(made: Path) -> None:
    by_label = {entry.label: entry for entry in entries(records(made), None)["cifar10"]}
    assert by_label["highway_conv, tuned"].macs == NETWORKS["highway_conv"].macs((32, 32, 3))
    assert by_label["resnet9, notebook"].macs == NETWORKS["resnet9"].macs((32, 32, 3))
    assert by_label["no_longer_there, tuned"].macs is None


def test_unbeaten_is_what_no_other_beats_in_both(made: Path) -> None:
    group = entries(records(made), None)["cifar10"]
    parameters, macs, *_ = COSTS.values()
    assert [entry.label for entry in unbeaten(group, parameters)] == ["resnet9, tuned"]
    cheap = {entry.label for entry in unbeaten(group, macs)}
    assert "resnet9, tuned" in cheap
    assert "no_longer_there, tuned" not in cheap  # its operations are not known


def test_what_only_guesses_beats_nobody(made: Path) -> None:
    group = entries(records(made), None)["cifar10"]
    best = group[0]
    guessing = replace(best, network="guessing", accuracies=(0.1,), parameters=1)
    assert unbeaten([best, guessing], lambda entry: entry.parameters) == [best]
    assert unbeaten([best, replace(guessing, classes=11)], lambda entry: entry.parameters) == [best]
    assert len(unbeaten([best, replace(guessing, classes=100)], lambda entry: entry.parameters)) == 2


def test_the_section_has_a_table_and_a_plot_for_each_data_set(made: Path) -> None:
    other = record("dense_sum", 0.97, macs=233_000) | {"dataset": {"name": "mnist", "origin": "made up"}}
    (made / "runs" / "dense_sum-mnist.json").write_text(json.dumps(other))
    text = section(records(made), made / "models", made / "study", _table)
    row = "| resnet9 | tuned | 20 | 93.5 (93.0–94.0) | 2 | 1,000 | 118 | 10.5 (10.0–11.0) | a made-up machine |"
    assert f"{row}  |" in text.splitlines()  # nobody has measured what the service answers
    assert "unbeaten by microseconds" not in text
    for name in ("cifar10", "mnist"):
        plot = made / "study" / f"costs-{name}.png"
        assert plot.read_bytes().startswith(b"\x89PNG")
        assert plot.stat().st_size < 200_000
        assert f"### {name}\n" in text
        assert f"(study/{plot.name})" in text


@pytest.mark.usefixtures("sketched")
def test_what_the_service_answers_stands_beside_the_accuracy(made: Path) -> None:
    row = {"network": "resnet9", "dataset": "cifar10", "recipe": "tuned", "requests_per_second": 1234.5}
    machine = {"cores": 2, "cpu": "a made-up CPU", "cpu_kind": "AMX", "date": "2026-01-02"}
    (made / SERVED).write_text(json.dumps([row | machine]))
    assert entries(records(made), None)["cifar10"][0].served == 1234.5
    text = section(records(made), None, made / "study", _table)
    assert "| a made-up machine | 1,234 |" in text
    assert "2 cores of a made-up CPU (AMX), 2026-01-02." in text
    assert "- unbeaten by microseconds a request (1 / throughput): resnet9, tuned\n" in text


def test_nothing_committed_is_said(tmp_path: Path) -> None:
    text = section(Records(tmp_path / "runs", []), None, tmp_path / "study", _table)
    assert "Nothing is committed yet." in text
