"""Which kind of picture some bytes are: told by their signature, never by a declared type. Reads no further.

Training and serving read the same formats: those that browsers, cameras and scanners write. Every other decoder of
Pillow stays shut, since each is code that strangers' bytes would reach.
"""

from serving.errors import InvalidImage, InvalidRequest, UnsupportedFormat

ENABLED = "PNG, JPEG, WebP, AVIF, GIF, BMP and TIFF"
_SIGNATURES: tuple[tuple[bytes, str], ...] = (
    (b"\x89PNG\r\n\x1a\n", "PNG"),
    (b"\xff\xd8\xff", "JPEG"),
    (b"GIF87a", "GIF"),
    (b"GIF89a", "GIF"),
    (b"BM", "BMP"),
    (b"II*\x00", "TIFF"),
    (b"MM\x00*", "TIFF"),
)
_DISABLED: tuple[tuple[bytes, str], ...] = (
    (b"8BPS", "PSD"),
    (b"\x00\x00\x01\x00", "ICO"),
    (b"\x00\x00\x00\x0cjP  ", "JPEG 2000"),
    (b"\xff\x4f\xff\x51", "JPEG 2000"),
    (b"\x00\x00\x00\x0cJXL ", "JPEG XL"),
    (b"\xff\x0a", "JPEG XL"),
    (b"II+\x00", "BigTIFF"),
    (b"MM\x00+", "BigTIFF"),
    (b"%PDF-", "PDF"),
    (b"%!PS", "PostScript"),
    (b"qoif", "QOI"),
    (b"DDS ", "DDS"),
    (b"v/1\x01", "OpenEXR"),
    (b"\xd7\xcd\xc6\x9a", "WMF"),
    (b"\x01\xda\x00\x01", "SGI"),
    (b"\x01\xda\x01\x01", "SGI"),
    (b"SIMPLE  =", "FITS"),
    (b"gimp xcf", "XCF"),
    (b"icns", "ICNS"),
    (b"/* XPM */", "XPM"),
    (b"#define ", "XBM"),
    (b"Image type:", "IM"),
    (b"FORM", "IFF"),
)
# The codec of an ISO media file, by its brands (ISO/IEC 14496-12, section 4.3; 23008-12, annex B; AV1 in HEIF 1.1).
_AVIF_BRANDS = {b"avif", b"avis"}
_HEIC_BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs", b"mif1", b"msf1"}
_HEIC = (
    "HEIC is not enabled: save it as JPEG first (on an iPhone: Settings, Camera, Formats, Most Compatible; elsewhere: "
    "`magick picture.heic picture.jpg`); send"
)
_ADDRESSES = (b"http:", b"https:", b"file:", b"ftp:", b"s3:", b"gs:", b"//")


def picture_format(data: bytes | memoryview) -> str:
    """Pillow's name of the enabled format that `data` starts with.

    Raises InvalidImage, UnsupportedFormat naming what it is instead, or InvalidRequest for an address.
    """
    head = bytes(data[:512])
    if not head:
        raise InvalidImage("the image is empty: 0 bytes")
    for signature, form in _SIGNATURES:
        if head.startswith(signature):
            return form
    if head[:4] == b"RIFF" and head[8:12] == b"WEBP":
        return "WEBP"
    for signature, form in _DISABLED:
        if head.startswith(signature):
            raise UnsupportedFormat(f"{form} is not enabled; send {ENABLED}")
    if head[4:8] == b"ftyp" and len(head) >= 12:
        return _of_media(head)
    if other := _without_signature(head):
        raise UnsupportedFormat(f"{other} is not enabled; send {ENABLED}")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        raise UnsupportedFormat(f"SVG is not enabled; send {ENABLED}")
    if text.startswith(b"data:"):
        raise InvalidRequest("send the image's bytes, not a data: URL")
    if text.startswith(_ADDRESSES):
        raise InvalidRequest("send the image's bytes, not an address: the service never fetches one")
    raise InvalidImage(f"the bytes are no image in an enabled format ({ENABLED})")


def _of_media(head: bytes) -> str:
    """AVIF, by the brands of an ISO media file. Raises UnsupportedFormat of HEIC and films."""
    listed = head[16 : max(16, min(int.from_bytes(head[:4], "big"), len(head)))]
    brands = {head[8:12], *(listed[i : i + 4] for i in range(0, len(listed), 4))}
    if brands & _AVIF_BRANDS:
        return "AVIF"
    if brands & _HEIC_BRANDS:
        raise UnsupportedFormat(f"{_HEIC} {ENABLED}")
    raise UnsupportedFormat(f"video is not enabled; send {ENABLED}")


def _without_signature(head: bytes) -> str | None:
    """The name of a format whose first bytes are few or only probable: Netpbm, PCX, CUR and TGA."""
    if head[:1] == b"P" and head[1:2] in b"1234567Ff" and head[2:3].isspace():
        return "PPM"
    if head[:1] == b"\n" and head[1:2] in b"\0\2\3\4\5" and head[2:3] == b"\1" and head[3:4] in b"\1\2\4\x08":
        return "PCX"
    if len(head) < 18:
        return None
    if head[:4] == b"\0\0\2\0" and any(head[4:6]):
        return "CUR"
    # Truevision TGA 2.0: kind of image, colour map (a length, bits of a colour), size, bits of a pixel, reserved bits
    mapped, kind = head[1], head[2]
    colours = any(head[5:7]) and head[7] in (15, 16, 24, 32) if mapped else not any(head[5:7])
    plausible = mapped in (0, 1) and kind in (1, 2, 3, 9, 10, 11) and head[16] in (8, 15, 16, 24, 32)
    sized = any(head[12:14]) and any(head[14:16]) and not head[17] & 0xC0
    return "TGA" if plausible and sized and colours else None
