"""Every kind of picture is drawn alike from a seed, and the measuring prints a share for each. The page of the steps
names every number that decides, as it is now."""

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.digits import sheet
from benchmarks.digits.__main__ import main, measure
from benchmarks.digits.kinds import HANDWRITING, KINDS, PRINTED, inks, sheets
from benchmarks.digits.others import drawers, pictures
from tests.fixtures.toy import write_artifact

DOCS = Path(__file__).parents[2] / "docs"
SEVEN = np.zeros((1, 28, 28), np.uint8)
SEVEN[0, 4:7, 8:20] = 255
SEVEN[0, 4:24, 16:19] = 255


@pytest.mark.parametrize("name", [name for name, kind in KINDS.items() if kind.ink not in ("printed", "handwriting")])
def test_a_kind_is_drawn_alike_from_its_seed(name: str) -> None:
    kind, sources = KINDS[name], inks((SEVEN, np.array([7])), None)
    first, second = (list(sheets(kind, sources, 2, seed=3)) for _ in range(2))
    for (grey, digit), (again, same) in zip(first, second, strict=True):
        assert digit == same
        assert grey.dtype == np.uint8
        assert np.array_equal(grey, again)
    assert not np.array_equal(first[0][0], first[1][0])


def test_a_kind_of_a_font_is_drawn_from_the_unpacked_packages(tmp_path: Path) -> None:
    from matplotlib import get_data_path

    package = tmp_path / PRINTED[0] / "usr"
    package.mkdir(parents=True)
    shutil.copy(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf", package)
    sources = inks((SEVEN, np.array([7])), tmp_path)
    assert "handwriting" not in sources
    (grey, _), (again, _) = (next(iter(sheets(KINDS["printed fonts"], sources, 1, seed=3))) for _ in range(2))
    assert np.array_equal(grey, again)
    assert grey.max() - grey.min() > 50


def test_the_measuring_prints_a_share_for_each_kind(tmp_path: Path) -> None:
    artifact = write_artifact(tmp_path, "toy-digits", shape=(28, 28, 1), labels=tuple("0123456789"))
    np.savez(tmp_path / "mnist.npz", x_test=SEVEN, y_test=np.array([7]))
    table = measure([artifact], tmp_path / "mnist.npz", None, count=2, seed=0, only="blank").splitlines()
    assert table[0].startswith("| kind | toy-digits | wanted | unsure |")
    assert table[2].startswith("| blank sheets | – | 98 unsure | 100.0 |")


def test_what_is_unfamiliar_to_the_first_model_is_unsure(tmp_path: Path) -> None:
    digits = tuple("0123456789")
    models = [
        write_artifact(tmp_path, name, shape=(28, 28, 1), labels=digits, unfamiliar_from=limit)
        for name, limit in (("toy-strict", 0.0), ("toy-mild", 1.0))
    ]
    np.savez(tmp_path / "mnist.npz", x_test=SEVEN, y_test=np.array([7]))
    for order, share in ((models, "100.0"), (models[::-1], "0.0")):
        table = measure(order, tmp_path / "mnist.npz", None, count=2, seed=0, only="smiley").splitlines()
        assert table[2].startswith(f"| smileys | – | – | 85 unsure | {share} |")


def test_other_figures_are_drawn_alike_from_a_seed(tmp_path: Path) -> None:
    from matplotlib import get_data_path

    for package in (PRINTED[0], HANDWRITING[0]):
        (tmp_path / package).mkdir()
        shutil.copy(Path(get_data_path()) / "fonts/ttf/DejaVuSans.ttf", tmp_path / package)
    kinds = drawers(tmp_path)
    assert list(kinds) == ["letters, printed", "letters, handwriting fonts", "signs + = ? !", "shapes", "smileys"]
    for drawer in kinds.values():
        (first, other), (again, _) = (list(pictures(drawer, 2, seed=3)) for _ in range(2))
        assert np.array_equal(first, again)
        assert not np.array_equal(first, other)
    assert list(drawers(None)) == ["shapes", "smileys"]


def test_the_page_names_every_number_of_the_steps_as_it_is() -> None:
    """And the row of the picture that shows it."""
    text = (DOCS / "digits.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+\.\w+)` \| ([^|]+) \| [^|]+ \| ([^|]+) \|$", text, re.MULTILINE)
    assert {name: value for name, value, _ in rows} == sheet.constants()
    assert len(rows) == len(sheet.constants())
    for name, _, row in rows:
        shown = [str(number) for number, step in enumerate(sheet.STEPS, 1) if name in step.constants]
        assert row == (", ".join(shown) or "–"), name
        assert bool(shown) != (name in sheet.WORK), name


def test_the_picture_of_the_steps_is_drawn_with_the_numbers_of_now() -> None:
    with Image.open(DOCS / "digits-steps.png") as image:
        again = "draw it anew: python -m benchmarks.digits steps"
        assert json.loads(image.text["constants"]) == sheet.constants(), again


def test_the_steps_are_drawn(tmp_path: Path) -> None:
    assert main(["steps", "--output", str(tmp_path / "steps.png")]) == 0
    assert (tmp_path / "steps.png").stat().st_size < 100_000
    with Image.open(tmp_path / "steps.png") as image:
        drawn = np.asarray(image.convert("L"))[sheet.GAP :, sheet.TEXT :]
    for step, row in zip(sheet.STEPS, np.split(drawn, len(sheet.STEPS)), strict=True):
        assert (row == 0).any(), step.title  # black, in each a figure or what was made of it
        assert (row == 255).any(), step.title
