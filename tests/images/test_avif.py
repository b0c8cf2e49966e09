"""The frame that an AVIF file holds is known before it is decoded, whatever the file says of itself."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from serving.errors import ClassifyError, ImageTooLarge
from serving.images.avif import largest_frame
from serving.images.picture import Picture
from tests.fixtures.pictures import colours, encode


@pytest.mark.parametrize("size", [(8, 8), (64, 40), (333, 77), (1024, 16)])
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
def test_the_frame_of_an_item_is_measured(size: tuple[int, int], mode: str) -> None:
    data = encode(Image.new(mode, size), "AVIF", speed=10)
    assert largest_frame(data) == size[0] * size[1]


def test_the_frame_of_a_track_is_measured() -> None:
    frames = [Image.new("RGB", (48, 32), colour) for colour in ("red", "blue")]
    data = encode(frames[0], "AVIF", speed=10, save_all=True, append_images=frames[1:])
    assert largest_frame(data) == 48 * 32


def test_a_frame_that_the_file_calls_small_is_refused() -> None:
    data = bytearray(encode(Image.new("L", (400, 300)), "AVIF", speed=10))
    at = data.index(b"ispe") + 8
    data[at : at + 8] = (8).to_bytes(4, "big") * 2
    with pytest.raises(ImageTooLarge, match="a frame of 120,000 pixels; the limit is 100,000"):
        Picture.open(bytes(data), 100_000)


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_damage_is_decoded_or_refused(data: st.DataObject) -> None:
    picture = bytearray(encode(colours((16, 16)), "AVIF", speed=10))
    for _ in range(data.draw(st.integers(1, 6))):
        picture[data.draw(st.integers(0, len(picture) - 1))] = data.draw(st.integers(0, 255))
    try:
        assert Picture.open(bytes(picture), 100_000).to_array((8, 8, 3)).array.shape == (8, 8, 3)
    except ClassifyError as err:
        assert err.status in (400, 413, 415)
