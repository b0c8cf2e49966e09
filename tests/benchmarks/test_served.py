"""The throughput that stands beside every model, measured on the real service with toy models."""

import json
import os
import re
from pathlib import Path
from typing import Any

import pytest

from benchmarks import served
from benchmarks.load import Figures, Load
from tests.fixtures import toy


@pytest.fixture
def models(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two versions of one model and one of another; nothing of the machine's settings reaches the service."""
    for name in list(os.environ):
        if name.startswith("SHORTCUT_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("SHORTCUT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("SHORTCUT_PROVIDER", "cpu")
    about: dict[str, Any] = {"network": "toy", "dataset": {"name": "toys"}}
    toy.write_artifact(tmp_path / "models", "toy-a", recipe={"epochs": 1}, **about)
    toy.write_artifact(tmp_path / "models", "toy-a", version=2, seed=1, recipe={"name": "tuned"}, **about)
    toy.write_artifact(tmp_path / "models", "toy-b", version=3, recipe=None, **about)
    return tmp_path / "models"


@pytest.mark.thorough
@pytest.mark.skipif(not Path(".venv/bin/bentoml").exists(), reason="the service's environment is not built")
def test_every_version_of_a_folder_gets_its_rate(models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    measured: list[float] = []

    def closed(load: Load, connections: int, seconds: int) -> Figures:
        figures = load.open(20, seconds, connections)  # wrk may not be here
        measured.append(round(figures.rate, 1))
        return figures

    monkeypatch.setattr(Load, "closed", closed)
    file = models.parent / "served.json"
    assert served.main(["--models", str(models), "--rounds=1", "--seconds=1", f"--output={file}"]) == 0
    rows = json.loads(file.read_text())
    which = {(row["model"], row["version"], row["network"], row["dataset"], row["recipe"]) for row in rows}
    assert which == {
        ("toy-a", 1, "toy", "toys", "notebook"),
        ("toy-a", 2, "toy", "toys", "tuned"),
        ("toy-b", 3, "toy", "toys", ""),
    }
    assert sorted(row["requests_per_second"] for row in rows) == sorted(measured[1::2])  # each warms up before it
    for row in rows:
        assert row["requests_per_second"] > 0
        assert row["precision"] == "float32"
        assert {"provider", "cpu", "cpu_kind", "cores", "date", "revision"} <= row.keys()


@pytest.mark.thorough
@pytest.mark.skipif(not Path(".venv/bin/bentoml").exists(), reason="the service's environment is not built")
def test_answers_that_fail_are_no_throughput(
    models: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Load, "closed", lambda *_: Figures(100.0, 1.0, 1.0, not_200=3, lost=0))
    file = models.parent / "served.json"
    assert served.main(["--models", str(models), "toy-b", "--rounds=1", "--seconds=1", f"--output={file}"]) == 1
    assert "3 answers were not 200" in capsys.readouterr().err
    assert not file.exists()


def test_what_was_not_measured_now_keeps_its_figure(tmp_path: Path) -> None:
    file = tmp_path / "served.json"
    row = {"dataset": "mnist", "network": "dense_sum", "recipe": "tuned", "version": 1, "requests_per_second": 100.0}
    served.keep([row, row | {"recipe": "notebook"}], file)
    served.keep([row | {"version": 2, "requests_per_second": 200.0}], file)
    rows = json.loads(file.read_text())
    assert [(r["recipe"], r["version"], r["requests_per_second"]) for r in rows] == [
        ("notebook", 1, 100.0),
        ("tuned", 2, 200.0),
    ]


def test_a_folder_without_models_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        served.main(["--models", str(tmp_path)])
    assert "has no models" in capsys.readouterr().err


def test_the_page_of_scaling_quotes_the_figures() -> None:
    """What it computes from them follows: a core's figure, and the hours of a million pictures."""
    page = Path("docs/scaling.md").read_text()
    latest = {row["model"]: row for row in json.loads(Path("docs/served.json").read_text())}  # in order of versions
    rows = re.findall(r"^\| [\w×]+ \w+, `(\S+)` \| ([\d,.]+) \| ([\d,.]+) \| ([\d.]+) \|$", page, re.M)
    quoted = [row for row in rows if "." not in row[1]]  # the third is of another command
    assert [row[0] for row in quoted] == ["digits_cnn-mnist", "efficientnet_lite0-imagenet"]
    for model, *figures in quoted:
        rate, core, hours = (float(figure.replace(",", "")) for figure in figures)
        measured = latest[model]["requests_per_second"]
        assert abs(rate - measured) <= 0.5
        assert abs(core - measured / 2) <= 0.5
        assert abs(hours - 1e6 / (measured / 2) / 3600) <= 0.005
        assert f"({core:,.0f} × 0.65)" in page
        assert latest[model]["date"] in page
