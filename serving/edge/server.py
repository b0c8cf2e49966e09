"""How a worker takes connections, and how it stops taking them.

All workers of a service listen on one socket, and whichever wakes first would take all of a burst: of eight connections
often eight, while the other cores idle. So each worker leaves a note of how many it holds, and one that holds more than
another lets it go first, for a moment, and the longer the more it holds.

On SIGTERM a worker is no longer ready, and says so, but goes on answering for a while, each answer the last of its
connection: a balancer that looks for readiness moves on to other servers before anything is closed.

A subclass of uvicorn's server (`seams` puts it where BentoML's worker looks it up). Knows sockets, counts and signals
only.
"""

import asyncio
import contextlib
import errno
import logging
import mmap
import os
import signal
import socket
import struct
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

import uvicorn

from serving.edge.connection import Connection
from serving.edge.worker import Edge
from serving.processes import alive

log = logging.getLogger("shortcut")

# For each connection that a worker has more than another. One that idles may still wake late, where others want its
# core: of 80 bursts of 8 or 32 connections 6 went to one worker whole while the patience was a millisecond in all.
PATIENCE_SECONDS = 0.001
MAX_PATIENCE = 8  # times as long, about what a batch on the event loop of the other takes
MAX_UNASKED = 2  # connections that are taken after it
MAX_AT_ONCE = 64  # connections, then the requests of others have their turn
ABSENT_SECONDS = 0.5  # without a note: a worker that hangs, or was stopped, is not waited for
RETRY_SECONDS = 0.1  # when the process has no file descriptors left
STOP_SECONDS = 20  # that answers may take which are under way when the draining ends
MAX_OPENING = 256  # TLS handshakes at a time
SLOTS = 256
# A process id, its connections, 1 once it has been told to stop, and when this was noted on the monotonic clock.
_SLOT = struct.Struct("=iiid")
COUNTS = "connections"  # the file in the folder that the processes of a service share


def create_counts(folder: Path) -> None:
    """In the parent: where the workers leave their counts. Without one they take connections as they come."""
    with contextlib.suppress(OSError):
        (folder / COUNTS).write_bytes(bytes(SLOTS * _SLOT.size))


class Counts:
    """How many connections each worker holds, and whether it stops: a file that all of them map, in the folder that
    they share."""

    def __init__(self, folder: Path | None, process: int | None = None) -> None:
        self._process = os.getpid() if process is None else process
        self._memory: mmap.mmap | None = None
        self._slot = 0
        if folder is None:
            return
        with contextlib.suppress(OSError, ValueError):
            with (folder / COUNTS).open("r+b") as file:
                self._memory = mmap.mmap(file.fileno(), SLOTS * _SLOT.size)
            self._slot = self._free_slot(self._memory)

    def _free_slot(self, memory: mmap.mmap) -> int:
        """The first that nobody has, or that a dead worker had. Two that start at once may take the same one: the
        earlier writer finds it out with its next note."""
        for slot in range(SLOTS):
            process, *_ = _SLOT.unpack_from(memory, slot * _SLOT.size)
            if process <= 0 or not alive(process):
                _SLOT.pack_into(memory, slot * _SLOT.size, self._process, 0, 0, time.monotonic())
                return slot
        raise OSError("no free slot")

    def note(self, connections: int, stops: bool = False) -> None:
        if self._memory is not None:
            if _SLOT.unpack_from(self._memory, self._slot * _SLOT.size)[0] != self._process:
                self._slot = self._free_slot(self._memory)
            now = time.monotonic()
            _SLOT.pack_into(self._memory, self._slot * _SLOT.size, self._process, connections, stops, now)

    def all_stop(self) -> bool:
        """Whether every worker that lives was told to stop: the service ends, not only this worker."""
        if self._memory is None:
            return False
        slots = _SLOT.iter_unpack(self._memory[:])
        return all(stops for process, _, stops, _ in slots if process > 0 and alive(process))

    def forget_the_dead(self) -> None:
        """A dead worker has no connections, but its note would say so until another took its place."""
        if self._memory is not None:
            for slot, (process, *_) in enumerate(_SLOT.iter_unpack(self._memory[:])):
                if process > 0 and not alive(process):
                    _SLOT.pack_into(self._memory, slot * _SLOT.size, -1, 0, 0, 0.0)

    def others(self, stops: bool = False) -> int | None:
        """The fewest connections of another worker, None if there is none; of those that stop only if this one `stops`
        too."""
        counts = []
        if self._memory is not None:
            latest = time.monotonic() - ABSENT_SECONDS
            for slot, (process, connections, ends, noted) in enumerate(_SLOT.iter_unpack(self._memory)):
                if process == 0:
                    break
                if slot != self._slot and process > 0 and (stops or not ends) and noted > latest:
                    counts.append(connections)
        return min(counts, default=None)


