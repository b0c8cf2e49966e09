"""Bytes that claim to be a picture: damaged, lying, enormous, odd or no picture at all, and what each must be answered.

Generated, the same every time. Knows nothing of HTTP, so every front door that decodes images can be tried with them.
"""

import io
import random
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from PIL import Image

from tests.pictures import colours, digit, encode

OK = "ok"  # a decodable picture, however odd, is answered
BAD = "invalid_image"
ADDRESS = "invalid_request"
BIG = "image_too_large"
OTHER = "unsupported_format"
FORMATS = ("PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF")


@dataclass(frozen=True)
class Picture:
    """`codes`: what may be answered, the failures' code words or "ok". `costly` ones take a second or more."""

    name: str
    data: bytes
    codes: tuple[str, ...]
    costly: bool = False


def pictures() -> list[Picture]:
    kinds = (
        _truncated,
        _damaged,
        _headers_that_lie,
        _bombs,
        _many_pieces,
        _polyglots,
        _several_frames,
        _modes,
        _orientations,
        _profiles,
        _sizes,
        _no_pictures,
        _addresses,
    )
    return [picture for kind in kinds for picture in kind()]


def _sample(form: str) -> bytes:
    image = digit("7", (40, 30), mode="RGB", ink=(250, 240, 230), ground=(10, 20, 30))
    return encode(image.convert("P") if form == "GIF" else image, form)


# Truncated and damaged


