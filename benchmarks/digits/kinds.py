"""The kinds of pictures that the digit models are measured on: an ink, a paper and the share that should be right.

The ink is MNIST's test split, strokes, scikit-learn's digits or fonts, none of which is used for training. Knows no
models.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks.digits import ink, papers
from benchmarks.digits.papers import Paper

# Debian's packages of fonts. No font is used for training.
PRINTED = (
    *("fonts-liberation", "fonts-roboto-unhinted", "fonts-open-sans"),
    *("fonts-inconsolata", "fonts-quicksand", "fonts-cantarell"),
)
HANDWRITING = (
    *("fonts-dkg-handwriting", "fonts-humor-sans", "fonts-rufscript", "fonts-dancingscript"),
    *("fonts-femkeklaver", "fonts-comic-neue", "fonts-klee"),
)


@dataclass(frozen=True)
class Kind:
    """`ink` names a source of figures; `right` is the wanted share of right answers, or of unsure ones."""

    ink: str
    paper: Paper
    right: float
    unsure: bool = False


KINDS: dict[str, Kind] = {
    "clean pen, any size, colour and place": Kind("mnist", papers.clean, 0.985),
    "thin pen (2 of 600 pixels)": Kind("thin", papers.clean, 0.97),
    "strokes of a usual width": Kind("strokes", papers.clean, 0.97),
    "thick strokes": Kind("thick", papers.clean, 0.97),
    "very thick strokes": Kind("very thick", papers.clean, 0.97),
    "28x28, shifted by 4 pixels": Kind("mnist", papers.shifted, 0.97),
    "small on its sheet": Kind("mnist", papers.small, 0.97),
    "cropped closely": Kind("mnist", papers.cropped, 0.97),
    "fills the picture": Kind("mnist", papers.filling, 0.97),
    "fills the picture, drawn strokes": Kind("any pen", papers.filling, 0.97),
    "reaches the picture's edges": Kind("mnist", papers.reaching, 0.97),
    "reaches the picture's edges, drawn strokes": Kind("any pen", papers.reaching, 0.97),
    "ruled paper": Kind("mnist", papers.ruled, 0.93),
    "squared paper": Kind("mnist", papers.squared, 0.93),
    "a form's box": Kind("mnist", papers.boxed, 0.93),
    "six specks": Kind("mnist", papers.specked, 0.93),
    "shadow to 45 %": Kind("mnist", papers.shadowed, 0.90),
    "a hard shadow's edge": Kind("mnist", papers.hard_shadow, 0.90),
    "a sheet on a dark desk": Kind("mnist", papers.desk, 0.90),
    "phone photo with dark corners": Kind("mnist", papers.photo, 0.90),
    "noise of 25 levels": Kind("mnist", papers.noisy, 0.90),
    "printed fonts": Kind("printed", papers.clean, 0.97),
    "handwriting fonts": Kind("handwriting", papers.clean, 0.92),
    "scikit-learn's digits, enlarged": Kind("digits", papers.clean, 0.90),
    "blank sheets": Kind("strokes", papers.blank, 0.98, unsure=True),
    "nothing but noise": Kind("strokes", papers.noise, 0.98, unsure=True),
}

Drawer = Callable[[np.random.Generator], tuple[np.ndarray, int]]


def fonts_in(folder: Path, packages: tuple[str, ...]) -> list[Path]:
    """The font files of unpacked Debian packages, FOLDER/<package>/…, oblique hairlines and the like included."""
    return sorted(
        path
        for package in packages
        for path in (folder / package).rglob("*")
        if path.suffix in (".ttf", ".otf") and path.is_file()
    )


def inks(mnist: tuple[np.ndarray, np.ndarray], fonts: Path | None) -> dict[str, Drawer]:
    """The sources of figures by their name; those of fonts only where FONTS holds the unpacked packages.

    `mnist` is images (N, 28, 28) uint8 and their labels.
    """

    def figure(rng: np.random.Generator) -> tuple[np.ndarray, int]:
        i = int(rng.integers(len(mnist[0])))
        return ink.enlarged(mnist[0][i], int(rng.integers(40, 400))), int(mnist[1][i])

    def pen(low: float, high: float, least: int = 60) -> Drawer:
        def drawn(rng: np.random.Generator) -> tuple[np.ndarray, int]:
            digit, height = int(rng.integers(10)), int(rng.integers(least, 400))
            return ink.strokes(digit, rng, height, rng.uniform(low, high) * height), digit

        return drawn

    sources = {
        "mnist": figure,
        "thin": pen(1.5 / 400, 2.5 / 350, 340),
        "strokes": pen(0.05, 0.12),
        "thick": pen(0.12, 0.18),
        "very thick": pen(0.18, 0.25),
        "any pen": pen(0.01, 0.2),
        "digits": _scikit_learn(),
    }
    for name, packages in (("printed", PRINTED), ("handwriting", HANDWRITING)):
        if fonts is not None and (files := fonts_in(fonts, packages)):
            sources[name] = _font(files)
    return sources


def _font(files: list[Path]) -> Drawer:
    packages: dict[str, list[Path]] = {}
    for file in files:
        packages.setdefault(next(part for part in file.parts if part.startswith("fonts-")), []).append(file)

    def drawn(rng: np.random.Generator) -> tuple[np.ndarray, int]:
        digit, some = int(rng.integers(10)), list(packages.values())[rng.integers(len(packages))]
        return ink.printed(digit, some[rng.integers(len(some))], int(rng.integers(40, 300))), digit

    return drawn


def _scikit_learn() -> Drawer:
    def drawn(rng: np.random.Generator) -> tuple[np.ndarray, int]:
        from sklearn.datasets import load_digits

        bunch = load_digits()
        i = int(rng.integers(len(bunch.images)))
        small = np.pad(bunch.images[i] * (255 / 16), 2).astype(np.uint8)
        return ink.enlarged(small, int(rng.integers(60, 300))), int(bunch.target[i])

    return drawn


def sheets(kind: Kind, sources: dict[str, Drawer], count: int, seed: int) -> Iterator[tuple[np.ndarray, int]]:
    """`count` pictures (H, W) uint8 of a kind and their digits; the same seed gives the same."""
    for i in range(count):
        rng = np.random.default_rng([seed, i])
        figure, digit = sources[kind.ink](rng)
        yield kind.paper(figure, rng), digit
