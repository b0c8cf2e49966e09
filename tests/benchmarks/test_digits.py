"""Every kind of picture is drawn alike from a seed, and the measuring prints a share for each."""

import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.digits.__main__ import measure
from benchmarks.digits.kinds import HANDWRITING, KINDS, PRINTED, inks, sheets
from benchmarks.digits.others import drawers, pictures
from tests.fixtures.toy import write_artifact

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
