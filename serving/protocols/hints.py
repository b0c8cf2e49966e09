"""What people often send instead of a picture, and what to tell them. Looks at bytes and declared types only."""

from serving.edge.http1 import Request
from serving.edge.multipart import Part
from serving.errors import ClassifyError, InvalidImage, InvalidRequest, UnsupportedFormat

_GZIP = b"\x1f\x8b"
_BASE64 = (b"iVBORw0KGgo", b"/9j/", b"R0lGOD", b"UklGR")  # how PNG, JPEG, GIF and WebP begin in base64
_BINARY = (b"\x89PNG", b"\xff\xd8\xff", b"GIF8", b"RIFF")  # how they begin as they are
_SEND = "send the image's bytes, or multipart/form-data with a field `image`"
_UNDECLARED = ("", "application/octet-stream", "multipart/form-data")


def refuse_coding(request: Request) -> None:
    """Raises UnsupportedFormat for a body that is said to be compressed."""
    coding = request.header(b"content-encoding").strip().lower()
    if coding not in ("", "identity"):
        raise UnsupportedFormat(f"a body with Content-Encoding: {coding[:40]!a} is not taken; send it as it is")


START = 64  # bytes of what was sent that `explained` needs


def explained(err: Exception, start: bytes, content_type: str) -> Exception:
    """The decoder's error, or one that says more, for what a client sent that begins with `start`."""
    return (_meant(err, start, content_type) or err) if isinstance(err, InvalidImage) else err


def _meant(err: InvalidImage, start: bytes, content_type: str) -> ClassifyError | None:
    kind = content_type.partition(";")[0].strip().lower()
    if start.startswith(_GZIP):
        return UnsupportedFormat("the body is compressed with gzip; send the image as it is")
    if kind == "application/x-www-form-urlencoded" and start:
        curl = "curl -d drops line ends: use --data-binary @FILE, or -F image=@FILE"
        if start.startswith(_BINARY):
            return InvalidImage(f"{err} ({curl})")
        return UnsupportedFormat(f"{_SEND}, not {kind}; {curl}")
    text = start.lstrip()
    if text.startswith(_BASE64):
        return InvalidImage(f"the body is base64 text; decode it and {_SEND}")
    if text.startswith((b"{", b"[")) and "json" in kind:
        return UnsupportedFormat(f"{_SEND}, not JSON; base64 in JSON is not taken here")
    if start and kind not in _UNDECLARED and not kind.startswith("image/"):
        return UnsupportedFormat(f"{_SEND}, not {content_type[:80]!a}")
    return None


def no_image(parts: list[Part]) -> InvalidRequest:
    """What to say of a form without the field `image`."""
    there = ", ".join(ascii(part.name[:40]) for part in parts[:5]) or "no field at all"
    files = [part.name for part in parts if part.filename is not None]
    rename = f"; rename the field {files[0][:40]!a} to `image`" if files else ""
    return InvalidRequest(f"the form lacks the field `image`; it has {there}{rename}")