def _truncated() -> Iterator[Picture]:
    for form in FORMATS:
        data = _sample(form)
        shares = {len(data) * share // 8 for share in range(1, 8)}
        for cut in sorted({c for c in {*_boundaries(form, data), *shares, len(data) - 1} if 0 < c < len(data)}):
            all_pixels = cut >= len(data) - 16  # only a check sum or the end mark is missing
            yield Picture(f"{form} cut at {cut} of {len(data)}", data[:cut], (OK, BAD) if all_pixels else (BAD,))
        yield Picture(f"{form} with junk behind", data + b"\0junk" * 100, (OK,))
        yield Picture(f"{form} twice", data * 2, (OK,))


def _boundaries(form: str, data: bytes) -> set[int]:
    """Where the format's parts begin, and a byte to either side."""
    if form == "PNG":
        starts, at = [8, 12, 16, 20, 24], 8
        while at < len(data):
            starts.append(at)
            at += 12 + int.from_bytes(data[at : at + 4], "big")
    elif form == "JPEG":
        starts, at = [2], 2
        while data[at + 1] != 0xDA:
            starts.append(at)
            at += 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        starts.append(at)
    elif form == "GIF":
        starts = [6, 10, 13, 13 + 3 * 2 ** ((data[10] & 7) + 1)]
    elif form == "WEBP":
        starts = [4, 8, 12, 16, 20, 23, 26, 30]
    elif form == "BMP":
        starts = [2, 10, 14, 18, 22, 28, 54]
    else:
        starts = [4, 8, 10, 22, 34, 46]
    return {s + d for s in starts for d in (-1, 0, 1)} if form in ("PNG", "JPEG") else set(starts)


def _damaged() -> Iterator[Picture]:
    rng = random.Random(5)  # damage, not secrets
    for form in FORMATS:
        for number in range(8):
            data = bytearray(_sample(form))
            start = 0 if number % 2 else len(data) // 3
            for _ in range(1 + number):
                data[rng.randrange(start, len(data))] = rng.randrange(256)
            yield Picture(f"{form} damaged, no. {number}", bytes(data), (OK, BAD, BIG))


# Larger than they are


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def png(width: int, height: int, depth: int, colour: int, packed: bytes, before: bytes = b"") -> bytes:
    """`colour` is PNG's colour type; `before` stands between header and data."""
    header = struct.pack(">2I5B", width, height, depth, colour, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + before + chunk(b"IDAT", packed) + chunk(b"IEND", b"")


def deflated_zeros(count: int) -> bytes:
    """A zlib stream of `count` zero bytes, made of one repeated block: gigabytes take no time."""
    block, rest = 1 << 20, zlib.compressobj(9, wbits=-15)
    packer = zlib.compressobj(9, wbits=-15)
    repeated = packer.compress(bytes(block)) + packer.flush(zlib.Z_FULL_FLUSH)
    tail = rest.compress(bytes(count % block)) + rest.flush()
    checksum = (count % 65521) << 16 | 1  # Adler-32 of zeros
    return b"\x78\xda" + repeated * (count // block) + tail + struct.pack(">I", checksum)


def zeros(width: int, height: int, depth: int = 8, colour: int = 0) -> bytes:
    bits = depth * {0: 1, 2: 3, 4: 2, 6: 4}[colour]
    return png(width, height, depth, colour, deflated_zeros(height * (1 + (width * bits + 7) // 8)))


def patched(data: bytes, at: int, form: str, *values: int) -> bytes:
    fields = struct.pack(form, *values)
    return data[:at] + fields + data[at + len(fields) :]


def tiff(*entries: tuple[int, int, int, int], data: bytes = b"") -> bytes:
    """A little-endian TIFF of (tag, type, count, value) entries; `data` begins at offset 8."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\0" + struct.pack("<I", 8 + len(data)) + data + directory + bytes(4)


def grey_tiff(width: int, height: int, *more: tuple[int, int, int, int]) -> bytes:
    plain = {256: (4, 1, width), 257: (4, 1, height), 258: (3, 1, 8), 259: (3, 1, 1), 262: (3, 1, 1)}
    plain |= {273: (4, 1, 8), 277: (3, 1, 1), 278: (4, 1, height), 279: (4, 1, 64)}
    entries = sorted({**plain, **{tag: rest for tag, *rest in more}}.items())
    return tiff(*((tag, *rest) for tag, rest in entries), data=bytes(64))  # type: ignore[misc]


def _headers_that_lie() -> Iterator[Picture]:
    packed = zlib.compress(bytes(9))
    for width, height in ((30_000, 30_000), (2**31 - 1, 1), (1, 2**31 - 1), (65_535, 65_535)):
        yield Picture(f"PNG header of {width}x{height}", png(width, height, 8, 0, packed), (BIG, BAD))
    yield Picture("PNG header over 2^31", png(2**32 - 1, 2**32 - 1, 8, 0, packed), (BIG, BAD))
    yield Picture("PNG header within the limit, no pixels", png(7000, 7000, 8, 0, packed), (BAD,))
    yield Picture("PNG of depth 3", png(8, 8, 3, 0, packed), (BAD,))
    yield Picture("PNG of colour type 9", png(8, 8, 8, 9, packed), (BAD,))
    jpeg, gif, bmp = _sample("JPEG"), _sample("GIF"), _sample("BMP")
    frame = jpeg.index(b"\xff\xc0") + 5
    yield Picture("JPEG header of 65500x65500", patched(jpeg, frame, ">2H", 65_500, 65_500), (BIG,))
    yield Picture("JPEG header of 7000x7000, few pixels", patched(jpeg, frame, ">2H", 7000, 7000), (OK, BAD), True)
    yield Picture("GIF screen of 65535x65535", patched(gif, 6, "<2H", 65_535, 65_535), (BIG,))
    image = gif.index(b",\0\0\0\0") + 5
    yield Picture("GIF frame larger than its screen", patched(gif, image, "<2H", 65_535, 65_535), (BIG,))
    disposal = b"GIF89a\x08\0\x08\0\0\0\0!\xf9\x04\x11\0\0\0\0,\x08\0\0\0\xff\xff\xff\xff\0\x02\0;"  # found by fuzzing
    yield Picture("GIF frame of four gigabytes to be disposed of", disposal, (BIG,))
    yield Picture("BMP header of 30000x30000", patched(bmp, 18, "<2i", 30_000, 30_000), (BIG,))
    yield Picture("BMP header of 2^31", patched(bmp, 18, "<2i", 2**31 - 1, 2**31 - 1), (BIG, BAD))
    yield Picture("BMP of negative height", patched(bmp, 22, "<i", -30), (OK,))
    yield Picture("BMP of negative width", patched(bmp, 18, "<i", -40), (BIG, BAD))
    yield Picture("BMP of the lowest height", patched(bmp, 22, "<i", -(2**31)), (BIG, BAD))
    yield Picture("BMP whose pixels begin behind its end", patched(bmp, 10, "<I", 2**31), (BAD,))
    lossless = encode(colours(), "WEBP", lossless=True)
    yield Picture("WebP header of 16384x16384", patched(lossless, 21, "<I", 0x0FFFFFFF), (BIG, BAD))
    canvas = b"VP8X" + struct.pack("<IB3x", 10, 2) + b"\xff" * 6
    yield Picture("WebP canvas of 2^24", b"RIFF" + struct.pack("<I", 22) + b"WEBP" + canvas, (BIG, BAD))
    yield Picture("TIFF of 30000x30000", grey_tiff(30_000, 30_000), (BIG,))
    yield Picture("TIFF of 2^32-1", grey_tiff(2**32 - 1, 2**32 - 1), (BIG, BAD))
    yield Picture("TIFF as it should be", grey_tiff(8, 8), (OK,))
    tiles = [(322, 4, 1, 65_520), (323, 4, 1, 65_520), (324, 4, 1, 8), (325, 4, 1, 64), (259, 3, 1, 8)]
    yield Picture("TIFF of one tile of four gigabytes", grey_tiff(8, 8, *tiles), (BIG, BAD))
    yield Picture("TIFF with a strip of four gigabytes", grey_tiff(8, 8, (279, 4, 1, 2**32 - 1)), (OK, BAD))
    yield Picture("TIFF with 2^32-1 strips", grey_tiff(8, 8, (273, 4, 2**32 - 1, 8)), (OK, BAD))
    yield Picture("TIFF of 65535 channels", grey_tiff(8, 8, (277, 3, 1, 65_535)), (BAD,))
    yield Picture("TIFF of an unknown compression", grey_tiff(8, 8, (259, 3, 1, 4242)), (BAD,))
    yield Picture("TIFF whose directory points to itself", b"II*\0\x08\0\0\0\0\0\x08\0\0\0", (BAD,))


def _bombs() -> Iterator[Picture]:
    yield Picture("PNG of zeros, 30000x30000, all there", zeros(30_000, 30_000), (BIG,))
    yield Picture("PNG of zeros just over the limit", zeros(7072, 7071), (BIG,))
    yield Picture("PNG of zeros, 7000x7000", zeros(7000, 7000), (OK,), costly=True)
    yield Picture("PNG of zeros, 7000x7000, 16 bits", zeros(7000, 7000, 16), (OK,), costly=True)
    yield Picture("PNG of zeros, 1x1000000", zeros(1, 1_000_000), (OK,))
    yield Picture("PNG of zeros, 1000000x1", zeros(1_000_000, 1), (OK,))
    yield Picture("PNG with more pixels than its header says", png(8, 8, 8, 0, deflated_zeros(10**9)), (OK, BAD))
    text = chunk(b"zTXt", b"k\0\0" + deflated_zeros(10**9)[:500_000])
    yield Picture("PNG with a gigabyte of text", png(8, 8, 8, 0, zlib.compress(bytes(72)), text), (OK, BAD))
    profile = chunk(b"iCCP", b"k\0\0" + deflated_zeros(10**9)[:500_000])
    yield Picture("PNG with a gigabyte of ICC profile", png(8, 8, 8, 0, zlib.compress(bytes(72)), profile), (OK, BAD))
    packed = deflated_zeros(10**9)
    entries = [(259, 3, 1, 8), (279, 4, 1, len(packed))]
    bomb = grey_tiff(8, 8, *entries)
    yield Picture("TIFF with a gigabyte in one strip", bomb[:8] + packed[:64] + bomb[72:], (OK, BAD))


def _many_pieces() -> Iterator[Picture]:
    """Small pictures whose cost is the number of their parts: each is read in a loop."""
    plain = zlib.compress(bytes(72))
    yield Picture("PNG of 150000 chunks", png(8, 8, 8, 0, plain, chunk(b"abCd", b"") * 150_000), (BAD,))
    jpeg, gif = _sample("JPEG"), _sample("GIF")
    yield Picture("JPEG of 400000 comments", jpeg[:2] + b"\xff\xfe\0\x02" * 400_000 + jpeg[2:], (BAD,))
    block = gif.index(b",\0\0\0\0")
    yield Picture("GIF of 300000 comments", gif[:block] + b"!\xfe\1a\0" * 300_000 + gif[block:], (BAD,))
    yield Picture("JPEG of 20000 scans", progressive(3000, 20_000), (BIG,))
    yield Picture("JPEG of 30 scans", progressive(300, 30), (OK,))


def progressive(size: int, scans: int) -> bytes:
    """A progressive JPEG with one scan repeated: each passes over every pixel, and all of them cost few bytes."""
    data = encode(Image.new("L", (size, size), 77), "JPEG", progressive=True)
    parts = data.split(b"\xff\xda")
    return b"\xff\xda".join([*parts[:2], *[parts[2]] * scans, *parts[3:]])


# More than one thing


def _polyglots() -> Iterator[Picture]:
    gif, small = _sample("GIF"), _sample("PNG")
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        archive.writestr(zipfile.ZipInfo("../../evil.sh"), "#!/bin/sh\n")
    script = b"=1;alert(1)//"
    yield Picture("GIF and JavaScript", b"GIF89a" + script, (BAD, BIG, OK))
    yield Picture("GIF followed by JavaScript", gif + b"*/" + script, (OK,))
    yield Picture("PNG followed by a ZIP", small + packed.getvalue(), (OK,))
    yield Picture("ZIP alone", packed.getvalue(), (BAD,))
    yield Picture("PNG with a page in its text", small[:33] + chunk(b"tEXt", b"k\0<script>") + small[33:], (OK,))
    yield Picture("JPEG with PHP in its comment", b"\xff\xd8\xff\xfe\0\x10<?php eval();" + _sample("JPEG")[2:], (OK,))
    yield Picture("BMP that is JavaScript", b"BM" + script, (BAD,))
    yield Picture("PNG signature before a JPEG", small[:8] + _sample("JPEG"), (BAD,))
    yield Picture("PDF followed by a PNG", b"%PDF-1.7\n" + small, (OTHER,))
    yield Picture("PNG behind a newline", b"\n" + small, (BAD,))


def _several_frames() -> Iterator[Picture]:
    frames = [colours(), colours((20, 20)), Image.new("RGB", (8, 8), "red")]
    for form in ("GIF", "WEBP", "TIFF", "PNG"):
        same = [f.resize((8, 8)) for f in frames] * 20
        yield Picture(f"{form} of 60 frames", encode(same[0], form, save_all=True, append_images=same[1:]), (OK,))
    data = encode(frames[0], "TIFF", save_all=True, append_images=frames[1:])
    yield Picture("TIFF whose pages differ in size", data, (OK,))
    yield Picture("TIFF whose second page is cut off", data[:-100], (OK, BAD))
    animated = encode(same[0].convert("P"), "GIF", save_all=True, append_images=same[1:], loop=0)
    yield Picture("GIF cut in its later frames", animated[: len(animated) * 3 // 4], (OK,))


def _modes() -> Iterator[Picture]:
    ramp = np.arange(0, 65536, 1024, dtype=np.uint16).reshape(8, 8)
    odd = Image.fromarray(np.array([[np.nan, np.inf], [-np.inf, 1e38]], np.float32))
    clear = colours().convert("P")
    made = {
        "PNG, 16 bits": encode(Image.fromarray(ramp)),
        "TIFF, 16 bits": encode(Image.fromarray(ramp), "TIFF"),
        "TIFF, 32 bits": encode(Image.fromarray(ramp.astype(np.int32) * 70_000), "TIFF"),
        "TIFF, floats": encode(Image.fromarray(ramp.astype(np.float32)), "TIFF"),
        "TIFF, infinite and not a number": encode(odd, "TIFF"),
        "PNG, palette and transparency": encode(clear, transparency=3),
        "PNG, palette and a table of transparency": encode(clear, transparency=bytes(range(0, 255, 5))),
        "GIF, transparency": encode(clear, "GIF", transparency=0),
        "PNG, a transparent colour": encode(colours(), transparency=(0, 0, 0)),
        "PNG, bilevel with transparency": encode(colours().convert("1"), transparency=0),
        "JPEG, CMYK": encode(colours().convert("CMYK"), "JPEG"),
        "JPEG, progressive": encode(colours((50, 50)), "JPEG", progressive=True),
    }
    for form, modes in {"PNG": ("1", "L", "LA", "P", "RGBA"), "TIFF": ("1", "L", "LA", "P", "RGBA", "CMYK")}.items():
        made |= {f"{form}, mode {mode}": encode(colours().convert(mode), form) for mode in modes}
    for compression in ("tiff_lzw", "tiff_adobe_deflate", "packbits", "jpeg", "tiff_ccitt", "group4"):
        image = colours().convert("1") if compression in ("tiff_ccitt", "group4") else colours()
        made[f"TIFF, {compression}"] = encode(image, "TIFF", compression=compression)
    yield from (Picture(name, data, (OK,)) for name, data in made.items())
    yield Picture("TIFF, mode LAB", encode(Image.new("LAB", (8, 8)), "TIFF"), (OK, BAD))  # only to grey
    few = png(8, 8, 8, 3, zlib.compress(bytes([0, *[200] * 8] * 8)), chunk(b"PLTE", b"\1\2\3"))
    yield Picture("PNG, pixels outside its palette", few, (OK, BAD))
    yield Picture("PNG, palette missing", png(8, 8, 8, 3, zlib.compress(bytes(72))), (OK, BAD))


# What stands beside the pixels


def _orientations() -> Iterator[Picture]:
    for form in ("JPEG", "PNG", "WEBP"):
        for orientation in (1, 2, 3, 4, 5, 6, 7, 8, 0, 9, 65_535):
            exif = Image.Exif()
            exif[0x0112] = orientation
            yield Picture(f"{form}, EXIF orientation {orientation}", encode(colours(), form, exif=exif), (OK,))
    broken = {
        "empty": b"Exif\0\0",
        "pointing behind its end": b"Exif\0\0II*\0\xff\xff\xff\xff",
        "pointing to itself": b"Exif\0\0II*\0\x08\0\0\0\x01\0\x69\x87\x04\0\x01\0\0\0\x08\0\0\0\x08\0\0\0",
        "of 65535 entries": b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\x01\x12\0\x03\0\0\0\x01\0\x06\0\0" * 4000,
        "with a text as orientation": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x02\0\0\0\x04six\0\0\0\0\0",
        "with 2^32-1 orientations": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\xff\xff\xff\xff\0\0\0\0\0\0\0\0",
        "of noise": b"Exif\0\0" + random.Random(6).randbytes(300),
    }
    for name, exif in broken.items():
        yield Picture(f"JPEG, EXIF {name}", encode(colours(), "JPEG", exif=exif), (OK,))
        yield Picture(f"PNG, EXIF {name}", encode(colours(), exif=exif), (OK,))


def _profiles() -> Iterator[Picture]:
    for form in ("JPEG", "PNG", "WEBP", "TIFF"):
        yield Picture(f"{form}, ICC junk", encode(colours(), form, icc_profile=b"no profile" * 50), (OK,))
    noise = random.Random(7).randbytes(200_000)
    yield Picture("JPEG, a long ICC profile", encode(colours(), "JPEG", icc_profile=noise), (OK, BAD))
    yield Picture(
        "PNG, ICC that does not inflate",
        png(8, 8, 8, 0, zlib.compress(bytes(72)), chunk(b"iCCP", b"a\0\0x")),
        (OK, BAD),
    )


def _sizes() -> Iterator[Picture]:
    for form in FORMATS:
        for size in ((1, 1), (1, 500), (500, 1)):
            yield Picture(f"{form} of {size[0]}x{size[1]}", encode(Image.new("RGB", size, "white"), form), (OK,))
    for width, height in ((0, 8), (8, 0), (0, 0)):
        yield Picture(f"PNG of {width}x{height}", png(width, height, 8, 0, zlib.compress(b"")), (BAD,))
        yield Picture(f"GIF of {width}x{height}", b"GIF89a" + struct.pack("<2H", width, height) + b"\0\0\0;", (BAD,))
        yield Picture(f"BMP of {width}x{height}", patched(_sample("BMP"), 18, "<2i", width, height), (BAD,))
        yield Picture(f"TIFF of {width}x{height}", grey_tiff(width, height), (BAD,))


# No pictures


def _no_pictures() -> Iterator[Picture]:
    svg = b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://169.254.169.254/'/></svg>"
    bad = {
        "nothing": b"",
        "one zero byte": b"\0",
        "zeros": bytes(5000),
        "noise": random.Random(8).randbytes(5000),
        "text": b"Lorem ipsum " * 50,
        "JSON": b'{"image": "iVBORw0KGgo="}',
        "base64 of a PNG": b"iVBORw0KGgoAAAANSUhEUgAAAAgAAAAI",
        "XML with an entity bomb": b"<?xml version='1.0'?><!DOCTYPE a [<!ENTITY b SYSTEM 'file:///etc/passwd'>]><a>&b;</a>",
        "a pickle": b"\x80\x04\x95\x1d\0\0\0\0\0\0\0\x8c\x05posix\x8c\x06system\x93\x8c\x02id\x85R.",
        "an .npy file": b"\x93NUMPY\x01\0v\0{'descr': '|O', 'fortran_order': False, 'shape': (1,)}",
        "a program": b"\x7fELF\x02\x01\x01" + bytes(100),
        "NULs and line ends": b"\0\r\n\r\n\0HTTP/1.1 200 OK\r\n\r\n",
        "PPM": b"P6 8 8 255\n" + bytes(192),
        "RIFF that is a WAV": b"RIFF\x24\0\0\0WAVEfmt " + bytes(20),
    }
    yield from (Picture(name, data, (BAD,)) for name, data in bad.items())
    other = {
        "SVG": svg,
        "SVG behind an XML head": b"\xef\xbb\xbf<?xml version='1.0'?>\n" + svg,
        "AVIF": b"\0\0\0\x20ftypavif" + bytes(40),
        "ICO": b"\0\0\x01\0\x01\0" + bytes(40),
        "PSD": b"8BPS\0\x01" + bytes(40),
        "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(40),
        "PostScript": b"%!PS-Adobe-3.0\n(/etc/passwd) (r) file\n",
        "BigTIFF": b"II+\0\x08\0\0\0" + bytes(40),
    }
    yield from (Picture(name, data, (OTHER,)) for name, data in other.items())


ADDRESSES = (
    "http://127.0.0.1:1/x.png",
    "https://example.com/cat.png",
    "http://169.254.169.254/latest/meta-data/iam/security-credentials/",
    "http://metadata.google.internal/computeMetadata/v1/",
    "http://[::ffff:169.254.169.254]/",
    "HTTP://2130706433/",
    "file:///etc/passwd",
    "ftp://127.0.0.1/x.png",
    "data:image/png;base64,iVBORw0KGgo=",
    "s3://bucket/key.png",
    "//127.0.0.1/x.png",
)


def _addresses() -> Iterator[Picture]:
    for address in ADDRESSES:
        yield Picture(f"the address {address}", address.encode(), (ADDRESS,))
    yield Picture("an address behind a blank", b" \r\n\thttp://127.0.0.1/", (ADDRESS,))
    for address in (
        "gopher://127.0.0.1:6379/_INFO",
        "dict://127.0.0.1/",
        "jar:file:///x!/",
        "/etc/passwd",
        "\\\\host\\x",
    ):
        yield Picture(f"the address {address}", address.encode(), (BAD, ADDRESS))
