"""A multipart/form-data body -> its fields, within limits (RFC 7578). Knows neither pictures nor models."""

import logging
import re
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote

from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from serving.errors import InvalidRequest

MAX_FILENAME = 255
_ESCAPED = re.compile("%(?:0A|0D|22)", re.I)
_EXTENDED = re.compile(rb"""; *filename\*="?([A-Za-z0-9-]{1,20})'[^']{0,20}'([^;"\s]{1,1000})""", re.I)

logging.getLogger("python_multipart").setLevel(logging.ERROR)  # it warns of every malformed body; clients get told


@dataclass(frozen=True)
class Part:
    """One field of a multipart form."""

    name: str
    filename: str | None
    data: bytes


def is_multipart(content_type: str) -> bool:
    return content_type.lstrip()[:20].lower().startswith("multipart/form-data")


def parse(body: bytes, content_type: str, max_parts: int) -> list[Part]:
    """The parts of a complete multipart/form-data body. Raises InvalidRequest saying what is wrong."""
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
        filename = _filename(self._headers[b"content-disposition"], options.get(b"filename"))
        self.parts.append(
            Part(
                name=options[b"name"].decode("utf-8", "replace"),
                filename=None if filename is None else filename[:MAX_FILENAME],
                data=self._data[0] if len(self._data) == 1 else b"".join(self._data),
            )
        )

    def _finish(self) -> None:
        self.ended = True


def _filename(header: bytes, plain: bytes | None) -> str | None:
    """The file's name: with the signs that browsers write as %0A, %0D and %22 (WHATWG's HTML, multipart form data), or
    from `filename*` (RFC 8187), which some clients send alone although RFC 7578 has only `filename`."""
    if plain is not None:
        return _ESCAPED.sub(lambda match: unquote(match[0]), plain.decode("utf-8", "replace"))
    if (extended := _EXTENDED.search(header)) is None:
        return None
    charset, name = extended[1].decode("ascii").lower(), extended[2].decode("ascii", "replace")
    return unquote(name, "latin-1" if charset == "iso-8859-1" else "utf-8", "replace")
