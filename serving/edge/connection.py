"""One client's connection: bytes in, requests to the router, answers out, within limits of time and size.

Requests of a connection are answered one after the other; what a client sends ahead waits unread. A request that
arrives whole in one read costs no timer. Knows neither models nor images, nor what the routes do.
"""

import asyncio
from collections.abc import Coroutine
from typing import Any

from serving.edge.bodies import Body
from serving.edge.http1 import Heads, Request, Response
from serving.edge.places import peer_of
from serving.edge.router import Route, awaited, failed
from serving.edge.states import (
    ANSWERING,
    BODY,
    CLOSING,
    DROPPING,
    DUE,
    HANDLING,
    HEAD,
    IDLE,
    LINGERING,
    OVER,
    WAITING,
)
from serving.edge.uploads import Upload
from serving.edge.worker import Edge
from serving.errors import ClassifyError, RequestTimeout
from serving.operations import metrics

# A refused upload is read and dropped for this long, so that the client sees the answer and not a reset connection.
LINGER_SECONDS = 2.0
DROPPED_AT_ONCE = 256 * 1024  # bytes; then it is not read for as long as they take at
DROP_RATE = 64_000_000  # bytes a second: a sender who does not stop must not keep a core busy
PROBE_SECONDS = 1.0  # for the head of a request on a spare place
PLACE_SECONDS = 1.5  # that a request waits there for a place: until one that others hold idle must be given up
PLACE_EVERY = 0.05  # seconds
PATIENCE_SECONDS = 0.25  # a body that goes on arriving is marked so no more often
MAX_PIPELINED = 16  # requests that are answered in one turn of the event loop; then others have theirs
CLIENT_GONE = 499  # the status in metrics of a request whose client did not wait for its answer
# Half-closed clients of a worker that may wait for an answer at a time. A client that has gone looks the same until it
# is written to, and what is computed for it is lost, so more of them are taken for gone (as HAProxy's abortonclose).
MAX_HALF_CLOSED = 4


