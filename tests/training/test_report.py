"""report.html: what it shows of a real run, that it stands alone, and that nothing a user wrote becomes markup."""

import json
import re
from collections.abc import Iterator
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Browser

from tests.fixtures.browser import chromium
from tests.fixtures.pictures import digit
from training.artifact.metrics import confusion_matrix, measure
from training.artifact.trust import warnings_of, wilson_interval
from training.data.dataset import Dataset
from training.runs.advice import Earlier, verdict
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
        "unfamiliarity": {"threshold": 12.3456, "interval": (0.01, 0.09), "test_share": 0.032},
        "resize": {"chosen": "pad", "accuracy": {"squash": 0.7, "pad": 0.8}, "pictures": 240},
        "bodies": {
            "chosen": "efficientnet_lite1",
            "accuracy": {"efficientnet_lite0": 0.81, "efficientnet_lite1": 0.855},
            "pictures": 600,
        },
        "augmentation": {
            "flip": {"used": False, "images": 200, "plain": 0.9, "with_copies": 0.6},
            "crop": {"used": True, "images": 60, "groups": 5},
        },
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
    assert "3 of 9 test pictures are answered wrong" in page
    wrong, doubtful = page.split("In doubt")
    assert wrong.count("<figure>") == 3
    assert doubtful.count("<figure>") == 0  # every answer has 0.9, and the next class 0.05
    assert "None: the most probable class is always far before the others." in doubtful
    assert "$x_{ 0.90, is &lt;script&gt;" in wrong
    for figure in ("0.6667 (0.300 to 0.900", "1.250", "0.1000 before, 0.0500 after", "95.0%", "5,678"):
        assert figure in page


def test_it_says_what_was_asked_of_the_pictures(hostile: Path) -> None:
    page = (hostile / "report.html").read_text()
    for row, told in {
        "unfamiliar pictures": "of the test pictures 3.2% are called so by mistake (of all such pictures 1.0% to 9.0%",
        "networks compared": "efficientnet_lite1 (right by folds on 600 pictures: efficientnet_lite0 81.0%, "
        "efficientnet_lite1 85.5%)",
        "pictures that are not square": "pad (right by folds on 240 pictures: squash 70.0%, pad 80.0%)",
        "changed copies: flip": "left out: by folds 90.0% of 200 pictures are right, and 60.0% with such copies",
        "changed copies: crop": "used; 5 are too few to tell",
    }.items():
        assert f"<td>{row}</td><td>{told}" in page
    assert "the threshold is 12.35" in page


def test_what_a_user_wrote_stays_text_and_nothing_is_loaded(hostile: Path) -> None:
    page = (hostile / "report.html").read_text()
    assert not re.search(r"<script|<b>|<i>", page)
    addresses = re.findall(r"<[^>]* (?:src|href)=\"?([^\"\s>]{5})", page)
    assert set(addresses) == {"data:"}


# Advice


def report_of(
    folder: Path,
    targets: np.ndarray,
    answers: np.ndarray,
    labels: tuple[str, ...],
    sure: float = 0.9,
    earlier: Earlier | None = None,
) -> str:
    """The page about test pictures with these classes, which the model answers so, with the probability `sure`."""
    count, classes = len(targets), len(labels)
    probabilities = np.full((count, classes), (1 - sure) / (classes - 1), np.float32)
    probabilities[np.arange(count), answers] = sure
    images = np.full((count, 40, 30, 3), 200, np.uint8)
    files = tuple(Path(f"pets/{labels[target]}/{i:03}.jpg") for i, target in enumerate(targets))
    data = Dataset("pets", "pets", labels, "plain", images, targets, images, targets, files=files + files)
    metrics = measure(probabilities, targets, labels)
    record = {
        "model": "efficientnet_lite0-pets",
        "version": 2,
        "metrics": metrics,
        "intervals": {"accuracy": wilson_interval(metrics["accuracy"], count)},
        "warnings": warnings_of(probabilities, targets, labels, 1.0),
        "dataset": {"origin": "pets", "train": count, "test": count},
        "training": {"epochs": 2, "seconds": 3.2, "images_per_second": 40.0, "hardware": "a CPU"},
        "parameters": 5678,
        "recipe": {"name": "augmented"},
        "confusion": confusion_matrix(answers, targets, classes).tolist(),
        "history": {f"{v}{key}": [1.0, 0.5] for v in ("", "val_") for key in ("loss", "categorical_accuracy")},
        "best_epoch": 2,
        "notes": [],
    }
    write_report(folder, record, data, probabilities, earlier=earlier)
    return unescape((folder / "report.html").read_text())


