"""report.html: what it shows of a real run, that it stands alone, and that nothing a user wrote becomes markup."""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import Browser

from tests.fixtures.browser import chromium
from training.artifact.metrics import confusion_matrix, measure
from training.data.dataset import Dataset
from training.runs.report import write_report

pytest_plugins = ["tests.fixtures.training"]

HOSTILE = ("<script>document.title='hit'</script>", "$x_{", '"><img src=https://example.org/x.png>')


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a report on nine pictures of classes with such names; three are answered wrong."""
    folder = tmp_path_factory.mktemp("report")
    targets = np.arange(9) % 3
    images = np.full((9, 200, 150, 3), 200, np.uint8)
    answers = np.where(np.arange(9) < 6, targets, (targets + 1) % 3)
    probabilities = np.full((9, 3), 0.05, np.float32)
    probabilities[np.arange(9), answers] = 0.9
    data = Dataset("d", "d", HOSTILE, "plain", images, targets, images, targets)
    record = {
        "model": "a<b>",
        "version": 3,
        "metrics": measure(probabilities, targets, HOSTILE),
        "intervals": {"accuracy": (0.3, 0.9)},
        "warnings": [f"it never answers {HOSTILE[0]}"],
        "calibration": {"temperature": 1.25, "before": 0.1, "after": 0.05},
        "threshold": {"probability": 0.81, "precision": 0.95, "coverage": 0.5},
        "dataset": {"origin": "folder <i>", "train": 1234, "test": 9},
        "training": {"epochs": 2, "seconds": 3.2, "images_per_second": 40.0, "hardware": "a & b"},
        "parameters": 5678,
        "recipe": {"name": "augmented"},
        "confusion": confusion_matrix(answers, targets, 3).tolist(),
        "history": {f"{v}{key}": [1.0, 0.5] for v in ("", "val_") for key in ("loss", "categorical_accuracy")},
        "best_epoch": 2,
        "notes": ["skipped <b>.jpg"],
    }
    write_report(folder, record, data, probabilities)
    return folder


def test_it_shows_the_cards_figures(toy_run: Path) -> None:
    page = (toy_run / "runs/tiny-digits/1/report.html").read_text()
    card = json.loads((toy_run / "models/tiny-digits/1/card.json").read_text())
    for key in ("accuracy", "loss", "calibration_error"):
        assert f"{card['metrics'][key]:.4f}" in page
    for label, recall in card["metrics"]["per_class_accuracy"].items():
        assert re.search(rf"<td>{label}</td><td[^>]*>\d+</td><td[^>]*>{recall:.4f} \(", page)
    assert f"{card['parameters']:,}" in page
    assert page.count("data:image/png") == 3
    assert "report.html" in (toy_run / "output.txt").read_text()


def test_it_shows_the_mistakes_and_the_surest_first(hostile: Path) -> None:
    page = (hostile / "report.html").read_text()
    assert "3 of 9 test images are answered wrong" in page
    wrong, doubtful = page.split("In most doubt")
    assert wrong.count("<figure>") == 3
    assert doubtful.count("<figure>") == 9
    assert "$x_{ 0.90, is &lt;script&gt;" in wrong
    for figure in ("0.6667 (0.300 to 0.900", "1.250", "0.1000 before, 0.0500 after", "95.0%", "5,678"):
        assert figure in page


def test_what_a_user_wrote_stays_text_and_nothing_is_loaded(hostile: Path) -> None:
    page = (hostile / "report.html").read_text()
    assert not re.search(r"<script|<b>|<i>", page)
    addresses = re.findall(r"<[^>]* (?:src|href)=\"?([^\"\s>]{5})", page)
    assert set(addresses) == {"data:"}


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


def test_it_opens_in_a_browser_without_a_connection(browser: Browser, hostile: Path) -> None:
    context = browser.new_context(offline=True)
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url[:5]))
    page.on("console", lambda message: asked.append(message.text))
    page.goto((hostile / "report.html").as_uri())
    assert page.title() == "a<b> version 3"
    assert HOSTILE[0] in page.locator("body").inner_text()
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 3 + 3 + 9
    assert min(widths) > 0
    assert set(asked) <= {"file:", "data:"}
    context.close()
