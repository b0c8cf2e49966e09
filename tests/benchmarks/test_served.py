"""The rates that stand beside every model, measured on the real service with toy models."""

import json
from pathlib import Path
from typing import Any

import pytest

from benchmarks import served
from benchmarks.load import Figures, Load
from tests.fixtures import toy


def test_every_model_of_a_folder_gets_its_rate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    about: dict[str, Any] = {"network": "toy", "dataset": {"name": "toys"}}
    toy.write_artifact(tmp_path / "models", "toy-a", **about)
    toy.write_artifact(tmp_path / "models", "toy-b", version=3, recipe={"name": "tuned"}, **about)

    def closed(load: Load, connections: int, seconds: int) -> Figures:
        return load.open(20, seconds, connections)  # wrk may not be here

    monkeypatch.setattr(Load, "closed", closed)
    file = tmp_path / "served.json"
    assert served.main(["--models", str(tmp_path / "models"), "--rounds=1", "--seconds=1", f"--output={file}"]) == 0
    rows = json.loads(file.read_text())
    which = [(row["model"], row["version"], row["network"], row["dataset"], row["recipe"]) for row in rows]
    assert which == [("toy-a", 1, "toy", "toys", "notebook"), ("toy-b", 3, "toy", "toys", "tuned")]
    for row in rows:
        assert row["requests_per_second"] > 5
        assert {"provider", "precision", "cpu", "cpu_kind", "cores", "date", "revision"} <= row.keys()


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
