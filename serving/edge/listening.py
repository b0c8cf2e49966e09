"""How a worker takes connections.

All workers of a service listen on one socket, and whichever wakes first would take all of a burst: of eight connections
often eight, while the other cores idle. So each worker leaves a note of how many it holds (`counts`). One that holds
more than another lets it go first, for a moment, and the longer the more it holds. Knows sockets only.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
from typing import Any, Protocol

log = logging.getLogger("shortcut")

# For each connection that a worker has more than another. One that idles may still wake late, where others want its
# core: of 80 bursts of 8 or 32 connections 6 went to one worker whole while the patience was a millisecond in all.
PATIENCE_SECONDS = 0.001
MAX_PATIENCE = 8  # times as long, about what a batch on the event loop of the other takes
MAX_UNASKED = 2  # connections that are taken after it
MAX_AT_ONCE = 64  # connections, then the requests of others have their turn
RETRY_SECONDS = 0.1  # when the process has no file descriptors left
MAX_OPENING = 256  # TLS handshakes at a time
OPENING_GRACE_SECONDS = 1.0  # a handshake that takes longer makes room for another one, when there are that many


class Taker(Protocol):
    """The worker's server, which has the connections."""

    stops: bool  # it was told to stop

    @property
    def backlog(self) -> int: ...
    @property
    def tls(self) -> ssl.SSLContext | None: ...
    @property
    def handshake_seconds(self) -> float: ...
    def protocol(self) -> asyncio.Protocol: ...
    def surplus(self) -> int: ...


class Listener:
    """Accepts on one socket."""

    def __init__(self, server: Taker, sock: socket.socket):
        self._server = server
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._waited = False
        self._opening: dict[asyncio.Task[Any], float] = {}  # since when, in that order
        sock.setblocking(False)
        sock.listen(server.backlog)
        self._listen()

    def _listen(self) -> None:
        if self._socket.fileno() >= 0:
            self._loop.add_reader(self._socket.fileno(), self._ready)

    def _pause(self, seconds: float) -> None:
        """Look again later; if the socket is closed by then, never."""
        self._loop.remove_reader(self._socket.fileno())
        self._loop.call_later(seconds, self._resume)

    def _resume(self) -> None:
        self._listen()
        if self._socket.fileno() >= 0:
            self._ready()  # at once: where nothing waits any more, the next connection is not one that was waited for

    def _ready(self) -> None:
        """Take what waits, as long as it is this worker's turn; after having waited for another, a few in any case."""
        for taken in range(MAX_AT_ONCE):
            surplus = self._server.surplus()
            if surplus > 0 and not (self._waited and taken < MAX_UNASKED):
                self._waited = not self._waited
                if self._waited:
                    self._pause(PATIENCE_SECONDS * min(surplus, MAX_PATIENCE))
                return
            slow = None
            if self.opening >= MAX_OPENING:
                slow = self._slowest_handshake()
                if slow is None:
                    self._pause(RETRY_SECONDS)
                    break
            try:
                connection, _ = self._socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                break  # another worker has it
            except OSError as err:
                if err.errno == errno.EINVAL and self._server.stops:  # another worker has ended the listening for all
                    self._loop.remove_reader(self._socket.fileno())
                    return
                log.error("cannot accept a connection: %s", err)
                self._pause(RETRY_SECONDS)
                break
            if slow is not None:  # a client that sends no TLS greeting must not keep others, and probes, out
                self._opened(slow)
                slow.cancel()
            task = self._loop.create_task(self._serve(connection))
            self._opening[task] = self._loop.time()
            task.add_done_callback(self._opened)
        self._waited = False

    def _opened(self, task: "asyncio.Task[Any]") -> None:
        self._opening.pop(task, None)

    def _slowest_handshake(self) -> "asyncio.Task[Any] | None":
        task, since = next(iter(self._opening.items()))
        return task if self._loop.time() - since >= OPENING_GRACE_SECONDS else None

    async def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = self._server.tls
        try:
            await self._loop.connect_accepted_socket(
                self._server.protocol,
                connection,
                ssl=tls,
                ssl_handshake_timeout=self._server.handshake_seconds if tls else None,
            )
        except OSError:  # the client went away, or its TLS handshake failed
            connection.close()
        except asyncio.CancelledError:  # its handshake was too slow
            connection.close()
            raise

    @property
    def opening(self) -> int:
        """Connections that are accepted and not yet with their protocol: TLS handshakes, mostly."""
        return len(self._opening)

    def close(self, for_all: bool) -> None:
        """Before the socket is closed. The parent keeps it open until the last worker has ended; so that nobody
        connects to it meanwhile and waits in vain, `for_all` ends its listening in every process. (A worker that is
        started after all listens again.)"""
        self._loop.remove_reader(self._socket.fileno())
        if for_all:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
