"""What no ASGI application can do: limit header bytes, slow clients and connections, and answer without ASGI at all.

A subclass of uvicorn's httptools protocol, installed where uvicorn looks its protocol up, since BentoML passes no such
options on (seen in BentoML 1.4.39, uvicorn 0.54). A request that arrives whole in one read costs no timer; a small one
for `direct` costs no ASGI scope, task or event either. Knows connections only: not routes, images or models.
"""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, Protocol

import uvicorn.config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from serving.edge.exchange import Exchange
from serving.errors import ClassifyError, HeadersTooLarge, InvalidRequest, Overloaded, RequestTimeout
from serving.operations import metrics as telemetry

# A refused upload is read and dropped this long, so that the client sees the answer and not a reset connection.
LINGER_SECONDS = 2.0
MAX_PIPELINED = 16  # requests that wait on one connection for the answer to the one before


_QUIET = logging.getLogger("shortcut.connections")  # uvicorn warns of each invalid request: a client could fill the log
_QUIET.setLevel(logging.ERROR)


@dataclass(frozen=True)
class Limits:
    header_bytes: int
    head_seconds: float  # from the first byte until the headers are complete
    body_seconds: float  # from then until the body is complete
    idle_seconds: float  # between two requests
    connections: int


class Direct(Protocol):
    """Answers a POST to `path` whose body of at most `limit` bytes is complete; False if it goes on to ASGI instead."""

    path: bytes
    limit: int

    def __call__(self, exchange: Exchange, body: bytes, /) -> bool: ...


def draining() -> bool:
    """Whether this worker is about to stop."""
    return getattr(uvicorn.config.HTTP_PROTOCOLS["auto"], "draining", False)


def install(limits: Limits, front: Callable[[Any], Any], direct: Direct) -> None:
    """Make every uvicorn server of this process use the guarded protocol with `limits`.

    `front` wraps the server's whole application: requests meet it before any middleware of BentoML, whose timeout
    middleware would keep a timer of each request until the timeout and a task of each aborted one (1.4.39).
    """
    attributes = {"limits": limits, "front": staticmethod(cache(front)), "direct": staticmethod(direct)}
    attributes |= {"direct_path": direct.path, "direct_limit": direct.limit}
    protocol = type("GuardedProtocol", (_GuardedProtocol,), attributes)
    uvicorn.config.HTTP_PROTOCOLS["auto"] = protocol  # type: ignore[assignment]  # a class is taken as it is


