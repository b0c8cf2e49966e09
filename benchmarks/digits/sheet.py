"""The steps of `steps.py` -> one picture for docs/digits.md: a row for each, with the numbers that decide in it.

The numbers are read from `serving/images`. They go into the file as text too: a test sees when they have changed.
"""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from benchmarks.digits import steps
from benchmarks.digits.steps import BLUE, PALE, RED, SIDE, Panel
from serving.images import digits, figure, ground, lines, parts

MODULES = (ground, figure, lines, parts, digits)
GAP, TEXT, CAPTION = 10, 250, 30  # pixels: between pictures, of the column with the numbers, below a picture


class Step(NamedTuple):
    """`constants` are those that decide in it, as `figure._SMALLEST`."""

    title: str
    constants: tuple[str, ...]
    panels: Callable[[], list[Panel]]


def constants() -> dict[str, str]:
    """Every number of the modules by its name, as `figure._SMALLEST`, and its value as text."""
    return {
        f"{module.__name__.rpartition('.')[2]}.{name}": _text_of(value)
        for module in MODULES
        for name, value in vars(module).items()
        if name.isupper() and isinstance(value, int | float | tuple | range)
    }


def _text_of(value: Any) -> str:
    if isinstance(value, range):
        return f"{value[0]} to {value[-1]}"
    return ", ".join(map(_text_of, value)) if isinstance(value, tuple) else f"{value:.3g}"


STEPS = (
    Step(
        "Even ground",
        ("ground._SAME", "ground._GROUND", "ground._RING", "ground._OTHERS", "ground._DARKEST", "figure._FAINT"),
        steps.even_ground,
    ),
    Step(
        "What comes in from the edge",
        ("figure._SMALL", "figure._REACHING", "figure._CUT_OFF", "figure._FILLED"),
        steps.from_the_edge,
    ),
    Step(
        "Paper, shadow and light",
        ("ground.STROKE", "ground._CUT", "ground._EVEN", "ground._DARKEST"),
        steps.paper_and_light,
    ),
    Step("The mask of ink", ("figure._FAINT", "figure._NOISY", "figure._PALE"), steps.mask_of_ink),
    Step(
        "Dark on light, light on dark",
        ("figure._LIKELY", "figure._DOUBT", "figure._TURNS", "figure._RECTANGLE"),
        steps.dark_or_light,
    ),
    Step(
        "Ruled lines erased",
        ("lines._BLOCKS", "lines._LINE", "lines._SLOPES", "lines._DARKER", "lines._PALE"),
        steps.ruled_lines,
    ),
    Step("A form's frame", ("parts._SIDE",), steps.frame),
    Step("Parts and specks", ("parts._SPECK", "parts._CUT", "figure._SMALLEST"), steps.specks),
    Step("Near parts, other figures", ("parts._DOT", "parts._PEN", "parts._AWAY", "figure._SEVERAL"), steps.near_parts),
    Step("A closer look", ("figure._COPY_PIXELS", "figure._NEAR_PIXELS"), steps.closer_look),
    Step("Cut out", ("figure._PALE", "figure._NOISE"), steps.cut_out),
    Step(
        "As MNIST's, centred",
        (
            *("digits.FIGURE", "digits._STROKE_PIXELS", "digits._THIN", "digits._BLOT"),
            *("digits._INK", "digits._MIN_CONTRAST", "digits._SMALLEST"),
        ),
        steps.as_mnist,
    ),
)
# They bound the time, and change no picture.
WORK = ("figure._PIXELS_A_RUN", "lines._LINE_WORK")


def sheet() -> Image.Image:
    """All steps, each a row: its number, its name and constants at the left, its pictures beside them."""
    rows = [(step, step.panels()) for step in STEPS]
    most = max(len(panels) for _, panels in rows)
    row_height = SIDE + CAPTION + GAP
    whole = Image.new("RGB", (TEXT + most * (SIDE + GAP) + GAP, len(rows) * row_height + GAP), "white")
    draw = ImageDraw.Draw(whole)
    title, text, small = (ImageFont.load_default(size) for size in (15, 12, 11))
    values = constants()
    for number, (step, panels) in enumerate(rows, 1):
        top = GAP + (number - 1) * row_height
        draw.line((GAP, top - GAP // 2, whole.width - GAP, top - GAP // 2), fill=(220, 220, 220))
        draw.text((GAP, top), f"{number}  {step.title}", "black", title)
        for place, name in enumerate(step.constants):
            draw.text((GAP, top + 24 + 16 * place), f"{name}  {values[name]}", (70, 70, 70), text)
        for place, panel in enumerate(panels):
            left = TEXT + place * (SIDE + GAP)
            whole.paste(_fitted(panel.picture), (left, top))
            draw.rectangle((left, top, left + SIDE - 1, top + SIDE - 1), outline=(190, 190, 190))
            draw.multiline_text((left, top + SIDE + 2), panel.caption, "black", small, spacing=1)
    return whole


def _fitted(picture: np.ndarray) -> Image.Image:
    """In the middle of SIDE pixels: a larger picture is made smaller, the pixels of a small one are drawn larger."""
    image = Image.fromarray(picture).convert("RGB")
    if max(image.size) > SIDE:
        image.thumbnail((SIDE, SIDE), Image.Resampling.BOX)
    larger = SIDE // max(image.size)
    image = image.resize((larger * image.width, larger * image.height), Image.Resampling.NEAREST)
    canvas = Image.new("RGB", (SIDE, SIDE), (232, 232, 232))
    canvas.paste(image, ((SIDE - image.width) // 2, (SIDE - image.height) // 2))
    return canvas


def write(path: Path) -> None:
    """The sheet as a PNG of few colours."""
    palette = Image.new("P", (1, 1))
    greys = [(level, level, level) for level in range(0, 256, 15)]
    palette.putpalette([part for colour in (*greys, RED, BLUE, PALE) for part in colour])
    numbers = PngInfo()
    numbers.add_text("constants", json.dumps(constants()))
    sheet().quantize(palette=palette, dither=Image.Dither.NONE).save(path, pnginfo=numbers, optimize=True)
