"""One client's connection: bytes in, requests to the router, answers out, within limits of time and size.

Requests of a connection are answered one after the other; what a client sends ahead waits unread. A request that
arrives whole in one read costs no timer. Knows neither models nor images, nor what the routes do.
"""

import asyncio
from collections.abc import Coroutine
from enum import Enum
from typing import Any

from serving.edge.http1 import (
    END,
    Beginning,
    Body,
    Request,
    Response,
    failure,
    parse_head,
    why_invalid,
)
from serving.edge.places import Holder, peer_of
from serving.edge.router import Route, awaited, failed
from serving.edge.worker import Edge
from serving.errors import ClassifyError, HeadersTooLarge, InvalidRequest, Overloaded, RequestTimeout
from serving.operations import metrics

# A refused upload is read and dropped for this long, so that the client sees the answer and not a reset connection.
LINGER_SECONDS = 2.0
PROBE_SECONDS = 1.0  # for the head of a request on a spare place
MAX_PIPELINED = 16  # requests that are answered in one turn of the event loop; then others have theirs
CREDIT_SECONDS = 2.0  # that an upload may be ahead of the least rate, however fast it was
CLIENT_GONE = 499  # the status in metrics of a request whose client did not wait for its answer
# Half-closed clients of a worker that may wait for an answer at a time. A client that has gone looks the same until it
# is written to, and what is computed for it is lost, so more of them are taken for gone (as HAProxy's abortonclose).
MAX_HALF_CLOSED = 4


class State(Enum):
    """Where a connection stands; the table of `Connection` says how it moves on."""

    IDLE = "between two requests, or before the first"
    HEAD = "a request's head has begun to arrive"
    BODY = "a request's body arrives"
    HANDLING = "the request's handler is being called"
    ANSWERING = "the answer is made elsewhere, and comes later"
    DROPPING = "answered; the rest of the request's body arrives and is dropped"
    LINGERING = "the last answer is written and this side is closed; what arrives is dropped unread"
    CLOSING = "the transport closes, and nothing matters any more"


OVER = frozenset((State.LINGERING, State.CLOSING))  # what still arrives means nothing, and no answer is due
DUE = frozenset((State.HANDLING, State.ANSWERING))  # an answer is due before anything else is read