class Listener:
    """Accepts on one socket."""

    def __init__(self, server: "Server", sock: socket.socket):
        self._server = server
        self._socket = sock
        self._loop = asyncio.get_running_loop()
        self._waited = False
        self._tasks: set[asyncio.Task[Any]] = set()
        sock.setblocking(False)
        sock.listen(server.config.backlog)
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
            lead = self._server.lead()
            if lead > 0 and not (self._waited and taken < MAX_UNASKED):
                self._waited = not self._waited
                if self._waited:
                    self._pause(PATIENCE_SECONDS * min(lead, MAX_PATIENCE))
                return
            if self.opening >= MAX_OPENING:
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
            task = self._loop.create_task(self._serve(connection))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        self._waited = False

    async def _serve(self, connection: socket.socket) -> None:
        connection.setblocking(False)
        with contextlib.suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        tls = self._server.config.ssl
        try:
            await self._loop.connect_accepted_socket(
                self._server.protocol,
                connection,
                ssl=tls,
                ssl_handshake_timeout=self._server.edge.limits.head_seconds if tls else None,
            )
        except OSError:  # the client went away, or its TLS handshake failed
            connection.close()

    @property
    def opening(self) -> int:
        """Connections that are accepted and not yet with their protocol: TLS handshakes, mostly."""
        return len(self._tasks)

    def close(self, for_all: bool) -> None:
        """Before the socket is closed. The parent keeps it open until the last worker has ended; so that nobody
        connects to it meanwhile and waits in vain, `for_all` ends its listening in every process. (A worker that is
        started after all listens again.)"""
        self._loop.remove_reader(self._socket.fileno())
        if for_all:
            with contextlib.suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)


class Server(uvicorn.Server):
    """uvicorn's server with listeners of our own. `seams.install` makes a subclass that has these three."""

    edge: Edge
    drain_seconds: float
    shared_folder: Callable[[], Path | None]
    _counts: Counts | None = None
    _listeners: Sequence[Listener] = ()
    _stop_at: float | None = None  # on the monotonic clock, once SIGTERM has come
    stops = False  # it has come, whether it drains or not

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if sockets is None:
            await super().startup()
            return
        await super().startup(sockets=[])
        if self.config.timeout_graceful_shutdown is None:
            self.config.timeout_graceful_shutdown = STOP_SECONDS
        self._counts = Counts(self.shared_folder())
        self._listeners = [Listener(self, sock) for sock in sockets]

    def protocol(self) -> asyncio.Protocol:
        return Connection(self.edge, self.server_state)

    def lead(self) -> int:
        """How many connections more it has than another worker; at most 0 where it has no more than any."""
        mine = self._note()
        fewest = None if self._counts is None else self._counts.others(self.stops)
        return 0 if fewest is None else mine - fewest

    def _note(self) -> int:
        mine = len(self.server_state.connections) + sum(listener.opening for listener in self._listeners)
        if self._counts is not None:
            self._counts.note(mine, self.stops)
        return mine

    async def on_tick(self, counter: int) -> bool:
        """uvicorn's, ten times a second."""
        if self._counts is not None:
            self._note()
            if counter % 10 == 0:
                self._counts.forget_the_dead()
        if self._stop_at is not None:
            self.should_exit = self.should_exit or time.monotonic() >= self._stop_at
        ends = await super().on_tick(counter)
        if counter % 10 == 0:  # uvicorn has made the headers that go with every answer of this second
            self.edge.renew(tuple((name.decode(), value.decode()) for name, value in self.server_state.default_headers))
        return ends

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """SIGTERM drains, once: systemd sends it to the parent and the workers, and so does the parent. SIGINT ends it
        now, as uvicorn does."""
        self.stops = self.stops or sig == signal.SIGTERM
        if sig != signal.SIGTERM or not self.drain_seconds:
            super().handle_exit(sig, frame)
            return
        if self._stop_at is not None:
            return
        self._captured_signals.append(sig)
        self._stop_at = time.monotonic() + self.drain_seconds
        self.edge.draining = True

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        self._note()
        for_all = self._counts is not None and self._counts.all_stop()
        for listener in self._listeners:
            listener.close(for_all)
        await super().shutdown(sockets)
