"""A request that is answered without ASGI, and its answer: what `connections` hands to `direct`.

Knows the bytes of an HTTP/1.1 answer, and the connection that sends them only by four methods.
"""

import itertools
import re
import secrets
import time
from collections.abc import Iterable, Mapping
from functools import lru_cache
from typing import Protocol

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

Header = tuple[bytes, bytes]
Headers = Iterable[Header]

_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PROCESS = secrets.token_hex(4)
_numbers = itertools.count(1)


def request_id(fields: Mapping[bytes, bytes]) -> str:
    """The client's X-Request-Id, if it is harmless, else a new one."""
    given = fields.get(b"x-request-id")
    if given is not None and _ID.fullmatch(given):
        return given.decode()
    return f"{_PROCESS}-{next(_numbers):x}"


class Cancellable(Protocol):
    cancelled: bool


class Connection(Protocol):
    """Where an answer goes."""

    def default_headers(self) -> tuple[tuple[bytes, bytes], ...]: ...
    def is_open(self) -> bool: ...
    def is_last(self) -> bool: ...
    def send(self, answer: bytes, last: bool, /) -> None: ...


class _NoEvent:
    def set(self) -> None:
        """Nobody waits: an Exchange has no task."""


class Exchange:
    """A request for `direct`, and where its answer goes. Stands where uvicorn keeps an ASGI request's cycle."""

    __slots__ = (
        "chunks",
        "connection",
        "disconnected",
        "fields",
        "headers",
        "job",
        "keep_alive",
        "request_id",
        "response_complete",
        "response_started",
        "started",
        "url",
    )
    message_event = _NoEvent()

    def __init__(
        self,
        connection: Connection,
        url: bytes,
        headers: list[tuple[bytes, bytes]],
        fields: Mapping[bytes, bytes],
    ):
        self.connection = connection
        self.url = url
        self.headers = headers  # names in lower case
        self.fields = fields  # the same; of several of one name the first
        self.request_id = request_id(fields)
        self.chunks: list[bytes] = []
        self.started = time.perf_counter()
        self.job: Cancellable | None = None  # what to cancel when the client goes away
        self.disconnected = self.response_started = self.response_complete = False
        self.keep_alive = True

    def answer(self, body: bytes, status: int = 200, headers: Headers | None = None) -> None:
        """Send `body`, JSON, with `headers` (by default those of a 200). Does nothing if the client has gone."""
        self.job = None  # which keeps the exchange: what is in no cycle needs no garbage collector
        connection = self.connection
        if self.disconnected or self.response_complete or not connection.is_open():
            return
        self.response_started = self.response_complete = True
        last = not self.keep_alive or connection.is_last()
        length = b"connection: close\r\ncontent-length: %d\r\n\r\n" if last else b"content-length: %d\r\n\r\n"
        head = _head(status, connection.default_headers(), _JSON if headers is None else tuple(headers))
        name = b"x-request-id: %b\r\n" % self.request_id.encode()
        connection.send(b"".join((head, name, length % len(body), body)), last)


@lru_cache(64)  # the same few for nearly every answer of a second, whose date is in it
def _head(status: int, *headers: tuple[Header, ...]) -> bytes:
    """The status line and `headers` but for the length, which follows."""
    lines = [b"%b: %b\r\n" % (name, value) for some in headers for name, value in some if name != b"content-length"]
    return b"".join([STATUS_LINE[status], *lines])


_JSON = ((b"content-type", b"application/json"), (b"x-content-type-options", b"nosniff"))
