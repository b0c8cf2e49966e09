"""Training and serving make the same array of a file, and the one that Pillow and NumPy alone would make.

Some six hundred generated files: every format, mode, orientation and convention, square and not.
"""

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image, ImageCms, TiffImagePlugin

from serving.errors import ClassifyError
from serving.images.picture import FILTERS, Picture
from tests.fixtures.pictures import encode
from training.data.dataset import DatasetError
from training.data.pictures import decode, header

SIZES = [(40, 40), (61, 23), (24, 57), (300, 90), (30, 160)]  # width, height
SHAPES = [(24, 24), (32, 12), (10, 40)]  # height, width of the model
OPTIONS: list[dict[str, Any]] = [
    {"convention": "plain", "resample": "bilinear"},
    {"convention": "plain", "resample": "lanczos"},
    {"convention": "pad", "resample": "bicubic", "fill": (114,)},
    {"convention": "centre_crop", "resample": "hamming"},
    {"convention": "centre_crop", "resample": "bicubic", "resize_to": 44},
    {"convention": "light_on_dark_centred", "resample": "bilinear"},
]
MODES = {
    "PNG": ("1", "L", "LA", "P", "RGB", "RGBA", "I;16"),
    "JPEG": ("L", "RGB", "CMYK"),
    "MPO": ("RGB",),
    "WEBP": ("L", "RGB", "RGBA"),
    "AVIF": ("L", "RGB", "RGBA"),
    "GIF": ("1", "L", "P", "RGB", "RGBA"),
    "BMP": ("1", "L", "P", "RGB", "RGBA"),
    "TIFF": ("1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "I;16", "F", "LAB"),
}
TURNED = ("PNG", "JPEG", "WEBP", "TIFF", "AVIF")
STORED: dict[int, Image.Transpose] = {  # EXIF 2.3, tag 0x0112: how the upright picture is turned to be stored so
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_90,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_270,
}


class Made(NamedTuple):
    """A file, the upright picture in it before its format lost anything, and whether that is nothing."""

    name: str
    data: bytes
    upright: Image.Image
    exact: bool


def photo(size: tuple[int, int], seed: int) -> Image.Image:
    """Smooth colours, so that lossy formats and drafts stay near."""
    few = np.random.default_rng(seed).integers(0, 256, (3, 4, 3), dtype=np.uint8)
    return Image.fromarray(few).resize(size, Image.Resampling.BICUBIC)


def in_mode(image: Image.Image, mode: str) -> Image.Image:
    if mode == "I;16":
        return Image.fromarray(np.asarray(image.convert("L")).astype(np.uint16) * 257)
    if mode == "F":
        return Image.fromarray(np.asarray(image.convert("L"), np.float32) / 255)
    if mode == "LAB":
        lab = ImageCms.buildTransform(ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB"), "RGB", "LAB")
        return lab.apply(image)
    if mode == "CMYK":
        return image.convert("CMYK")
    if mode in ("LA", "RGBA"):
        opaque = image.convert("RGBA")
        return opaque.convert(mode)
    return image.convert(mode)


def files() -> Iterator[Made]:
    seed = itertools.count()
    for (form, modes), size in itertools.product(MODES.items(), SIZES):
        for mode in modes:
            upright = photo(size, next(seed))
            turns = (1, *STORED) if form in TURNED and mode in ("RGB", "L") else (1,)
            for turn in turns:
                options: dict[str, Any] = {"quality": 95} if form in ("JPEG", "MPO", "WEBP", "AVIF") else {}
                options |= {"speed": 10} if form == "AVIF" else {}
                if turn > 1:
                    options["exif"] = Image.Exif()
                    options["exif"][0x0112] = turn
                if form == "MPO":
                    options |= {"save_all": True, "append_images": [Image.new("RGB", size)]}
                stored = upright.transpose(STORED[turn]) if turn > 1 else upright
                data = encode(in_mode(stored, mode), form, **options)
                exact = form in ("PNG", "BMP", "TIFF") and mode in ("L", "RGB", "RGBA", "LA", "I;16")
                grey = mode in ("L", "LA", "I;16", "F")
                shown = (
                    upright.convert("L").convert("RGB")
                    if grey
                    else in_mode(upright, mode).convert("RGB")
                    if mode in ("1", "CMYK")
                    else upright
                )
                yield Made(f"{form} {mode} {size} {turn}", data, shown, exact)


FILES = list(files())


def expected(image: Image.Image, shape: tuple[int, int], options: dict[str, Any]) -> np.ndarray:
    """The convention by Pillow alone, one step after the other."""
    (height, width), resample = shape, FILTERS[options["resample"]]
    if options["convention"] == "plain":
        return np.asarray(image.resize((width, height), resample))
    if options["convention"] == "pad":
        scale = min(width / image.width, height / image.height)
        size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
        frame = Image.new("RGB", (width, height), (114, 114, 114))
        frame.paste(image.resize(size, resample), ((width - size[0]) // 2, (height - size[1]) // 2))
        return np.asarray(frame)
    shorter = min(image.size)
    if "resize_to" in options:
        size = tuple(options["resize_to"] * side // shorter for side in image.size)
        whole = image.resize(size, resample)
        left, top = round((size[0] - width) / 2), round((size[1] - height) / 2)
        return np.asarray(whole.crop((left, top, left + width, top + height)))
    scale = min(image.width / width, image.height / height)
    wide, high = max(1, round(scale * width)), max(1, round(scale * height))
    left, top = (image.width - wide) // 2, (image.height - high) // 2
    return np.asarray(image.crop((left, top, left + wide, top + high)).resize((width, height), resample))


def test_there_are_enough_files() -> None:
    assert len(FILES) >= 500


@pytest.mark.parametrize("form", MODES)
def test_both_halves_make_the_same_of_a_file(tmp_path: Path, form: str) -> None:
    for number, made in enumerate(made for made in FILES if made.name.split()[0] == form):
        file = tmp_path / f"{number}.{form.lower()}"
        file.write_bytes(made.data)
        assert header(file)[0] == made.upright.size, made.name
        options = OPTIONS[number % len(OPTIONS)]
        for height, width in SHAPES:
            for mode, channels in (("L", 1), ("RGB", 3)):
                trained = decode(file, mode, (width, height), **options)
                served = Picture.open(made.data).to_array((height, width, channels), **options).array
                np.testing.assert_array_equal(trained, served, made.name)
                assert trained.shape == (height, width, channels)
                assert trained.dtype == np.uint8


def test_files_are_what_pillow_alone_makes_of_them() -> None:
    for number, made in enumerate(FILES):
        options = OPTIONS[number % (len(OPTIONS) - 1)]
        height, width = SHAPES[number % len(SHAPES)]
        found = Picture.open(made.data).to_array((height, width, 3), **options).array.astype(int)
        difference = np.abs(found - expected(made.upright, (height, width), options))
        if made.exact:  # the two steps of resizing and cropping round in another order than one
            assert difference.max() <= (2 if "resize_to" in options else 0), made.name
        else:
            few = made.name.split()[1] in ("P", "1") or made.name.startswith("GIF")
            assert difference.mean() < (24 if few else 12), made.name


@pytest.mark.parametrize("form", ["JPEG2000", "ICO", "DDS", "PPM", "TGA", "PCX", "SGI", "QOI"])
def test_both_halves_refuse_the_same_formats_by_name(tmp_path: Path, form: str) -> None:
    data = encode(photo((64, 64), 1), form)
    name = {"JPEG2000": "JPEG 2000"}.get(form, form)
    with pytest.raises(ClassifyError, match=f"^{name} is not enabled") as served:
        Picture.open(data)
    assert served.value.status == 415
    (tmp_path / "picture").write_bytes(data)
    for read in (header, lambda file: decode(file, "RGB", (8, 8))):
        with pytest.raises(DatasetError, match=f"picture: not a readable image .{name} is not enabled"):
            read(tmp_path / "picture")


def test_both_halves_have_the_same_limit_of_pixels(tmp_path: Path) -> None:
    file = tmp_path / "large.png"
    file.write_bytes(encode(Image.new("1", (8001, 8000))))
    with pytest.raises(DatasetError, match="the limit is 64,000,000"):
        decode(file, "L", (8, 8))
    with pytest.raises(DatasetError, match="the limit is 64,000,000"):
        header(file)


# Levels and colours


@pytest.mark.parametrize("kind", ["8 bits", "16 bits", "floats"])
def test_min_is_white_means_the_same_in_every_depth(kind: str) -> None:
    grey = np.asarray(photo((30, 20), 4).convert("L"))
    levels = {
        "8 bits": 255 - grey,
        "16 bits": (255 - grey.astype(np.uint16)) * 257,
        "floats": ((255 - grey.astype(np.float32)) / 255),
    }[kind]
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    tags[262] = 0  # PhotometricInterpretation: WhiteIsZero
    data = bytearray(encode(Image.fromarray(levels), "TIFF"))
    at = data.index((262).to_bytes(2, "little") + (3).to_bytes(2, "little"))
    data[at + 8] = 0
    found = Picture.open(bytes(data)).to_array((20, 30, 1)).array[..., 0]
    assert np.abs(found.astype(int) - grey).max() <= 1


def swapped_profile() -> bytes:
    """sRGB whose red and blue are exchanged: its colorants are (ICC.1:2022, section 9.2)."""
    data = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    count = int.from_bytes(data[128:132], "big")
    places = {bytes(data[at : at + 4]): at for at in range(132, 132 + 12 * count, 12)}
    red, blue = places[b"rXYZ"], places[b"bXYZ"]
    data[red : red + 4], data[blue : blue + 4] = b"bXYZ", b"rXYZ"
    return bytes(data)


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP", "TIFF", "AVIF"])
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P"])
def test_a_profile_is_followed(form: str, mode: str) -> None:
    if (form == "JPEG" and mode != "RGB") or (form in ("WEBP", "AVIF") and mode == "P"):
        pytest.skip("Pillow writes no such file")
    options: dict[str, Any] = {"quality": 100} if form in ("JPEG", "WEBP", "AVIF") else {}
    red = Image.new("RGB", (16, 16), (200, 40, 10)).convert(mode)
    plain = Picture.open(encode(red, form, **options)).to_array((8, 8, 3)).array[4, 4]
    assert np.abs(plain.astype(int) - (200, 40, 10)).max() <= 12
    data = encode(red, form, icc_profile=swapped_profile(), **options)
    assert np.abs(Picture.open(data).to_array((8, 8, 3)).array[4, 4].astype(int) - (10, 40, 200)).max() <= 16


@pytest.mark.parametrize("profile", [b"no profile", swapped_profile()[:300], swapped_profile()[:128] + bytes(400)])
def test_a_broken_profile_is_ignored(profile: bytes) -> None:
    image = photo((16, 16), 2)
    data = encode(image, icc_profile=profile)
    np.testing.assert_array_equal(Picture.open(data).to_array((16, 16, 3)).array, np.asarray(image))


def test_a_profile_of_another_kind_is_ignored() -> None:
    image = photo((16, 16), 2).convert("L")
    data = encode(image, icc_profile=swapped_profile())
    np.testing.assert_array_equal(Picture.open(data).to_array((16, 16, 1)).array[..., 0], np.asarray(image))


@pytest.mark.parametrize("form", ["PNG", "GIF", "WEBP", "TIFF", "AVIF"])
def test_the_first_picture_of_several_is_taken(form: str) -> None:
    frames = [Image.new("RGB", (8, 8), (level, level, level)) for level in (40, 140, 240)]
    data = encode(frames[0], form, save_all=True, append_images=frames[1:])
    assert abs(int(Picture.open(data).to_array((8, 8, 1)).array.mean()) - 40) <= 3


def test_the_default_picture_of_an_animated_png_is_taken() -> None:
    frames = [Image.new("L", (8, 8), level) for level in (140, 240)]
    data = encode(Image.new("L", (8, 8), 40), save_all=True, append_images=frames, default_image=True)
    assert (Picture.open(data).to_array((8, 8, 1)).array == 40).all()