class Connection(asyncio.Protocol):
    """uvicorn's server calls it as any protocol of its own; `server_state` is uvicorn's.

    | state | what happens | next |
    | --- | --- | --- |
    | IDLE | the first byte of a head | HEAD |
    | HEAD | the head is whole, and so is the body | HANDLING |
    | HEAD | the head is whole, the route takes the body that is to come | BODY |
    | HEAD | the head is whole, and refused | *answered* |
    | HEAD | the head is whole, the route takes no body whatever there is | HANDLING |
    | BODY | the last byte of the body | HANDLING |
    | HANDLING | the handler returned the response, or gave it by `respond` | *answered* |
    | HANDLING | the handler returned a coroutine or nothing | ANSWERING |
    | ANSWERING | `respond` | *answered* |
    | DROPPING | the last byte of the body | IDLE |
    | HEAD, BODY, DROPPING | it is no HTTP, too large or too slow, or gives way | LINGERING |
    | IDLE | no request for long, its place is needed, or the service ends | CLOSING |
    | LINGERING | LINGER_SECONDS, or the client closes | CLOSING |
    | any | the connection is lost | CLOSING |

    *answered* leads to IDLE, to DROPPING where a part of the body is still to come, and, where it was the last answer
    of the connection, to CLOSING or (a part of the body is still to come) LINGERING.

    `_run` is the only loop: it takes bytes, and writes the answers that handlers return to it. In HANDLING an answer
    by `respond` is left for it; in ANSWERING it writes the answer and starts the loop again for what waits.
    Two facts stand beside the state, since each may come in any of them: the transport takes no more bytes for now
    (`_write_paused`), and the client has closed its side (`_half_closed`).
    """

    def __init__(self, edge: Edge, server_state: Any):
        self._edge = edge
        self._server = server_state
        self._loop = asyncio.get_running_loop()
        self._state = State.IDLE
        self._beginning: Beginning | None = None  # a head that has not arrived whole
        self._ahead = b""  # one read that waits behind an answer, from `_ahead_at` on; reading is paused meanwhile
        self._ahead_at = 0
        self._request: Request | None = None  # the one that has no answer yet
        self._route: Route | None = None  # that takes the body which is arriving
        self._body: Body | None = None  # what is still to come of it: to be handled in BODY, else to be dropped
        self._early: Response | None = None  # given by `respond` before the handler returned
        self._reserved = 0  # bytes of the worker's budget that this body has
        self._due = 0.0  # until when the body has come at the least rate or faster
        self._write_paused = False
        self._half_closed = False
        self._waiting: dict[Holder, None] | None = None  # the unproductive connections of its peer; None: a spare place
        self.waits_since = 0.0
        self._timer: asyncio.TimerHandle | None = None  # for what is arriving
        self._idle_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # uvloop's is not a subclass of asyncio's
        self._server.connections.add(self)
        self._waiting = self._edge.places.enter(self, peer_of(transport), self._loop.time())
        if self._waiting is None:
            self._timer = self._loop.call_later(PROBE_SECONDS, self.refuse_full)
        else:  # a connection on which nothing is ever sent is idle, as one between two requests
            self._become_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._edge.places.leave(self)
        self._edge.half_closed.discard(self)
        for timer in (self._timer, self._idle_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        self._state = State.CLOSING
        self._beginning = self._body = self._route = None
        self._ahead = b""
        self._release_body()
        self._abandon()

    def pause_writing(self) -> None:
        """The client does not read: it gets no more answers, and must not hold its connection for ever."""
        self._write_paused = True
        self._transport.pause_reading()
        if self._write_timer is None:
            self._write_timer = self._loop.call_later(self._edge.limits.body_seconds, self._transport.abort)

    def resume_writing(self) -> None:
        self._write_paused = False
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None
        if not self._ahead:
            self._transport.resume_reading()
        self._go_on()

    def data_received(self, data: bytes) -> None:
        if self._state in OVER:
            return
        if self._ahead:  # a read that was under way when reading was paused
            self._wait(self._ahead[self._ahead_at :] + data, 0)
        else:
            self._run(data, 0)

    def eof_received(self) -> bool:
        """The client has closed its side (`shutdown(SHUT_WR)`), and may still wait for the answers that are due. True
        keeps ours open. TLS has no such thing: asyncio and uvloop close the connection whatever is returned."""
        self._half_closed = True
        due = self._state in DUE or bool(self._ahead)
        waiting = self._edge.half_closed
        if not due or len(waiting) >= MAX_HALF_CLOSED or self._transport.get_extra_info("sslcontext") is not None:
            return False
        waiting.add(self)
        return True

    # Parsing

    def _run(self, data: bytes, at: int) -> None:
        """Take `data` from `at` on and answer its requests, as far as the state allows; the rest waits."""
        size, requests = len(data), 0
        try:
            while at < size and not self._write_paused:
                state = self._state
                if state is State.IDLE or state is State.HEAD:
                    if requests == MAX_PIPELINED:  # the others' turn
                        self._loop.call_soon(self._go_on)
                        break
                    requests += 1
                    data, at = self._take_head(data, at)
                    size = len(data)
                elif state in DUE or self._body is None:  # an answer comes first, or nothing more does
                    break
                else:
                    at = self._take_body(self._body, data, at)
        except ClassifyError as err:  # it is not certain where the next request begins
            self._refuse(err)
            return
        if self._state in OVER:
            return
        if at < size:
            self._wait(data, at)
        elif self._half_closed and self._state not in DUE:
            self._close()  # no request is whole, and none will be

    def _wait(self, data: bytes, at: int) -> None:
        self._ahead, self._ahead_at = data, at
        self._transport.pause_reading()

    def _go_on(self) -> None:
        """Parse what had to wait."""
        if self._write_paused or self._state in DUE or self._state in OVER:
            return
        if self._ahead:
            data, at, self._ahead = self._ahead, self._ahead_at, b""
            self._run(data, at)
            if not self._ahead and self._state not in OVER and not self._write_paused:
                self._transport.resume_reading()
        elif self._half_closed:
            self._close()

    def _take_head(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Returns the bytes to go on with, and where. Raises what makes them no request."""
        beginning = self._beginning
        if beginning is None:
            self._state = State.HEAD
            end = data.find(END, at)
            if end < 0:
                beginning = self._beginning = Beginning()
                self._start_timer(self._edge.limits.head_seconds, self._head_timed_out)
        if beginning is not None:
            # What came before is in `beginning`: a head in many pieces is neither copied nor searched again.
            end = beginning.add(data[at:] if at else data)
            if end < 0:
                self._check_head_size(len(beginning.data))
                return data, len(data)
            data, at = bytes(beginning.data), 0
            self._beginning = None
            self._stop_timer()
        self._check_head_size(end - at)
        if end == at:  # an empty head: version 2 of the PROXY protocol begins so
            raise InvalidRequest(why_invalid(data[at:]))
        start = end + len(END)
        request = parse_head(data[at:start])
        return data, self._begin(request, data, start)

    def _check_head_size(self, size: int) -> None:
        limit = self._edge.limits.header_bytes
        if size + len(END) > limit:
            raise HeadersTooLarge(f"the request line and headers exceed the limit of {limit:,} bytes")

    def _begin(self, request: Request, data: bytes, start: int) -> int:
        """A request whose head is complete; its body, if any, is in `data` from `start` on, or still to come. Returns
        where to go on."""
        request.connection = self
        self._request = request
        length = request.length
        whole = length is not None and len(data) - start >= length  # nearly every one
        end = start + length if length is not None and whole else start
        if self._waiting is None:  # a spare place: one request, and that a probe's
            request.close = True
            self._stop_timer()
        try:
            route = self._edge.router.accept(request)
            if self._waiting is None:
                if not route.probe:
                    metrics.refused(Overloaded.status)
                    raise self._full()
            elif whole or not route.max_bytes:
                self._waiting.pop(self, None)
            if whole:
                if length:
                    request.body = data[start:end]
            elif route.max_bytes:
                self._receive(route, request)
                return start
            else:  # it takes no body; what comes of one is dropped behind the answer
                self._body = Body(length, 0)
        except Exception as err:  # refused before its body has come, which is then dropped
            self._body = None if whole else Body(length, 0)
            self._send(request, failed(request, err))
        else:
            self._handle(route, request)
        return end

    def _receive(self, route: Route, request: Request) -> None:
        """Make ready for a request's body. Raises Overloaded if there is no room for it."""
        self._edge.make_room(request.length or 0, self)
        self._state = State.BODY
        self._route = route
        self._body = Body(request.length, route.max_bytes)
        self._due = self._loop.time()
        self._edge.uploads[self] = None
        self._wait_for_client()
        if request.expects_continue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._start_timer(self._edge.limits.body_seconds, self._look_at_pace)

    def _take_body(self, body: Body, data: bytes, at: int) -> int:
        """Returns where to go on."""
        request, route = self._request, self._route
        end = body.take(data, at)
        if route is not None:
            grown = body.held - self._reserved
            if grown:  # what has arrived is counted, not what was announced
                self._edge.reserve(grown, self)
                self._reserved += grown
            if not body.complete:
                self._keep_pace(end - at)
                return end
        elif not body.complete:
            return end
        self._stop_timer()
        self._body = self._route = None
        if route is None or request is None:
            self._become_idle()
            return end
        self._edge.uploads.pop(self, None)
        if self._waiting is not None:
            self._waiting.pop(self, None)
        request.body = body.joined()
        self._handle(route, request)
        return end

    # Answering

    def _handle(self, route: Route, request: Request) -> None:
        """Call the handler. What it returns is written here; what it gives by `respond` meanwhile as well, so that
        no answer starts the loop while the loop runs."""
        self._state = State.HANDLING
        try:
            made = route.handle(request)
        except Exception as err:
            made = failed(request, err)
        if self._early is not None:
            made, self._early = self._early, None
        if isinstance(made, Response):
            self._send(request, made)
        elif made is None:
            self._state = State.ANSWERING
        else:
            self._state = State.ANSWERING
            self._task = self._loop.create_task(self._respond_later(made, request))

    async def _respond_later(self, work: Coroutine[Any, Any, Response], request: Request) -> None:
        response = await awaited(work, request)
        self._task = None
        request.respond(response)

    def answer(self, request: Request, response: Response) -> None:
        """Called by `request.respond`."""
        if self._state is State.HANDLING:
            self._early = response
            return
        self._send(request, response)
        self._go_on()

    def _send(self, request: Request, response: Response) -> None:
        """Write the answer, and go over to what follows it."""
        metrics.finished(request.label, response.status, request.started, request.request_id, request.stages)
        self._request = request.connection = request.pending = None
        request.body = b""
        if self._reserved:
            self._release_body()
        if self._transport.is_closing():
            self._state = State.CLOSING
            return
        last = request.close or self._edge.draining
        self._write(request, response, last)
        if last:
            self._close(lingers=self._body is not None)
        elif self._body is None:
            self._become_idle()
        else:
            self._state = State.DROPPING
            self._wait_for_client()
            self._start_timer(LINGER_SECONDS, self._close)

    def _write(self, request: Request, response: Response, last: bool) -> None:
        # RFC 9110, section 15.4.5: a 304 has no content, and would say the length of what it stands for.
        length = b"" if response.status == 304 else b"content-length: %d\r\n" % len(response.body)
        keep = b"connection: close\r\n" if last else b"connection: keep-alive\r\n" if request.minor == b"0" else b""
        head = self._edge.head(response.status, response.headers)
        head += b"x-request-id: %b\r\n%b%b\r\n" % (request.request_id.encode(), keep, length)
        self._transport.write(head if request.method == b"HEAD" else head + response.body)

    def _refuse(self, err: ClassifyError, lingers: bool = True) -> None:
        """Answer on the wire, if a request waits for it or may have begun to arrive, and close."""
        metrics.refused(err.status)
        request = self._request
        if request is not None:
            request.close = True
            self._body = Body(None, 0) if lingers else None
            self._send(request, request.failure(err))
            return
        if self._state is not State.DROPPING and not self._transport.is_closing():
            response = failure(err)
            head = self._edge.head(response.status, (*response.headers, ("connection", "close")))
            self._transport.write(b"%bcontent-length: %d\r\n\r\n%b" % (head, len(response.body), response.body))
        self._close(lingers)

    def _close(self, lingers: bool = False) -> None:
        """What was written has LINGER_SECONDS to go out. Where the client may still be sending, what arrives meanwhile
        is dropped, or the client would see a reset in place of its answer."""
        self._stop_timer()
        self._edge.uploads.pop(self, None)
        if self._state is State.CLOSING or self._transport.is_closing():
            self._state = State.CLOSING
            return
        self._beginning = self._body = self._route = None
        self._ahead = b""
        if self._reserved:
            self._release_body()
        if lingers and not self._half_closed and self._transport.can_write_eof():
            self._state = State.LINGERING
            self._wait_for_client()
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._state = State.CLOSING
            self._transport.close()
        self._timer = self._loop.call_later(LINGER_SECONDS, self._transport.abort)

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

    # Bodies: their memory, and the rate at which they come

    def _release_body(self) -> None:
        self._edge.bodies.release(self._reserved)
        self._reserved = 0

    def _keep_pace(self, size: int) -> None:
        """Bytes of the body have come: they pay for the time that they take at the least rate."""
        now = self._loop.time()
        self._due = min(self._due + size / self._edge.limits.body_rate, now + CREDIT_SECONDS)
        if self._due >= now and self._waiting is not None:
            self.waits_since = now
            self._waiting.pop(self, None)
            self._waiting[self] = None

    @property
    def behind(self) -> float:
        """Seconds that the body is behind the least rate."""
        return self._loop.time() - self._due

    @property
    def reserved(self) -> int:
        """Bytes of the worker's budget that the body has."""
        return self._reserved

    def _look_at_pace(self) -> None:
        """Cut an upload that is behind by all the time that a body may take; one that goes on may take any time."""
        self._timer = None
        left = self._edge.limits.body_seconds - self.behind
        if left > 0:
            self._start_timer(left, self._look_at_pace)
        elif not self._transport.is_closing():
            self._refuse(self._too_slow("within"))

    def give_up_memory(self) -> None:
        """Of an upload that is behind, for others."""
        self._refuse(self._too_slow("and its memory is needed: it did not arrive within"))

    def _too_slow(self, what: str) -> RequestTimeout:
        limits, body = self._edge.limits, self._body
        came = 0 if body is None else body.received
        return RequestTimeout(
            f"the request's body did not arrive {what} {limits.body_seconds:g} seconds, nor at "
            f"{limits.body_rate:,} bytes a second: {came:,} bytes came"
        )

    # Its place among the worker's connections

    def _wait_for_client(self) -> None:
        """It is unproductive from now on, until more arrives."""
        self.waits_since = self._loop.time()
        if self._waiting is not None:
            self._waiting.pop(self, None)
            self._waiting[self] = None

    def give_up_place(self) -> None:
        """It has waited for its client for long, and another one needs the place."""
        if self._write_paused:
            self._transport.abort()
        elif self._state is State.HEAD or self._state is State.BODY:
            self._refuse(RequestTimeout("the request did not go on arriving, and its connection was needed"), False)
        else:
            self._close()

    def refuse_full(self) -> None:
        """Of a spare place, on which no probe came."""
        self._timer = None
        self._edge.places.leave(self)
        if self._state not in OVER:
            self._refuse(self._full())

    def _full(self) -> Overloaded:
        limit = self._edge.places.limit
        return Overloaded(f"{limit} connections are open, the limit of this worker, and none has been idle")

    # Idleness: one timer for the connection's life looks at the clock, in place of one set and cancelled each request

    def _become_idle(self) -> None:
        self._state = State.IDLE
        self.waits_since = self._loop.time()
        if self._waiting is not None:
            self._waiting.pop(self, None)
            self._waiting[self] = None
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_later(self._edge.limits.idle_seconds, self._look_at_idleness)

    def _look_at_idleness(self) -> None:
        self._idle_timer = None
        if self._state is State.IDLE and not self._transport.is_closing():
            left = self.waits_since + self._edge.limits.idle_seconds - self._loop.time()
            if left > 0:
                self._idle_timer = self._loop.call_later(left, self._look_at_idleness)
            else:
                self._close()

    # Time that a request may take to arrive

    def _start_timer(self, seconds: float, call: Any) -> None:
        if self._timer is None:
            self._timer = self._loop.call_later(seconds, call)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _head_timed_out(self) -> None:
        self._timer = None
        if not self._transport.is_closing():
            seconds = self._edge.limits.head_seconds
            self._refuse(RequestTimeout(f"the request's headers did not arrive within {seconds:g} seconds"))

    def shutdown(self) -> None:
        """uvicorn's server calls it at its end: a request that has begun to arrive is still answered, as the last."""
        self._edge.draining = True
        if self._state is State.IDLE:
            self._close()
        elif self._state is State.DROPPING:
            self._close(lingers=True)
