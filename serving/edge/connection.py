"""One client's connection: bytes in, requests to the router, answers out, within limits of time and size.

Requests of a connection are answered one after the other; what a client sends ahead waits unread. A request that
arrives whole in one read costs no timer. Knows neither models nor images, nor what the routes do.
"""

import asyncio
from collections.abc import Coroutine
from enum import Enum
from typing import Any, NamedTuple

from serving.edge.http1 import (
    END,
    Body,
    Request,
    Response,
    check_beginning,
    failure,
    parse_head,
    too_large,
)
from serving.edge.router import Route, awaited, guarded
from serving.edge.worker import Edge
from serving.errors import ClassifyError, HeadersTooLarge, InvalidRequest, Overloaded, RequestTimeout
from serving.operations import metrics

# A refused upload is read and dropped for this long, so that the client sees the answer and not a reset connection.
LINGER_SECONDS = 2.0
MAX_PIPELINED = 16  # requests that one read may bring
MAX_AHEAD_BYTES = 64 * 1024  # bytes that may wait behind a request without an answer; then reading stops
EVICTABLE_SECONDS = 1.0  # an idle connection is only closed to make room after this long: a request may be under way
CLIENT_GONE = 499  # the status in metrics of a request whose client did not wait for its answer


class State(Enum):
    """Where a connection stands."""

    IDLE = "between two requests, or before the first"
    HEAD = "a request's head has begun to arrive"
    BODY = "a request's body arrives"
    ANSWERING = "the request has arrived; its answer is being made"
    DROPPING = "answered; the rest of the request's body arrives and is dropped"
    CLOSING = "the last answer is written; what arrives is dropped"


class Arriving(NamedTuple):
    """A body that is on its way: to be handled by `route`, or dropped if that is None."""

    request: Request
    body: Body
    route: Route | None


