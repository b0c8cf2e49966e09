"""atheris on images.decode_image: any bytes become the model's array or one of the documented refusals, soon.

The first byte chooses the model's shape and convention. Pillow's C decoders are not instrumented; its Python is.
"""

import sys
from pathlib import Path
from typing import Any

import atheris

with atheris.instrument_imports(include=["PIL", "serving"]):
    import PIL.AvifImagePlugin
    import PIL.BmpImagePlugin
    import PIL.GifImagePlugin
    import PIL.JpegImagePlugin
    import PIL.PngImagePlugin
    import PIL.TiffImagePlugin
    import PIL.WebPImagePlugin  # noqa: F401

    from serving.errors import ClassifyError
    from serving.images.picture import decode_image

BACKENDS: tuple[tuple[tuple[int, int, int], str, dict[str, Any]], ...] = (
    ((28, 28, 1), "light_on_dark_centred", {}),
    ((32, 32, 3), "plain", {}),
    ((8, 8, 1), "plain", {}),
    ((16, 40, 3), "pad", {"fill": (114,)}),
    ((24, 16, 3), "centre_crop", {"resize_to": 32}),
)
MAX_PIXELS = 1_000_000  # small, so that an enormous but valid picture does not pass for a hang


def one_input(data: bytes) -> None:
    shape, convention, options = BACKENDS[data[0] % len(BACKENDS) if data else 0]
    try:
        array = decode_image(data[1:], shape, convention, max_pixels=MAX_PIXELS, **options)
    except ClassifyError as err:
        if err.status not in (400, 413, 415) or not str(err):
            raise AssertionError(f"undocumented refusal: {err!r}") from err
    else:
        if array.shape != shape or array.dtype != "uint8":
            raise AssertionError(f"{array.shape} {array.dtype}")


def seeds(folder: Path) -> None:
    """The corpus's pictures, as a start."""
    from tests.fixtures.hostile_images import pictures

    for number, picture in enumerate(pictures()):
        if len(picture.data) < 4000:
            (folder / f"seed-{number}").write_bytes(bytes([number % len(BACKENDS)]) + picture.data)


if __name__ == "__main__":
    if len(sys.argv) > 2 and Path(sys.argv[-1]).is_dir():
        seeds(Path(sys.argv[-1]))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