class _GuardedProtocol(HttpToolsProtocol):
    limits: Limits
    front: Callable[[Any], Any]
    direct: Direct
    direct_path: bytes
    direct_limit: int
    draining = False  # every answer is the last of its connection

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
        self._exchange: Exchange | None = None  # the one whose body is being read
        self._answering: Any = None  # the oldest request without an answer, or the last that got one
        self._direct_once = False  # a direct request may start in this read: the rest waits, as ASGI makes it
        self._got_body = False
        self._stray_bytes = 0  # of trailers and the like, which are neither head nor body
        self._write_timer: asyncio.TimerHandle | None = None
        self._idle_since = 0.0

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        if len(self.connections) > self.limits.connections:
            self._refuse(Overloaded(f"{self.limits.connections} connections are open, the limit of this worker"))
        else:  # a connection on which nothing is ever sent is idle, as one between two requests
            self._watch_idleness()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_timer()
        self._abandon()
        super().connection_lost(exc)
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        if self._write_timer is not None:
            self._write_timer.cancel()
        # Each of these keeps this object: without them it is freed at once, and no garbage collector is needed.
        self.parser = self.cycle = self._answering = self._exchange = None  # type: ignore[assignment]

    def pause_writing(self) -> None:
        super().pause_writing()
        if self._write_timer is None:  # a client that does not read must not hold its connection for ever
            self._write_timer = self.loop.call_later(self.limits.body_seconds, self.transport.abort)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def data_received(self, data: bytes) -> None:
        if self._refused:
            return
        started_in_head = self._in_head
        if started_in_head:
            self._head_bytes += len(data)
        self._direct_once, self._got_body = True, False
        super().data_received(data)
        if self._refused or self.transport.is_closing():
            return
        if self._reading and not started_in_head and not self._in_head and not self._got_body:
            self._stray_bytes += len(data)
            if self._stray_bytes > self.limits.header_bytes:
                self._refuse(self._too_large())
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
        """The ASGI scope, uvicorn's part, follows when it is known to be needed."""
        self._reading = self._in_head = True
        self._stray_bytes = 0
        self.url = b""
        self.headers = []
        self.expect_100_continue = False

    def on_headers_complete(self) -> None:
        size = len(self.url)
        for name, value in self.headers:
            size += len(name) + len(value) + 4
        if size > self.limits.header_bytes:
            self._refuse(self._too_large())
            raise ValueError("headers too large")  # stops the parser; the answer is sent already
        fields = self._direct_fields()
        if fields is not None:
            exchange = Exchange(self, self.url, self.headers, fields)
            self.cycle = self._exchange = self._answering = exchange  # type: ignore[assignment]
            self._direct_once = False
        else:
            self._start_asgi()  # raises where the address is none; that is still within the head
        self._in_head = False
        self._head_bytes = 0
        self._stop_timer()

    def _start_asgi(self) -> None:
        if len(self.pipeline) >= MAX_PIPELINED:
            self._refuse(InvalidRequest(f"more than {MAX_PIPELINED} requests wait for an answer on this connection"))
            raise ValueError("too many requests")  # stops the parser
        url, headers, expected = self.url, self.headers, self.expect_100_continue
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expected
        self.headers += headers  # the list that is in the scope
        super().on_headers_complete()
        self.cycle.keep_alive = self.cycle.keep_alive and not self.draining
        if not self.pipeline:
            self._answering = self.cycle

    def on_body(self, body: bytes) -> None:
        self._got_body = True
        if self._exchange is None:
            super().on_body(body)
        else:
            self._exchange.chunks.append(body)

    def on_message_complete(self) -> None:
        self._reading = False
        self._in_head = True
        self._stop_timer()
        exchange, self._exchange = self._exchange, None
        if exchange is None:
            super().on_message_complete()
            if self.cycle is not None and self.cycle.response_complete and not self.pipeline:
                self._watch_idleness()  # answered before its body had come
        elif not exchange.response_started:  # nor refused meanwhile
            body = exchange.chunks[0] if len(exchange.chunks) == 1 else b"".join(exchange.chunks)
            if not self.direct(exchange, body):
                self.cycle = None  # type: ignore[assignment]  # as if it had never been tried
                self._start_asgi()
                super().on_body(body)
                super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, but for the timer."""
        self._stop_timer()  # the rest of a refused body, if any, gets LINGER_SECONDS of its own
        self.server_state.total_requests += 1
        if self.transport.is_closing():
            return
        self.flow.resume_reading()
        if self.pipeline:
            self._answering, app = self.pipeline.pop()
            self._start_asgi_task(self._answering, app)
        else:
            self._watch_idleness()

    # Direct answers

    def _direct_fields(self) -> dict[bytes, bytes] | None:
        """The headers of a request for `direct`, on a connection where no other waits for its answer; None for any
        other request."""
        url, path = self.url, self.direct_path
        if not url.startswith(path) or url[len(path) : len(path) + 1] not in (b"", b"?") or b"#" in url:
            return None
        fields = dict(reversed(self.headers))
        length = fields.get(b"content-length", b"")
        direct = (
            self._direct_once
            and not self.flow.write_paused
            and length.isdigit()
            and len(length) < 19
            and int(length) <= self.direct_limit
            and (self.cycle is None or self.cycle.response_complete)
            and not self.expect_100_continue
            and self.parser.get_method() == b"POST"
            and self.parser.get_http_version() == "1.1"
            and self.parser.should_keep_alive()
            and not self.parser.should_upgrade()
            and not self.root_path
        )
        return fields if direct else None

    def default_headers(self) -> tuple[tuple[bytes, bytes], ...]:
        return tuple(self.server_state.default_headers)

    def is_open(self) -> bool:
        return not self.transport.is_closing()

    def is_last(self) -> bool:
        return self.draining

    def send(self, answer: bytes, last: bool, /) -> None:
        self.transport.write(answer)
        if last:
            self._close()
        self.on_response_complete()

    # Idleness: one timer for the connection's life looks at the clock, in place of one set and cancelled each request

    def _unset_keepalive_if_required(self) -> None:
        self._idle_since = 0.0

    def _watch_idleness(self) -> None:
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again(self.limits.idle_seconds)

    def _look_again(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def timeout_keep_alive_handler(self) -> None:
        self.timeout_keep_alive_task = None
        if self._idle_since and not self.transport.is_closing():
            left = self._idle_since + self.limits.idle_seconds - self.loop.time()
            if left > 0:
                self._look_again(left)
            else:
                self._close()

    def _close(self) -> None:
        """What was written has LINGER_SECONDS to go out."""
        self.transport.close()
        self.loop.call_later(LINGER_SECONDS, self.transport.abort)

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
        telemetry.refused(err.status)
        if self._between_answers():
            body = json.dumps(err.body()).encode()
            lines = [STATUS_LINE[err.status], b"content-type: application/json\r\nconnection: close\r\n"]
            lines += [f"{name}: {value}\r\n".encode() for name, value in err.headers]
            lines.append(b"content-length: %d\r\n\r\n" % len(body))
            self.transport.write(b"".join([*lines, body]))
        self._abandon()
        if self.transport.can_write_eof():
            self.transport.write_eof()
            self.loop.call_later(LINGER_SECONDS, self.transport.abort)
        else:  # TLS
            self._close()

    def _between_answers(self) -> bool:
        """Whether an answer may be written without landing inside or before another."""
        current = self._answering
        if self._in_head:
            return not self.pipeline and (current is None or current.response_complete)
        return self.cycle is current and not current.response_started

    def _abandon(self) -> None:
        """Nobody waits for what is not answered yet: applications learn it, and what is queued is not computed."""
        waiting = [self._answering, self.cycle, *(cycle for cycle, _ in self.pipeline)]
        self.pipeline.clear()
        for cycle in waiting:
            if cycle is not None and not cycle.response_complete:
                cycle.disconnected = True
                cycle.message_event.set()
                if isinstance(cycle, Exchange) and cycle.job is not None:
                    cycle.job.cancelled = True
                    cycle.job = None

    def shutdown(self) -> None:
        """As uvicorn's at the end of the draining, but a request whose head has begun to arrive is still answered."""
        if self._in_head and self._head_bytes:
            self.draining = True
        else:
            super().shutdown()

    def drain(self) -> None:
        """The answer to the request at hand is the last of this connection."""
        if self._answering is not None:
            self._answering.keep_alive = False

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
