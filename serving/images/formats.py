"""Which kind of picture some bytes are: told by their signature, never by a declared type. Reads no further."""

from serving.errors import InvalidImage, InvalidRequest, UnsupportedFormat

ENABLED = "PNG, JPEG, WebP, GIF, BMP and TIFF"
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
    if head[4:8] == b"ftyp":
        raise UnsupportedFormat(f"AVIF, HEIC and video are not enabled; send {ENABLED}")
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<svg", b"<?xml")) and b"<svg" in text:
        raise UnsupportedFormat(f"SVG is not enabled; send {ENABLED}")
    if text.startswith(b"data:"):
        raise InvalidRequest("send the image's bytes, not a data: URL")
    if text.startswith(_ADDRESSES):
        raise InvalidRequest("send the image's bytes, not an address: the service never fetches one")
    raise InvalidImage(f"the bytes are no image in an enabled format ({ENABLED})")
