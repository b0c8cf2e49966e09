"""The study at toy size end to end, and its verdicts on numbers whose answer can be worked out by hand."""

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")  # as training.fit does, before TensorFlow is imported

import keras
import numpy as np
import pytest

from study import segments, shifts, verdicts
from study.__main__ import main
from study.claims import claims, judge
from study.costs import SERVED
from study.experiments import FULL, QUICK, SYSTEMS, Committed, PairedTiming, Training, experiments, full, sweep
from study.records import Records
from study.report import write_report
from study.verdicts import HERE, HOLDS, NOT, UNDECIDED, Outcome
from training.networks.network import build
from training.networks.table import NETWORKS

DOCS = Path(__file__).parents[2] / "docs"


@pytest.fixture(scope="module")
def study(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The output folder of one `--quick` study."""
    handler = signal.getsignal(signal.SIGTERM)
    folder = tmp_path_factory.mktemp("study")
    assert main(["--quick", "--output", str(folder)]) == 0
    yield folder
    signal.signal(signal.SIGTERM, handler)


# The command


@pytest.mark.thorough
def test_quick_makes_every_record_and_writes_every_claim(study: Path) -> None:
    made = {path.stem for path in (study / "runs" / "study").glob("*.json")}
    assert made == {row.name for row in experiments(QUICK)}
    page = (study / "study.md").read_text()
    for claim in claims(QUICK):
        section = page.partition(f"## {claim.number}. {claim.title}\n")[2].partition("\n## ")[0]
        assert "**Verdict: " in section
        assert "**What would decide it.**" in section
    assert "global minimum" in page
    assert "What the old metric hid" in page
    assert "toy study" in page
    plots = list((study / "study").glob("*.png"))
    assert len(plots) >= 8
    assert all(f"study/{plot.name}" in page for plot in plots)
    assert all(plot.stat().st_size < 200_000 for plot in plots)


@pytest.mark.usefixtures("sketched")  # the toy study draws its plots whole
def test_the_committed_study_is_what_its_records_give(tmp_path: Path) -> None:
    shutil.copytree(DOCS / "runs", tmp_path / "runs")
    shutil.copy(DOCS / SERVED, tmp_path)
    records = Records(tmp_path / "runs", experiments(FULL))
    assert records.missing(records.rows) == []
    page = write_report(claims(FULL), records, tmp_path, DOCS.parent / "models")
    assert page.read_text() == (DOCS / "study.md").read_text()
    for plot in (tmp_path / "study").glob("*.png"):
        assert (DOCS / "study" / plot.name).stat().st_size < 200_000


@pytest.mark.thorough
def test_a_record_says_how_it_was_made(study: Path) -> None:
    record = json.loads((study / "runs" / "study" / f"{sweep(2, 0)}.json").read_text())
    assert record["experiment"]["kind"] == "Training"
    assert record["dataset"]["train"] == QUICK.images
    assert record["dataset"]["validation"] == QUICK.validation
    assert len(record["history"]["val_categorical_accuracy"]) == len(record["epoch_seconds"]) == QUICK.epochs
    assert 0 <= record["metrics"]["accuracy"] <= 1
    assert len(record["drops"]["dropped"]) == len(record["gradients"]["kernel"]) == 2
    assert set(record["shifts"]["shifted"]) == set(shifts.SHIFTS)
    assert {"average_start", "average_end", "other_cores"} == set(record["load"])
    assert record["hardware"]


@pytest.mark.thorough
def test_a_study_continues_where_it_stopped(study: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = study / "runs" / "study"
    before = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    (folder / "gradients-initial.json").unlink()
    assert main(["--quick", "--list", "--output", str(study)]) == 0
    assert "1 missing" in capsys.readouterr().out
    assert main(["--quick", "--output", str(study)]) == 0
    assert "1/1 gradients-initial" in capsys.readouterr().out
    after = {path.name: path.stat().st_mtime_ns for path in folder.glob("*.json")}
    assert {name for name in after if after[name] != before[name]} == {"gradients-initial.json"}


def test_interrupting_keeps_what_is_finished(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from study import measure

    calls = []

    def one_then_stop(row: object, workplace: object) -> dict[str, Any]:
        calls.append(row)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return {"network": "stub"}

    monkeypatch.setattr(measure, "run", one_then_stop)
    assert main(["--quick", "--output", str(tmp_path)]) == 130
    assert f"1 of {len(experiments(QUICK))} records are kept" in capsys.readouterr().err
    assert [path.stem for path in (tmp_path / "runs" / "study").iterdir()] == [experiments(QUICK)[0].name]


@pytest.mark.usefixtures("sketched")
def test_report_only_trains_nothing_and_says_what_is_missing(tmp_path: Path) -> None:
    assert main(["--report-only", "--output", str(tmp_path)]) == 0
    page = (tmp_path / "study.md").read_text()
    for claim in claims(FULL):
        if claim.needs:
            assert f"{len(claim.needs)} of {len(claim.needs)} runs are missing" in page
    assert page.count(f"**Verdict: {UNDECIDED}.**") == len(claims(FULL))
    assert not (tmp_path / "runs").exists()


def test_full_runs_are_left_to_fit(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--only", "full-conv_resnet_deep*", "--output", str(tmp_path)]) == 0
    assert "python -m training.fit conv_resnet_deep --dataset cifar10" in capsys.readouterr().out


def test_quick_needs_an_output(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        main(["--quick"])
    assert stop.value.code == 2
    assert "--output" in capsys.readouterr().err


# The table and its records


def test_rows_are_cheapest_first_and_the_timing_last() -> None:
    rows = experiments(FULL)
    costs = [row.seconds() for row in rows[:-1]]
    assert costs == sorted(costs)
    assert isinstance(rows[-1], PairedTiming)
    assert len({row.name for row in rows}) == len(rows)


def test_every_claim_names_rows_that_exist() -> None:
    names = {row.name for row in experiments(FULL)}
    assert {name for claim in claims(FULL) for name in claim.needs} <= names


def test_only_the_full_deep_runs_have_a_single_seed() -> None:
    names = {row.name for row in experiments(FULL)}
    for model in SYSTEMS:
        assert sum(full(model, seed) in names for seed in FULL.seeds) == (1 if "deep" in model else 3)


def test_a_changed_row_is_a_missing_record(tmp_path: Path) -> None:
    row = next(row for row in experiments(FULL) if row.name == sweep(4, 1))
    Records(tmp_path, [row]).keep(row, {"network": "stub"})
    assert Records(tmp_path, [row]).missing([row.name]) == []
    assert isinstance(row, Training)
    changed = replace(row, recipe=replace(row.recipe, epochs=6))
    assert Records(tmp_path, [changed]).missing([row.name]) == [row.name]


def test_a_damaged_record_is_a_missing_one(tmp_path: Path) -> None:
    row = experiments(FULL)[-1]
    path = Records(tmp_path, [row]).path(row.name)
    path.parent.mkdir(parents=True)
    path.write_text('{"name": ')
    assert Records(tmp_path, [row]).missing([row.name]) == [row.name]


# Verdicts


def test_above_means_every_seed_or_twice_the_sampling_error() -> None:
    assert verdicts.clearly_above([0.61, 0.62, 0.63], [0.58, 0.59, 0.60], 10_000) is True
    assert verdicts.clearly_above([0.58, 0.59, 0.60], [0.61, 0.62, 0.63], 10_000) is False
    assert verdicts.clearly_above([0.61, 0.62, 0.595], [0.58, 0.59, 0.60], 10_000) is None
    # One against three at 50 %: 2 * sqrt(2 * 0.25 / 10000) = 1.4 points
    assert verdicts.clearly_above([0.52], [0.49, 0.50, 0.51], 10_000) is None
    assert verdicts.clearly_above([0.53], [0.49, 0.50, 0.51], 10_000) is True


@pytest.mark.parametrize(
    ("ratios", "answer"),
    [([1.9, 2.0, 2.1, 9.0], None), ([1.9, 2.0, 2.0, 2.1, 9.0], True), ([3.0, 3.1, 3.2], False), ([1.0], False)],
)
def test_about_double_is_judged_by_the_middle_half(ratios: list[float], answer: bool | None) -> None:
    assert verdicts.within(ratios, verdicts.ABOUT_DOUBLE) is answer


def test_batch_norm_settles_when_little_of_its_start_is_left() -> None:
    # 0.99**299 = 0.0495 is the first power under 5 %
    assert verdicts.settled_epoch(images=299, batch_size=1) == 1
    assert verdicts.settled_epoch(images=298, batch_size=1) == 2
    assert verdicts.settled_epoch(images=40_000, batch_size=256) == 2


def test_steady_improvement_is_not_unrest() -> None:
    assert verdicts.unsteadiness([0.1, 0.2, 0.3, 0.4]) == pytest.approx(0)
    assert verdicts.unsteadiness([0.5, 0.6, 0.6, 0.5]) == pytest.approx(0.05)


@pytest.mark.parametrize(
    ("answers", "word"),
    [
        ([True, True], HOLDS),
        ([True], HERE),
        ([True, False], HERE),
        ([True, None], HERE),
        ([False, None], NOT),
        ([None], UNDECIDED),
        ([], UNDECIDED),
    ],
)
def test_the_word_of_a_verdict(answers: list[bool | None], word: str) -> None:
    outcomes = {f"setting {i}": Outcome(answer, "because") for i, answer in enumerate(answers)}
    assert verdicts.verdict(outcomes, [], 1).word == word
    assert verdicts.verdict(outcomes, ["a run"], 1).word == UNDECIDED


EXPECTED = {1: HOLDS, 2: HOLDS, 3: NOT, 4: HERE, 5: HERE, 6: NOT, 7: HERE, 8: HOLDS, 9: HOLDS, 10: HOLDS, 11: NOT}


@pytest.mark.usefixtures("sketched")
def test_verdicts_follow_from_invented_records(tmp_path: Path) -> None:
    """Deep beats shallow beats dense, conv is restless and ten times slower than dense, plain nets learn late; summed
    bottlenecks are no better than dense layers."""
    records = invented(tmp_path)
    found = {claim.number: judge(claim, records).word for claim in claims(FULL)}
    assert found == EXPECTED
    page = write_report(claims(FULL), records, tmp_path / "docs").read_text()
    assert "| conv_resnet_deep-mnist | 99.0 |" in page
    assert "0.10 cores busy" in page


def invented(folder: Path) -> Records:
    """A record for every row of the full study, made up so that each claim's answer is known."""
    records = Records(folder, experiments(FULL))
    for row in records.rows.values():
        if isinstance(row, PairedTiming):
            relative = {"conv_resnet_shallow": 10.0, "conv_resnet_deep": 20.0, "plain": 20.0, "dense_sum": 1.0}
            times = {timed.label: [relative.get(timed.network, 1.0)] * 3 for timed in row.systems}
            result: dict[str, Any] = {
                "seconds_per_image": times,
                "images_per_second": {label: 1 / values[0] for label, values in times.items()},
            }
        elif isinstance(row, Training | Committed):
            result = invented_training(row.name)
        elif row.name.startswith("shifts-"):
            result = {"shifts": invented_shifts(row.name)}
        else:
            flat, fading = ([1.0] * 19, [10.0 ** (i - 18) for i in range(19)])
            result = {
                "gradients": {
                    f"{way}, {norm}": [{"kernel": flat, "output": fading if way.startswith("without") else flat}] * 3
                    for way in ("with shortcuts", "without shortcuts")
                    for norm in ("batch norm", "no batch norm")
                }
            }
            result["gradients"]["without shortcuts, batch norm"] = [{"kernel": flat, "output": flat}] * 3
        records.keep(row, {**result, "load": {"other_cores": 0.1}, "hardware": "a made-up machine"})
    return Records(folder, experiments(FULL))


def invented_training(name: str) -> dict[str, Any]:
    plain, dense = "plain" in name, "dense" in name
    blocks = int(name.split("-")[1]) if name[:5] in ("sweep", "plain") else 19 if "deep" in name else 2
    epochs = 10 if name.startswith("full") else 5
    easy = "mnist" in name
    accuracy = 0.4 if plain else (0.97 if easy else 0.45) if dense else 0.99 if easy else 0.6 + blocks / 100
    # All climb from half of their last accuracy, so leads grow; dense_sum is one epoch ahead, conv jumps up and down.
    ahead = 2 if "dense_sum" in name else 1
    jump = 0.0 if dense else 0.02
    curve = [accuracy * (1 + min(1, (e + ahead) / epochs)) / 2 - jump * (e % 2) for e in range(epochs)]
    return {
        "metrics": {"accuracy": accuracy},
        "binary_accuracy": 0.95,
        "parameters": 1000 * blocks,
        "dataset": {
            "name": "mnist" if "mnist" in name else "cifar10",
            "origin": "made up",
            "train": 50_000,
            "test": 10_000,
        },
        "recipe": {"batch_size": 64, "validation": "test"},
        "history": {"val_categorical_accuracy": curve, "categorical_accuracy": curve},
        "epoch_seconds": [10.0] * epochs,
        "images_per_second": 800.0,
        "shifts": invented_shifts(name),
        "gradients": {"kernel": [1.0] * 19, "output": [1.0] * 19},
        "drops": {"accuracy": 0.6, "dropped": [0.1 if plain else 0.59] * blocks, "images": 2_000},
    }


def invented_shifts(name: str) -> dict[str, Any]:
    kept = 0.9 if "deep" in name or "sweep-19" in name else 0.7
    return {"accuracy": 0.6, "shifted": dict.fromkeys(shifts.SHIFTS, 0.6 * kept), "images": 2_000}


# Probes


@pytest.fixture(scope="module")
def network() -> keras.Model:
    """A residual convolutional network of two blocks on 16x16 grey images, untrained."""
    keras.utils.set_random_seed(0)
    return build(replace(NETWORKS["conv_resnet_deep"], blocks=2), (16, 16, 1), 10, "probe")


IMAGES = np.random.default_rng(0).random((20, 16, 16, 1)).astype(np.float32)


def test_the_segments_in_turn_are_the_network(network: keras.Model) -> None:
    x = IMAGES
    for part in segments.cut(network, 2):
        x = part(x)
    np.testing.assert_allclose(x, network(IMAGES), atol=1e-6)


def test_dropping_a_residual_block_is_emptying_its_body(network: keras.Model) -> None:
    targets = np.asarray(network(IMAGES)).argmax(axis=1)
    result = segments.accuracy_without_blocks(network, 2, IMAGES, targets)
    assert result["accuracy"] == 1.0
    last = network.get_layer("block2_conv2")
    kept = last.get_weights()
    last.set_weights([np.zeros_like(weight) for weight in kept])  # relu(0) = 0: the Add leaves the shortcut alone
    emptied = float((np.asarray(network(IMAGES)).argmax(axis=1) == targets).mean())
    last.set_weights(kept)
    assert result["dropped"][1] == emptied


def test_measuring_gradients_changes_no_weight(network: keras.Model) -> None:
    before = network.get_weights()
    one_hot = np.eye(10, dtype=np.float32)[np.arange(20) % 10]
    norms = segments.gradient_norms(network, 2, "binary_crossentropy", IMAGES, one_hot)
    assert len(norms["kernel"]) == len(norms["output"]) == 2
    assert all(norm > 0 for values in norms.values() for norm in values)
    for old, new in zip(before, network.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)


def test_shifts_are_what_their_names_say() -> None:
    image = np.full((4, 9, 9, 1), 100, np.uint8)
    image[:, 4, 4] = 200
    moved = shifts.shift("moved 2 pixels", image)
    places = {tuple(int(i) for i in np.argwhere(picture[..., 0] == 200)[0]) for picture in moved}
    assert places <= {(2, 4), (6, 4), (4, 2), (4, 6)}
    half = shifts.shift("contrast 1/2", image)
    mean = image[0].mean()
    assert half[0, 4, 4, 0] == round(mean + (200 - mean) / 2)
    noised = shifts.shift("noise 16", np.full((10, 16, 16, 3), 128, np.uint8))
    assert noised.dtype == np.uint8
    assert noised.std() == pytest.approx(16, rel=0.05)
    np.testing.assert_array_equal(moved, shifts.shift("moved 2 pixels", image))


def test_accuracy_by_shift_asks_for_every_kind() -> None:
    images = np.full((8, 16, 16, 1), 7, np.uint8)
    seen: list[np.ndarray] = []

    def always_one(pictures: np.ndarray) -> np.ndarray:
        seen.append(pictures)
        return np.eye(3)[np.ones(len(pictures), int)]

    result = shifts.accuracy_by_shift(always_one, images, np.array([1, 1, 1, 1, 1, 1, 0, 2]))
    assert result["accuracy"] == 0.75
    assert set(result["shifted"].values()) == {0.75}
    assert len(seen) == 1 + len(shifts.SHIFTS)
