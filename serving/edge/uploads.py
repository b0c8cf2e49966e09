"""A request's body -> the uploaded files in it, within limits. Knows HTTP bodies, not pictures or models."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.errors import BodyTooLarge, InvalidRequest, UnsupportedFormat

MAX_FILENAME = 255

Result = TypeVar("Result")

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every malformed body; clients get told


class ClientGone(Exception):
    """The client closed the connection before its body was complete: there is nobody to answer."""


@dataclass(frozen=True)
class Part:
    """One field of a multipart form."""

    name: str
    filename: str | None
    data: bytes


async def read_body(receive: Callable[[], Awaitable[Any]], headers: Mapping[str, str], limit: int) -> bytes:
    """The whole body; raises BodyTooLarge as soon as its length is known or reached to be over `limit` bytes."""
    declared = headers.get("content-length", "").lstrip("0")
    if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
        raise BodyTooLarge(f"the body has {declared[:20]} bytes; the limit is {limit:,}")
    chunks: list[bytes] = []
    received = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ClientGone
        chunk = message.get("body", b"")
        received += len(chunk)
        if received > limit:
            raise BodyTooLarge(f"the body has more than the limit of {limit:,} bytes")
        chunks.append(chunk)
        if not message.get("more_body", False):
            return chunks[0] if len(chunks) == 1 else b"".join(chunks)


async def unless_gone(receive: Callable[[], Awaitable[Any]], work: Coroutine[Any, Any, Result]) -> Result:
    """What `work` returns, after the body was read; raises ClientGone, and cancels it, as soon as nobody waits."""
    working, gone = asyncio.ensure_future(work), asyncio.ensure_future(receive())
    try:
        await asyncio.wait((working, gone), return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            return working.result()
        raise ClientGone
    finally:
        working.cancel()
        gone.cancel()
        del working, gone  # this frame is in an error's traceback: it must not keep the task, which keeps the error


def is_multipart(content_type: str) -> bool:
    return content_type.lstrip()[:20].lower().startswith("multipart/form-data")


def one_image(body: bytes, content_type: str, max_parts: int) -> bytes:
    """The file that a body of /classify carries: its one field `image`, or itself. Raises InvalidRequest."""
    if not is_multipart(content_type):
        return body
    images = form_images(body, content_type, max_parts)
    if len(images) > 1:
        raise InvalidRequest(f"one field `image` a request, got {len(images)}; POST /classify/batch takes several")
    return images[0].data


def form_images(body: bytes, content_type: str, max_parts: int) -> list[Part]:
    """The fields `image` of a form, at least one. Raises InvalidRequest."""
    parts = parse_multipart(body, content_type, max_parts)
    images = [part for part in parts if part.name == "image"]
    if not images:
        there = ", ".join(ascii(part.name[:40]) for part in parts[:5]) or "no field at all"
        raise InvalidRequest(f"the form lacks the field `image`; it has {there}")
    return images


def claims_an_image(body: bytes, content_type: str) -> bool:
    """Whether a body that is no image was said to be one, or was said to be nothing."""
    kind = content_type.partition(";")[0].strip().lower()
    return not body or kind in _IMAGE_TYPES or kind.startswith("image/")


def not_an_image(content_type: str) -> UnsupportedFormat:
    """What to say of a body that is none and was never said to be one."""
    return UnsupportedFormat(f"send the image's bytes or multipart/form-data, not {content_type[:80]!a}")


_IMAGE_TYPES = ("", "application/octet-stream", "multipart/form-data")


def parse_multipart(body: bytes, content_type: str, max_parts: int) -> list[Part]:
    """The parts of a complete multipart/form-data body (RFC 7578). Raises InvalidRequest saying what is wrong."""
    boundary = parse_options_header(content_type)[1].get(b"boundary", b"")
    if not boundary:
        raise InvalidRequest("multipart/form-data without a boundary in Content-Type")
    collector = _Collector(max_parts)
    try:
        parser = MultipartParser(boundary, collector.callbacks())
        parser.write(body)
        parser.finalize()
    except FormParserError as err:
        raise InvalidRequest("malformed multipart/form-data: the body does not follow its boundary") from err
    if not collector.ended:
        raise InvalidRequest("malformed multipart/form-data: the closing boundary is missing")
    return collector.parts


class _Collector:
    """Builds parts from the parser's callbacks."""

    def __init__(self, max_parts: int):
        self.parts: list[Part] = []
        self.ended = False
        self._max_parts = max_parts
        self._field = self._value = b""
        self._headers: dict[bytes, bytes] = {}
        self._data: list[bytes] = []

    def callbacks(self) -> Any:
        return {
            "on_part_begin": self._begin,
            "on_header_field": self._add_field,
            "on_header_value": self._add_value,
            "on_header_end": self._end_header,
            "on_part_data": lambda data, start, end: self._data.append(data[start:end]),
            "on_part_end": self._end,
            "on_end": self._finish,
        }

    def _begin(self) -> None:
        if len(self.parts) >= self._max_parts:
            raise InvalidRequest(f"the form has more than {self._max_parts} parts")
        self._headers, self._data = {}, []

    def _add_field(self, data: bytes, start: int, end: int) -> None:
        self._field += data[start:end]

    def _add_value(self, data: bytes, start: int, end: int) -> None:
        self._value += data[start:end]

    def _end_header(self) -> None:
        self._headers[self._field.lower()] = self._value
        self._field = self._value = b""

    def _end(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition"))
        if disposition != b"form-data" or b"name" not in options:
            raise InvalidRequest("malformed multipart/form-data: a part lacks Content-Disposition: form-data; name=…")
        if self._headers.get(b"content-transfer-encoding", b"binary").lower() not in (b"binary", b"8bit", b"7bit"):
            raise InvalidRequest("multipart parts must be sent as they are, without a Content-Transfer-Encoding")
        filename = options.get(b"filename")
        self.parts.append(
            Part(
                name=options[b"name"].decode("utf-8", "replace"),
                filename=None if filename is None else filename.decode("utf-8", "replace")[:MAX_FILENAME],
                data=self._data[0] if len(self._data) == 1 else b"".join(self._data),
            )
        )

    def _finish(self) -> None:
        self.ended = True