class Connection(asyncio.Protocol):
    """uvicorn's server calls it as any protocol of its own; `server_state` is uvicorn's.

    `serving.edge.states` has the table of its states. `_run` is the only loop: it takes bytes, and writes the answers
    that handlers return to it. In HANDLING an answer by `respond` is left for it; in ANSWERING it writes the answer and
    starts the loop again for what waits. Two facts stand beside the state, since each may come in any of them: the
    transport takes no more bytes for now (`_write_paused`), and the client has closed its side (`_half_closed`).
    """

    def __init__(self, edge: Edge, server_state: Any):
        self._edge = edge
        self._server = server_state
        self._loop = asyncio.get_running_loop()
        self._state = IDLE
        self._heads = Heads(edge.limits.header_bytes)
        self._ahead = b""  # one read that waits behind an answer, from `_ahead_at` on; reading is paused meanwhile
        self._ahead_at = 0
        self._request: Request | None = None  # the one that has no answer yet
        self._route: Route | None = None  # of a request that waits for a place
        self._upload: Upload | None = None  # its body, from BODY until the answer
        self._unread: Body | None = None  # what is still to come of a body that nobody takes
        self._dropped = 0  # bytes that nobody takes, since reading last paused for them
        self._early: Response | None = None  # given by `respond` before the handler returned
        self._write_paused = False
        self._half_closed = False
        self._timer: asyncio.TimerHandle | None = None  # for what is arriving
        self._idle_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._task: asyncio.Task[None] | None = None

    # asyncio's callbacks

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: Any = transport  # uvloop's is not a subclass of asyncio's
        self._server.connections.add(self)
        self._place = self._edge.places.enter(self, peer_of(transport), self._loop.time())
        if self._place.spare:
            self._timer = self._loop.call_later(PROBE_SECONDS, self.refuse_full)
        else:  # a connection on which nothing is ever sent is idle, as one between two requests
            self._become_idle()

    def connection_lost(self, exc: Exception | None) -> None:
        self._server.connections.discard(self)
        self._place.leave()
        self._edge.half_closed.discard(self)
        for timer in (self._timer, self._idle_timer, self._write_timer):
            if timer is not None:
                timer.cancel()
        # What is in no cycle needs no garbage collector: the timers and the place lead back here.
        self._timer = self._idle_timer = self._write_timer = None
        self._state = CLOSING
        self._forget_bytes()
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
            if self._state is LINGERING:
                self._count_dropped(len(data))
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
                if state is IDLE or state is HEAD:
                    if requests == MAX_PIPELINED:  # the others' turn
                        self._loop.call_soon(self._go_on)
                        break
                    requests += 1
                    data, at = self._take_head(data, at)
                    size = len(data)
                elif state is BODY:
                    at = self._take_body(data, at)
                elif state is DROPPING:
                    at = self._drop_body(data, at)
                else:  # an answer comes first, or nothing more does
                    break
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

    def _read_on(self) -> None:
        """After what had to wait: unless a part of it waits again, or nothing more is wanted."""
        if not self._ahead and self._state not in OVER and not self._write_paused:
            self._transport.resume_reading()

    def _go_on(self) -> None:
        """Parse what had to wait."""
        if self._write_paused or self._state in DUE or self._state in OVER:
            return
        if self._ahead:
            data, at, self._ahead = self._ahead, self._ahead_at, b""
            self._run(data, at)
            self._read_on()
        elif self._half_closed:
            self._close()

    def _take_head(self, data: bytes, at: int) -> tuple[bytes, int]:
        """Returns the bytes to go on with, and where. Raises what makes them no request."""
        self._state = HEAD
        request, data, at = self._heads.take(data, at)
        if request is None:
            self._start_timer(self._edge.limits.head_seconds, self._head_timed_out)
            return data, at
        if self._timer is not None:
            self._stop_timer()
        return data, self._begin(request, data, at)

    def _begin(self, request: Request, data: bytes, start: int) -> int:
        """A request whose head is complete; its body, if any, is in `data` from `start` on, or still to come. Returns
        where to go on."""
        request.connection = self
        self._request = request
        length = request.length
        whole = length is not None and len(data) - start >= length  # nearly every one
        end = start + length if length is not None and whole else start
        if not whole:  # what comes of a body that is not taken is dropped behind the answer
            self._unread = Body(length, 0)
        try:
            route = self._route or self._edge.accept(request)
            if self._place.spare and not self._may_enter(route, request):
                return start
            if whole:
                request.body = data[start:end]
            elif route.max_bytes:
                self._receive(route, request)
                return start
        except Exception as err:  # refused before its body has come
            request.close = request.close or self._place.spare
            self._send(request, failed(request, err))
        else:
            self._handle(route, request)
        return end

    def _may_enter(self, route: Route, request: Request) -> bool:
        """On a spare place a probe's request is answered, as the last one; any other waits until it gets a place."""
        if route.probe:
            request.close = True
        elif not self._edge.places.give(self._place, peer_of(self._transport), self._loop.time()):
            if self._state is not WAITING:
                self._stop_timer()
                self._start_timer(PLACE_SECONDS, self.refuse_full)
            self._route, self._state, self._unread = route, WAITING, None
            self._loop.call_later(PLACE_EVERY, self._enter)
            return False
        self._stop_timer()
        self._route = None
        return True

    def _enter(self) -> None:
        """Try again to go on with the request that waits for a place."""
        request = self._request
        if self._state is WAITING and request is not None:
            data, at, self._ahead = self._ahead, self._ahead_at, b""
            self._run(data, self._begin(request, data, at))
            self._read_on()

    def _receive(self, route: Route, request: Request) -> None:
        """Make ready for a request's body. Raises Overloaded if there is no room for it."""
        edge = self._edge
        self._upload = Upload(route, request.length, edge.bodies, edge.limits, self._loop.time, self._refuse)
        self._unread = None
        self._state = BODY
        self._place.wait(self._loop.time())
        if request.expects_continue:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        self._start_timer(edge.limits.body_seconds, self._look_at_pace)

    def _take_body(self, data: bytes, at: int) -> int:
        """Returns where to go on."""
        upload, request = self._upload, self._request
        if upload is None or request is None:
            raise RuntimeError("a body arrives without its request")
        now = self._loop.time()
        end = upload.take(data, at, now)
        if upload.body.complete:
            self._stop_timer()
            request.body = upload.body.joined()
            self._handle(upload.route, request)
        elif upload.due >= now > self._place.since + PATIENCE_SECONDS:  # it goes on as it must
            self._place.wait(now)
        return end

    def _drop_body(self, data: bytes, at: int) -> int:
        """Returns where to go on."""
        if self._unread is None:
            raise RuntimeError("no body is left to drop")
        end = self._unread.take(data, at)
        if self._unread.complete:
            self._stop_timer()
            self._unread = None
            self._become_idle()
        else:
            self._count_dropped(end - at)
        return end

    def _count_dropped(self, size: int) -> None:
        self._dropped += size
        if self._dropped >= DROPPED_AT_ONCE:
            self._transport.pause_reading()
            self._loop.call_later(self._dropped / DROP_RATE, self._drop_on)
            self._dropped = 0

    def _drop_on(self) -> None:
        if (self._state is DROPPING or self._state is LINGERING) and not self._write_paused:
            self._transport.resume_reading()

    def _look_at_pace(self) -> None:
        self._timer = None
        if self._upload is not None and (left := self._upload.look_at_pace()) > 0:
            self._start_timer(left, self._look_at_pace)

    # Answering

    def _handle(self, route: Route, request: Request) -> None:
        """Call the handler. What it returns is written here; what it gives by `respond` meanwhile as well, so that
        no answer starts the loop while the loop runs."""
        self._state = HANDLING
        self._place.work()
        try:
            made = route.handle(request)
        except Exception as err:
            made = failed(request, err)
        if self._early is not None:
            made, self._early = self._early, None
        if isinstance(made, Response):
            self._send(request, made)
        else:
            self._state = ANSWERING
            if made is not None:
                self._task = self._loop.create_task(self._respond_later(made, request))

    async def _respond_later(self, work: Coroutine[Any, Any, Response], request: Request) -> None:
        response = await awaited(work, request)
        self._task = None
        request.respond(response)

    def answer(self, request: Request, response: Response) -> None:
        """Called by `request.respond`."""
        if self._state is HANDLING:
            self._early = response
            return
        self._send(request, response)
        if self._ahead or self._half_closed:
            self._go_on()

    def _send(self, request: Request, response: Response) -> None:
        """Write the answer, and go over to what follows it."""
        metrics.finished(request.label, response.status, request.started, request.request_id, request.stages)
        self._request = request.connection = request.pending = None
        request.body = b""
        if self._upload is not None:
            self._upload.release()
            self._upload = None
        if self._transport.is_closing():
            self._state = CLOSING
            return
        last = request.close or self._edge.draining
        self._transport.write(self._edge.answer(request, response, last))
        if last:
            self._close(lingers=self._unread is not None)
        elif self._unread is None:
            self._become_idle()
        else:
            self._state = DROPPING
            self._place.wait(self._loop.time())
            self._start_timer(LINGER_SECONDS, self._close)

    def _refuse(self, err: ClassifyError, lingers: bool = True) -> None:
        """Answer on the wire, if a request waits for it or may have begun to arrive, and close."""
        metrics.refused(err.status)
        request = self._request
        if request is not None:
            request.close = True
            self._unread = Body(None, 0) if lingers else None
            self._send(request, request.failure(err))
            return
        if self._state is not DROPPING and not self._transport.is_closing():
            self._transport.write(self._edge.refusal(err))
        self._close(lingers)

    def _close(self, lingers: bool = False) -> None:
        """What was written has LINGER_SECONDS to go out. Where the client may still be sending, what arrives meanwhile
        is dropped, or the client would see a reset in place of its answer."""
        self._stop_timer()
        if self._state is CLOSING or self._transport.is_closing():
            self._state = CLOSING
            return
        self._forget_bytes()
        if lingers and not self._half_closed and self._transport.can_write_eof():
            self._state = LINGERING
            self._place.wait(self._loop.time())
            self._transport.write_eof()
            self._transport.resume_reading()
        else:
            self._state = CLOSING
            self._transport.close()
        self._timer = self._loop.call_later(LINGER_SECONDS, self._transport.abort)

    def _forget_bytes(self) -> None:
        self._heads.forget()
        self._unread = None
        self._ahead = b""
        if self._upload is not None:
            self._upload.release()
            self._upload = None

    def _abandon(self) -> None:
        """Nobody waits for the request at hand any more: what is queued of it is not computed."""
        request, self._request = self._request, None
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
        if request is not None and request.abandon():
            metrics.finished(request.label, CLIENT_GONE, request.started, request.request_id)

    # Its place among the worker's connections

    def give_up_place(self) -> None:
        """It has waited for its client for long, and another one needs the place."""
        if self._write_paused:
            self._transport.abort()
        elif self._state is HEAD or self._state is BODY:
            self._refuse(RequestTimeout("the request did not go on arriving, and its connection was needed"), False)
        else:
            self._close()

    def refuse_full(self) -> None:
        """Of a spare place, on which no probe came."""
        self._stop_timer()
        self._place.leave()
        if self._state not in OVER:
            self._refuse(self._edge.places.full())

    # Idleness: one timer for the connection's life looks at the clock, in place of one set and cancelled each request

    def _become_idle(self) -> None:
        self._state = IDLE
        self._place.wait(self._loop.time())
        if self._idle_timer is None:
            self._idle_timer = self._loop.call_later(self._edge.limits.idle_seconds, self._look_at_idleness)

    def _look_at_idleness(self) -> None:
        self._idle_timer = None
        if self._state is IDLE and not self._transport.is_closing():
            left = self._place.since + self._edge.limits.idle_seconds - self._loop.time()
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
        if self._state is IDLE:
            self._close()
        elif self._state is DROPPING:
            self._close(lingers=True)
