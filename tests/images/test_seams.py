"""What decoding reaches behind Pillow's public API for: an upgrade that changes it fails here, with a sentence."""

import PIL
import pytest
from PIL import Image, _imaging

from serving.images import seams


@pytest.mark.parametrize("name", ["new", "zip_decoder", "raw_encoder"])
def test_pillows_core_has_what_the_short_way_for_pngs_uses(name: str) -> None:
    assert callable(getattr(_imaging, name, None)), (
        f"Pillow {PIL.__version__}: _imaging.{name} is gone (images/seams.py)"
    )


@pytest.mark.parametrize(("name", "found"), [("getbbox", (2, 1, 4, 5)), ("getextrema", (0, 9))])
def test_pillows_pixels_have_what_the_short_way_for_digits_asks(name: str, found: object) -> None:
    pixels = _imaging.new("L", (8, 8))
    pixels.paste(9, (2, 1, 4, 5))
    asked = getattr(pixels, name, None)
    assert asked is not None, f"Pillow {PIL.__version__}: ImagingCore.{name} is gone (images/seams.py)"
    assert asked(*([False] if name == "getbbox" else [])) == found


@pytest.mark.parametrize("form", sorted(seams.OPENERS.keys() - {"JPEG"}))  # of which the registered one opens MPO too
def test_each_opener_is_the_one_that_pillow_registers(form: str) -> None:
    Image.preinit()
    Image.init()
    assert Image.OPEN[form][0] is seams.OPENERS[form], f"Pillow {PIL.__version__} opens {form} in another way"
