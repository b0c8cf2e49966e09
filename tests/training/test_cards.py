import json
import shutil
from pathlib import Path

import pytest

from training import cards


@pytest.fixture
def models(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    for name, accuracy in (("a-mnist", 0.5), ("b-mnist", 0.75)):
        card = {
            "name": name,
            "dataset": {"origin": "drawn"},
            "metrics": {"accuracy": accuracy, "calibration_error": 0.1234},
            "macs": 1_234_567,
            "parameters": 12345,
            "files": {"model.onnx": {"bytes": 2_500_000}},
            "training": {"seconds": 300, "images_per_second": 1234.5},
        }
        (folder / name / "1").mkdir(parents=True)
        (folder / name / "1" / "card.json").write_text(json.dumps(card))
    (folder / "README.md").write_text(f"before\n{cards.BEGIN}\n{cards.END}\nafter\n")
    return folder


def test_the_page_gets_the_table_and_keeps_the_rest(models: Path) -> None:
    assert cards.main(["--models", str(models), "--check"]) == 1
    assert cards.main(["--models", str(models)]) == 0
    assert cards.main(["--models", str(models), "--check"]) == 0
    text = (models / "README.md").read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    rows = [line for line in text.splitlines() if line.startswith("| `")]
    assert rows[0] == "| `b-mnist` | drawn | 75.00 % | 0.123 | 1.23 M | 12,345 | 2.5 MB | 5 min | – |"
    assert rows[1].startswith("| `a-mnist` | drawn | 50.00 % ")


def test_a_model_that_was_trained_elsewhere_has_a_row_without_figures(models: Path) -> None:
    shutil.copytree(models / "a-mnist", models / "c-shapes")
    path = models / "c-shapes" / "1" / "card.json"
    unknown = {"name": "c-shapes", "network": "own", "macs": None, "metrics": None, "training": None}
    path.write_text(json.dumps(json.loads(path.read_text()) | unknown))
    assert cards.main(["--models", str(models)]) == 0
    rows = [line for line in (models / "README.md").read_text().splitlines() if line.startswith("| `")]
    assert rows[-1] == "| `c-shapes` | drawn | – | – | – | 12,345 | 2.5 MB | – | – |"


def test_what_the_service_was_measured_to_answer_stands_beside_its_version(models: Path) -> None:
    row = {"model": "a-mnist", "version": 1, "requests_per_second": 1234.5, "cores": 2, "cpu": "CPU", "cpu_kind": "AMX"}
    (models.parent / "docs").mkdir()
    rows = [row | {"date": "2026-01-02"}, row | {"model": "b-mnist", "version": 2, "date": "2026-01-02"}]
    (models.parent / cards.SERVED).write_text(json.dumps(rows))
    assert cards.main(["--models", str(models)]) == 0
    text = (models / "README.md").read_text()
    assert [line.split(" | ")[-1] for line in text.splitlines() if line.startswith("| `")] == ["– |", "1,234 |"]
    assert "32 connections; 2 cores of CPU, AMX, 2026-01-02." in text


def test_an_old_card_gets_its_operations_from_the_network() -> None:
    card = {"network": "dense_resnet", "input_shape": [28, 28, 1], "labels": list("0123456789")}
    assert cards.macs(card) == 784 * 128 + 128 * 128 * 8 + 128 * 10
    assert cards.macs(card | {"macs": 7}) == 7


def test_a_page_without_markers_is_told() -> None:
    with pytest.raises(ValueError, match="markers"):
        cards.replaced("no markers here", "table")