def verdict_of(page: str) -> str:
    (found,) = re.findall(r'<p class="verdict">(.*?)</p>', page)
    return str(found)


def some_wrong(targets: np.ndarray, wrong: int, classes: int) -> np.ndarray:
    answers = targets.copy()
    answers[:wrong] = (answers[:wrong] + 1) % classes
    return answers


@pytest.mark.usefixtures("sketched")
def test_tiny_training_is_told_to_add_test_pictures(tmp_path: Path) -> None:
    targets = np.arange(18) % 2
    page = report_of(tmp_path, targets, some_wrong(targets, 2, 2), ("cat", "dog"))
    said = "16 of 18 test pictures are right. With pictures like these, 67 to 97 of 100 will be right."
    assert verdict_of(page) == f"{said} That is a wide range: add test pictures."
    assert "18 test images are few" in page  # the warnings of the training too
    for command in (
        "SHORTCUT_DEFAULT_MODEL=efficientnet_lite0-pets make serve",
        "python -m training.evaluate models/efficientnet_lite0-pets/2 --data more/ --csv answers.csv",
        "SHORTCUT_VERSIONS=efficientnet_lite0-pets:2 make serve",
    ):
        assert command in page
    assert "it writes version 3" in page
    wrong = page.split("Wrong and surest of it")[1].split("In doubt")[0]
    assert re.findall(r"<small>(.*?)</small>", wrong) == ["cat/000.jpg", "dog/001.jpg"]


@pytest.mark.usefixtures("sketched")
def test_good_training_is_told_to_be_served(tmp_path: Path) -> None:
    targets = np.arange(400) % 4
    page = report_of(tmp_path, targets, some_wrong(targets, 8, 4), ("a", "b", "c", "d"))
    assert verdict_of(page).startswith("392 of 400 test pictures are right. With pictures like these, 96 to 99 of 100")
    assert verdict_of(page).endswith("Serve it.")
    confusion = page.split("What is confused")[1].split("By class")[0]
    first = re.findall(r"<td[^>]*>(.*?)</td>", confusion)[:3]
    assert first == ["a", "b", "2 of 100"]
    assert page.index("What is confused") < page.index(">Confusion<")


@pytest.mark.parametrize(("epochs", "advice"), [(2, "for more epochs."), (0, "the whole network, without --quick.")])
def test_the_verdict_on_a_useless_model_suits_its_training(epochs: int, advice: str) -> None:
    record = {"metrics": {"accuracy": 0.3}, "intervals": {"accuracy": (0.2, 0.4)}, "training": {"epochs": epochs}}
    assert verdict(record, np.arange(60) % 3).endswith(f"or train {advice}")


@pytest.mark.usefixtures("sketched")
def test_bad_training_is_told_to_be_of_no_use(tmp_path: Path) -> None:
    targets = np.arange(60) % 3
    page = report_of(tmp_path, targets, some_wrong(targets, 41, 3), ("a", "b", "c"), sure=0.4)
    assert verdict_of(page).startswith("19 of 60 test pictures are right. Always answering the most frequent class")
    assert "this model is of no use yet" in verdict_of(page)
    assert "no better than always answering" in page
    assert page.split("In doubt")[1].split("What is confused")[0].count("<figure>") == 24  # 0.4 beside 0.3


