"""What no ASGI application can enforce: header bytes, slow clients and connections per worker.

A subclass of uvicorn's httptools protocol, installed where uvicorn looks its protocol up, since BentoML passes no such
options on (seen in BentoML 1.4.39, uvicorn 0.54). A request that arrives whole in one read costs no timer. Knows
connections only: not routes, images or models.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.errors import ClassifyError, HeadersTooLarge, InvalidRequest, Overloaded, RequestTimeout

# A refused upload is read and dropped this long, so that the client sees the answer and not a reset connection.
LINGER_SECONDS = 2.0


_QUIET = logging.getLogger("shortcut.connections")  # uvicorn warns of each invalid request: a client could fill the log
_QUIET.setLevel(logging.ERROR)


@dataclass(frozen=True)
class Limits:
    header_bytes: int
    head_seconds: float  # from the first byte until the headers are complete
    body_seconds: float  # from then until the body is complete
    idle_seconds: float  # between two requests
    connections: int


def install(limits: Limits, front: Callable[[Any], Any]) -> None:
    """Make every uvicorn server of this process use the guarded protocol with `limits`.

    `front` wraps the server's whole application: requests meet it before any middleware of BentoML, whose timeout
    middleware would keep a timer of each request until the timeout and a task of each aborted one (1.4.39).
    """
    protocol = type("GuardedProtocol", (_GuardedProtocol,), {"limits": limits, "front": staticmethod(cache(front))})
    uvicorn.config.HTTP_PROTOCOLS["auto"] = protocol  # type: ignore[assignment]  # a class is taken as it is


class _GuardedProtocol(HttpToolsProtocol):
    limits: Limits
    front: Callable[[Any], Any]

    def __init__(self, *args: Any, **kwargs: Any):
        super().__init__(*args, **kwargs)
        self.logger = _QUIET
        self.access_log = False
        self.app = self.front(self.app)
        self.timeout_keep_alive = self.limits.idle_seconds  # type: ignore[assignment]  # any number of seconds
        self.ws_protocol_class = None  # there are no WebSockets here
        self._reading = False  # inside a request that is not complete yet
        self._in_head = True
        self._head_bytes = 0
        self._timer: asyncio.TimerHandle | None = None
        self._refused = False

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(Overloaded(f"{self.limits.connections} connections are open, the limit of this worker"))
        else:  # a connection on which nothing is ever sent is idle, as one between two requests
            self.timeout_keep_alive_task = self.loop.call_later(
                self.timeout_keep_alive, self.timeout_keep_alive_handler
            )

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        started_in_head = self._in_head
        if started_in_head:
            self._head_bytes += len(data)
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        if started_in_head and self._in_head and self._head_bytes > self.limits.header_bytes:
            self._refuse(self._too_large())
        elif self._in_head and self._head_bytes:
            self._start_timer(self.limits.head_seconds, "headers")
        elif self._reading and self.cycle.response_complete:
            self._start_timer(LINGER_SECONDS, "body")
        elif self._reading:
            self._start_timer(self.limits.body_seconds, "body")

    # httptools' callbacks

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._reading = self._in_head = True

    def on_headers_complete(self) -> None:
        size = len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers)
        if size > self.limits.header_bytes:
            self._refuse(self._too_large())
            raise ValueError("headers too large")  # stops the parser; the answer is sent already
        super().on_headers_complete()  # raises where the address is none; that is still within the head
        self._in_head = False
        self._head_bytes = 0
        self._stop_timer()

    def on_response_complete(self) -> None:
        self._stop_timer()  # the rest of a refused body, if any, gets LINGER_SECONDS of its own
        super().on_response_complete()

    def on_message_complete(self) -> None:
        self._reading = False
        self._in_head = True
        self._stop_timer()
        super().on_message_complete()

    def _unsupported_upgrade_warning(self) -> None:
        """Nothing: a client could fill the log with it."""

    # Refusing

    def send_400_response(self, msg: str) -> None:
        if not self._refused:
            self._refuse(InvalidRequest("the bytes received are no valid HTTP/1.1 request"))

    def _too_large(self) -> ClassifyError:
        return HeadersTooLarge(f"the request line and headers exceed the limit of {self.limits.header_bytes:,} bytes")

    def _refuse(self, err: ClassifyError) -> None:
        """Answer on the wire, if no answer has begun, and close."""
        self._refused = True
        self._stop_timer()
        cycle = self.cycle
        if self._between_answers():
            body = json.dumps(err.body()).encode()
            lines = [STATUS_LINE[err.status], b"content-type: application/json\r\nconnection: close\r\n"]
            lines += [f"{name}: {value}\r\n".encode() for name, value in err.headers]
            lines.append(b"content-length: %d\r\n\r\n" % len(body))
            self.transport.write(b"".join([*lines, body]))
        if cycle is not None and not cycle.response_complete:
            cycle.disconnected = True  # the application learns that nobody waits
            cycle.message_event.set()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.close)
        else:  # TLS
            self.transport.close()

    def _between_answers(self) -> bool:
        """Whether an answer may be written without landing inside another."""
        if self._in_head:
            return self.cycle is None or self.cycle.response_complete
        return not self.cycle.response_started

    def _start_timer(self, seconds: float, what: str) -> None:
        if self._timer is None:
            self._timer = self.loop.call_later(seconds, self._timed_out, seconds, what)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed_out(self, seconds: float, what: str) -> None:
        self._timer = None
        if not self.transport.is_closing():
            self._refuse(RequestTimeout(f"the request's {what} did not arrive within {seconds:g} seconds"))
