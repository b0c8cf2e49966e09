"""A request's body -> what it holds: decompressed within a limit, then parsed. What takes long leaves the event loop.

Knows content codings (RFC 9110, section 8.4), no protocol and no model.
"""

import zlib
from collections.abc import Callable
from typing import TypeVar

from serving.edge.bodies import too_large
from serving.edge.http1 import Headers, Request
from serving.errors import InvalidRequest, UnsupportedFormat
from serving.protocols import parsing

T = TypeVar("T")
_CODINGS = {"gzip": 31, "x-gzip": 31, "deflate": 47}  # zlib's wbits: gzip's frame; zlib's or gzip's
MIN_COMPRESSED = 1400  # bytes: a shorter answer fits into one packet as it is


def refuse_unknown(request: Request) -> None:
    """Before the body is read. Raises UnsupportedFormat for a coding that is not known here."""
    if b"content-encoding" in request.fields and (coding := _coding(request)) not in ("", *_CODINGS):
        raise UnsupportedFormat(f"a body with Content-Encoding: {coding[:40]!a} is not taken; gzip and deflate are")


def is_quick(request: Request, size: int) -> bool:
    """Whether `size` bytes of the request's body, which are to be parsed, may be parsed on the event loop."""
    return size <= parsing.INLINE_BYTES and (b"content-encoding" not in request.fields or not _coding(request))


async def parsed(request: Request, limit: int, parse: Callable[[bytes], T]) -> T:
    """`parse` of the request's body, which is then let go. At most `limit` bytes come out of a compressed one.

    Raises what `parse` raises, BodyTooLarge, or InvalidRequest for a damaged coding.
    """
    body, request.body = request.body, b""
    coding = _coding(request) if b"content-encoding" in request.fields else ""
    if not coding:
        return await parsing.parsed(body, parse)
    return await parsing.on_thread(lambda: parse(decompressed(body, coding, limit)))  # a few bytes may become many


def _coding(request: Request) -> str:
    coding = request.header(b"content-encoding").strip().lower()
    return "" if coding == "identity" else coding


def decompressed(body: bytes, coding: str, limit: int) -> bytes:
    """The content of a body in gzip or deflate (RFC 9110, section 8.4.1; raw deflate too, which some clients send).

    No more than `limit` bytes are ever held. Raises BodyTooLarge, or InvalidRequest for what is damaged.
    """
    try:
        return _inflated(body, _CODINGS[coding], limit)
    except zlib.error as err:
        if coding == "deflate":
            try:
                return _inflated(body, -15, limit)
            except zlib.error:
                pass
        raise InvalidRequest(f"the body is not in the coding it declares, {coding}") from err


def _inflated(body: bytes, wbits: int, limit: int) -> bytes:
    stream = zlib.decompressobj(wbits)
    content = stream.decompress(body, limit + 1)
    if len(content) > limit:
        raise too_large(limit)
    if not stream.eof or stream.unused_data:
        raise InvalidRequest("the compressed body is cut off, or something follows it")
    return content


def compressed(body: bytes, request: Request) -> tuple[bytes, Headers]:
    """`body` in the first of gzip and deflate that the request's Accept-Encoding names, and the header that says so; as
    it is where none is, or it is short."""
    if len(body) < MIN_COMPRESSED or b"accept-encoding" not in request.fields:
        return body, ()
    accepted = request.header(b"accept-encoding")
    wanted = {
        part.partition(";")[0].strip().lower() for part in accepted.split(",") if "q=0" not in part.replace(" ", "")
    }
    for coding, wbits in (("gzip", 31), ("deflate", 15)):
        if coding in wanted:
            stream = zlib.compressobj(1, wbits=wbits)
            return stream.compress(body) + stream.flush(), (("content-encoding", coding),)
    return body, ()