@pytest.mark.usefixtures("sketched")
def test_earlier_version_is_compared_on_the_same_pictures(tmp_path: Path) -> None:
    targets = np.arange(40) % 2
    before = np.eye(2, dtype=np.float32)[np.where(np.arange(40) < 38, some_wrong(targets, 10, 2), 1 - targets)]
    now = some_wrong(targets, 4, 2)
    now[20] = 1 - now[20]
    page = report_of(tmp_path, targets, now, ("cat", "dog"), earlier=Earlier(1, before))
    part = page.split("Beside version 1")[1].split("Wrong and surest")[0]
    assert "Version 1 gets 28 of these 40 pictures right, this version 35: 8 got better, 1 got worse." in part
    assert "chance" not in part
    worse, better = part.split("Got better")
    assert re.findall(r"<small>(.*?)</small>", worse) == ["cat/020.jpg"]
    assert better.count("<figure>") == 8


@pytest.mark.usefixtures("cheaply")
def test_second_training_is_compared_with_the_first(tmp_path: Path, keep_sigterm: None) -> None:
    from training.fit import main

    for n in range(40):
        folder = tmp_path / "pets" / "17"[n % 2]
        folder.mkdir(parents=True, exist_ok=True)
        digit("17"[n % 2], (28 + n, 30), at=(0.4 + 0.005 * n, 0.5)).save(folder / f"{n}.png")
    places = ["--output", str(tmp_path / "models"), "--runs", str(tmp_path / "runs")]
    command = ["_tiny", "--data", str(tmp_path / "pets"), "--image-size", "16", "--epochs", "1", *places]
    for version in (1, 2):
        assert main(command) == 0
        page = (tmp_path / "runs" / "tiny-pets" / str(version) / "report.html").read_text()
        assert ("Beside version 1" in page) == (version == 2)
    assert "Version 1 gets" in page
    assert f"SHORTCUT_MODELS={tmp_path / 'models'} SHORTCUT_DEFAULT_MODEL=tiny-pets make serve" in page


@pytest.mark.parametrize(("classes", "shown"), [(40, 40), (300, 40)])
def test_many_classes_stay_readable(tmp_path: Path, classes: int, shown: int) -> None:
    labels = tuple(f"a rather long name of the class with the number {k}" for k in range(classes))
    targets = np.arange(3 * classes) % classes
    page = report_of(tmp_path, targets, some_wrong(targets, 50, classes), labels)
    table = page.split("By class")[1].split("<details>")[0].split("<h2>")[0]
    assert table.count("<tr>") == shown + 1
    assert page.count("<details>") == (classes > shown)
    with Image.open(tmp_path / "confusion.png") as picture:
        assert max(picture.size) <= 4000


@pytest.fixture
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


def test_it_fits_a_phone(browser: Browser, tmp_path: Path) -> None:
    targets = np.arange(300) % 100
    labels = tuple(f"averyveryverylongnameofaclasswithoutanyspace{k}" for k in range(100))
    report_of(tmp_path, targets, some_wrong(targets, 50, 100), labels)
    context = browser.new_context(viewport={"width": 390, "height": 844}, is_mobile=True)
    page = context.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    context.close()


def test_it_opens_in_a_browser_without_a_connection(browser: Browser, hostile: Path) -> None:
    context = browser.new_context(offline=True)
    page, asked = context.new_page(), []
    page.on("request", lambda request: asked.append(request.url[:5]))
    page.on("console", lambda message: asked.append(message.text))
    page.goto((hostile / "report.html").as_uri())
    assert page.title() == "a<b> version 3"
    assert HOSTILE[0] in page.locator("body").inner_text()
    widths = page.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) == 3 + 3
    assert min(widths) > 0
    assert set(asked) <= {"file:", "data:"}
    context.close()
