"""Printed digits, and printed letters, signs and symbols that are none, as the service would hand them to a network.

The fonts are those that come with Matplotlib: DejaVu, STIX and TeX's. Four faces are kept for digits that a threshold
is chosen by. Knows no data set and no network.
"""

from collections.abc import Sequence
from pathlib import Path

import matplotlib
import numpy as np
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import label

from serving.images.digits import light_on_dark

_DEJAVU = (
    *("DejaVuSans", "DejaVuSans-Bold", "DejaVuSans-Oblique", "DejaVuSans-BoldOblique", "DejaVuSansMono"),
    *("DejaVuSansMono-Bold", "DejaVuSansMono-Oblique", "DejaVuSerif", "DejaVuSerif-Bold", "DejaVuSerif-Italic"),
)
_STIX = ("STIXGeneral", "STIXGeneralBol", "STIXGeneralBolIta")
_TEX = ("cmr10", "cmss10", "cmb10", "cmti10")
_HELD_OUT = ("DejaVuSerif-BoldItalic", "STIXGeneralItalic", "cmtt10", "DejaVuSansMono-BoldOblique")

# Without what may be read as a digit: B I O S Z b g i l o q s y z of the Latin letters, for example.
_LATIN = "ACDEFGHJKLMNPQRTUVWXYacdefhjkmnprtuvwx"
_OTHER_LETTERS = "αγδζηλμξπτφχψωΓΔΛΞΠΣΦΨΩЖИЛДЦШЩЪЫЭЮЯФждлфшщюя"
_COMMON_SIGNS = "+=?!?!+*#%&-"  # two of them stand twice: half of their pictures lose the dot, and are drawn anew
_SIGNS = "+=?!*#%&<>{}^~-@€£¥§∞√∑∂∫≠≤≥±×÷"
_SYMBOLS = "→←↑↓⇒♡☆★☂△◇□☼☺♪♫✓✗✚⌂⚑♠♣☀☁☎♀♂⚓✈✂❄✿"  # only DejaVuSans has them
_DOTTED = "?!"
# What is drawn, of which faces, and how often.
_NO_DIGITS: tuple[tuple[str, tuple[str, ...], float], ...] = (
    (_LATIN, _DEJAVU + _STIX + _TEX, 0.5),
    (_OTHER_LETTERS, _DEJAVU + _STIX, 0.12),
    (_COMMON_SIGNS, _DEJAVU + _STIX + _TEX, 0.2),
    (_SIGNS, _DEJAVU + _STIX, 0.08),
    (_SYMBOLS, ("DejaVuSans",), 0.1),
)


def digits(count: int, side: int, seed: int, *, held_out: bool = False) -> np.ndarray:
    """(count, side, side, 1) uint8, light on black, placed as the service places a figure; as many of each digit.

    `held_out` takes the four other faces.
    """
    faces = _HELD_OUT if held_out else _DEJAVU + _STIX + _TEX
    rng, images = np.random.default_rng(seed), list[np.ndarray]()
    while len(images) < count:
        images += _seen(str(len(images) % 10), faces, side, rng)
    return np.stack(images)[..., None]


def no_digits(count: int, side: int, seed: int) -> np.ndarray:
    """As `digits`: half of them are Latin letters, and the rest others, signs and symbols."""
    rng, images = np.random.default_rng(seed), list[np.ndarray]()
    shares = [share for _, _, share in _NO_DIGITS]
    while len(images) < count:
        characters, faces, _ = _NO_DIGITS[rng.choice(len(_NO_DIGITS), p=shares)]
        images += _seen(characters[rng.integers(len(characters))], faces, side, rng)
    return np.stack(images)[..., None]


def _seen(character: str, faces: Sequence[str], side: int, rng: np.random.Generator) -> list[np.ndarray]:
    """One picture (side, side), or none where the service finds no figure, or has taken a dot for a speck: what is
    left of a ! then is a 1."""
    found = light_on_dark(_sheet(character, faces, rng), (side, side, 1), Image.Resampling.BILINEAR)
    whole = character not in _DOTTED or label(found.grey > 64)[1] >= 2
    return [found.grey] if found.unsure is None and whole else []


def _sheet(character: str, faces: Sequence[str], rng: np.random.Generator) -> np.ndarray:
    """Dark on a light sheet, (h, w) uint8; half of them turned a little, and made wider or narrower."""
    path = Path(matplotlib.get_data_path()) / "fonts" / "ttf" / f"{faces[int(rng.integers(len(faces)))]}.ttf"
    font = ImageFont.truetype(str(path), int(rng.integers(60, 130)))
    left, top, right, bottom = font.getbbox(character)
    width, height = (max(64, round(extent) + 28) for extent in (right - left, bottom - top))
    image = Image.new("L", (width, height), 250)
    place = ((width - (right - left)) // 2 - left, (height - (bottom - top)) // 2 - top)
    ImageDraw.Draw(image).text(place, character, fill=int(rng.integers(100)), font=font)
    if rng.random() < 0.5:
        image = image.rotate(rng.normal(0, 6), Image.Resampling.BILINEAR, expand=True, fillcolor=250)
        image = image.resize((max(8, round(image.width * rng.uniform(0.8, 1.2))), image.height))
    return np.asarray(image)