class Connection(asyncio.Protocol):
    """uvicorn's server calls it as any protocol of its own; `server_state` is uvicorn's."""

    def __init__(self, edge: Edge, server_state: Any):
        self._edge = edge
        self._server = server_state
        self._loop = asyncio.get_running_loop()
        self._state = State.IDLE
        self._ahead = b""  # received and not parsed yet
        self._request: Request | None = None  # the one that has no answer yet
        self._arriving: Arriving | None = None
        self._lingering = False  # refused: more may come of what the client began to send
        self._reserved = 0  # bytes of the worker's budget that this body has
        self._parsing = False  # inside `_parse`: an answer given meanwhile must not start it again
        self._write_paused = False
        self._pipelined = 0  # requests of the last read
        self._idle_since = 0.0
        self._timer: asyncio.TimerHandle | None = None  # for what is arriving
        self._idle_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # uvloop's is not a subclass of asyncio's
        self._server.connections.add(self)
        limit = self._edge.limits.connections
        if len(self._server.connections) > limit and not self._edge.make_room():
            self._refuse(Overloaded(f"{limit} connections are open, the limit of this worker, and none has been idle"))
        else:  # a connection on which nothing is ever sent is idle, as one between two requests
            self._become_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._edge.idle.pop(self, None)
        for timer in (self._timer, self._idle_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._state = State.CLOSING
        self._arriving = None
        self._release_body()
        self._abandon()
        self._ahead = b""

    def pause_writing(self) -> None:
        """The client does not read: it gets no more answers, and must not hold its connection for ever."""
        self._write_paused = True
        self._transport.pause_reading()
        if self._write_timer is None:
            self._write_timer = self._loop.call_later(self._edge.limits.body_seconds, self._transport.abort)

    def resume_writing(self) -> None:
        self._write_paused = False
        self._transport.resume_reading()
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        self._go_on()

    def data_received(self, data: bytes) -> None:
        state = self._state
        if state is State.CLOSING:
            return
        self._pipelined = 0
        if state is State.ANSWERING or self._write_paused:
            self._ahead += data
            if len(self._ahead) > MAX_AHEAD_BYTES:
                self._transport.pause_reading()
            return
        if self._ahead:
            data, self._ahead = self._ahead + data, b""
        self._parse(data)

    # Parsing

    def _parse(self, data: bytes) -> None:
        """Take as much of `data` as the connection's state allows; the rest waits."""
        self._parsing = True
        try:
            while data and not self._write_paused:
                state = self._state
                if state is State.IDLE or state is State.HEAD:
                    rest = self._take_head(data)
                    if rest is None:
                        break
                    data = rest
                elif self._arriving is not None and state is not State.ANSWERING:
                    data = self._take_body(self._arriving, data)
                else:
                    break
        except ClassifyError as err:  # it is not certain where the next request begins
            self._refuse(err)
            return
        finally:
            self._parsing = False
        self._ahead = b"" if self._state is State.CLOSING else data

    def _go_on(self) -> None:
        """Parse what had to wait."""
        if self._ahead and not self._parsing and self._state is not State.ANSWERING and not self._write_paused:
            self._transport.resume_reading()
            data, self._ahead = self._ahead, b""
            self._parse(data)

    def _take_head(self, data: bytes) -> bytes | None:
        """Returns what follows the request's head; None if that has not arrived whole. Raises what makes it none."""
        limit = self._edge.limits.header_bytes
        if self._state is State.IDLE:
            self._edge.idle.pop(self, None)
            self._idle_since = 0.0
            self._state = State.HEAD
        end = data.find(END)
        if (end if end >= 0 else len(data)) + len(END) > limit:
            raise HeadersTooLarge(f"the request line and headers exceed the limit of {limit:,} bytes")
        if end < 0:
            check_beginning(data)
            self._start_timer(self._edge.limits.head_seconds, "headers")
            return None
        self._pipelined += 1
        if self._pipelined > MAX_PIPELINED:
            raise InvalidRequest(f"more than {MAX_PIPELINED} requests wait for an answer on this connection")
        request = parse_head(data, end)
        self._stop_timer()
        return self._begin(request, data, end + len(END))

    def _begin(self, request: Request, data: bytes, start: int) -> bytes:
        """A request whose head is complete; its body, if any, is in `data` from `start` on, or still to come."""
        request.connection = self
        self._request = request
        route = guarded(lambda: self._edge.router.accept(request), request)
        length = request.length
        if length is not None and len(data) - start >= length:  # it has arrived whole: nearly every one
            self._state = State.ANSWERING
            if isinstance(route, Response):
                request.respond(route)
            else:
                if length:
                    request.body = data[start : start + length]
                self._handle(route, request)
            return data[start + length :]
        if not isinstance(route, Response):
            route = self._receive(route, request)
        if isinstance(route, Response):  # answered before its body has come, which is then dropped
            self._arriving = Arriving(request, Body(length, 0), None)
            request.respond(route)
        return data[start:]

    def _receive(self, route: Route, request: Request) -> Route | Response:
        """Make ready for a request's body, or say why not."""
        if not route.max_bytes:  # it takes none, whatever there is
            self._arriving = Arriving(request, Body(request.length, 0), None)
            self._state = State.ANSWERING
            self._handle(route, request)
            return route
        try:
            self._reserve(request.length or 0)
        except ClassifyError as err:
            return request.failure(err)
        self._state = State.BODY
        self._arriving = Arriving(request, Body(request.length, route.max_bytes), route)
        if request.expects_continue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._start_timer(self._edge.limits.body_seconds, "body")
        return route

    def _take_body(self, arriving: Arriving, data: bytes) -> bytes:
        """Returns what follows the body."""
        request, body, route = arriving
        rest = body.take(data)
        if route is not None and body.received > self._reserved:  # a chunked one, whose length was not known
            if body.received > route.max_bytes:
                raise too_large(route.max_bytes)
            self._reserve(body.received - self._reserved)
        if not body.complete:
            return rest
        self._stop_timer()
        self._arriving = None
        if route is None:
            self._become_idle()
        else:
            request.body = body.joined()
            self._state = State.ANSWERING
            self._handle(route, request)
        return rest

    def _handle(self, route: Route, request: Request) -> None:
        made = guarded(lambda: route.handle(request), request)
        if made is None:
            return  # the answer comes later
        if isinstance(made, Response):
            request.respond(made)
        else:
            self._task = self._loop.create_task(self._respond_later(made, request))

    async def _respond_later(self, work: Coroutine[Any, Any, Response], request: Request) -> None:
        response = await awaited(work, request)
        self._task = None
        request.respond(response)

    # Answering

    def answer(self, request: Request, response: Response) -> None:
        """Called by `request.respond`."""
        metrics.finished(request.label, response.status, request.started, request.request_id, request.stages)
        self._request = None
        request.body = b""
        self._release_body()
        if self._transport.is_closing():
            return
        last = request.close or self._edge.draining
        self._write(request, response, last)
        if last:
            self._close_after_answer()
            return
        if self._arriving is None:
            self._become_idle()
        else:
            self._state = State.DROPPING
            self._start_timer(LINGER_SECONDS, "body")
        self._go_on()

    def _write(self, request: Request, response: Response, last: bool) -> None:
        # RFC 9110, section 15.4.5: a 304 has no content, and would say the length of what it stands for.
        length = b"" if response.status == 304 else b"content-length: %d\r\n" % len(response.body)
        keep = b"connection: close\r\n" if last else b"connection: keep-alive\r\n" if request.minor == b"0" else b""
        head = self._edge.head(response.status, response.headers)
        head += b"x-request-id: %b\r\n%b%b\r\n" % (request.request_id.encode(), keep, length)
        self._transport.write(head if request.method == b"HEAD" else head + response.body)

    def _close_after_answer(self) -> None:
        """What was written has LINGER_SECONDS to go out; what still arrives is dropped, or the client would see a reset
        in place of its answer."""
        self._stop_timer()
        self._state = State.CLOSING
        if (self._lingering or self._arriving is not None) and self._transport.can_write_eof():
            self._transport.write_eof()
        else:
            self._transport.close()
        self._timer = self._loop.call_later(LINGER_SECONDS, self._transport.abort)

    def _refuse(self, err: ClassifyError) -> None:
        """Answer on the wire, if a request waits for it or may have begun to arrive, and close."""
        metrics.refused(err.status)
        dropping, request = self._state is State.DROPPING, self._request
        self._lingering = True
        if request is not None:
            request.close = True
            request.respond(request.failure(err))
            return
        if not dropping and not self._transport.is_closing():
            response = failure(err)
            head = self._edge.head(response.status, (*response.headers, ("connection", "close")))
            self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(response.body), response.body))
        self._close_after_answer()

    def _abandon(self) -> None:
        """Nobody waits for the request at hand any more: what is queued of it is not computed."""
        request, self._request = self._request, None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        if request is not None and request.connection is not None:
            metrics.finished(request.label, CLIENT_GONE, request.started, request.request_id)
            request.connection = None
            if request.pending is not None:
                request.pending.cancelled = True
                request.pending = None

    # Bodies' memory

    def _reserve(self, size: int) -> None:
        self._edge.bodies.reserve(size)
        self._reserved += size

    def _release_body(self) -> None:
        if self._reserved:
            self._edge.bodies.release(self._reserved)
            self._reserved = 0

    # Idleness: one timer for the connection's life looks at the clock, in place of one set and cancelled each request

    def _become_idle(self) -> None:
        self._state = State.IDLE
        self._edge.idle[self] = None
        self._idle_since = self._loop.time()
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_later(self._edge.limits.idle_seconds, self._look_at_idleness)

    def _look_at_idleness(self) -> None:
        self._idle_timer = None
        if self._state is State.IDLE and not self._transport.is_closing():
            left = self._idle_since + self._edge.limits.idle_seconds - self._loop.time()
            if left > 0:
                self._idle_timer = self._loop.call_later(left, self._look_at_idleness)
            else:
                self._close_idle()

    def evict(self) -> bool:
        """Close this idle connection to make room for another, unless it has only just become so."""
        if self._loop.time() - self._idle_since < EVICTABLE_SECONDS:
            return False
        self._close_idle()
        return True

    def _close_idle(self) -> None:
        self._edge.idle.pop(self, None)
        self._state = State.CLOSING
        self._transport.close()

    # Time that a request may take to arrive

    def _start_timer(self, seconds: float, what: str) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, self._timed_out, seconds, what)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _timed_out(self, seconds: float, what: str) -> None:
        self._timer = None
        if not self._transport.is_closing():
            self._refuse(RequestTimeout(f"the request's {what} did not arrive within {seconds:g} seconds"))

    def shutdown(self) -> None:
        """uvicorn's server calls it at its end: a request that has begun to arrive is still answered, as the last."""
        self._edge.draining = True
        if self._state is State.IDLE:
            self._close_idle()
        elif self._state is State.DROPPING:
            self._close_after_answer()
