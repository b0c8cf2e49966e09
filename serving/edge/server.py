"""A worker's server: it begins to take connections, and stops taking them.

On SIGTERM a worker is no longer ready, and says so, but goes on answering for a while, each answer the last of its
connection: a balancer that looks for readiness moves on to other servers before anything is closed.

A subclass of uvicorn's server (`seams` puts it where BentoML's worker looks it up). Knows signals and time only:
`listening` takes the connections, `counts` says how many each worker has, `certificates` renews the TLS files.
"""

import asyncio
import contextlib
import logging
import signal
import socket
import ssl
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType

import uvicorn

from serving.edge.certificates import Certificate
from serving.edge.connection import Connection
from serving.edge.counts import Counts
from serving.edge.listening import MAX_OPENING, Listener
from serving.edge.places import SPARE_PLACES
from serving.edge.worker import Edge

log = logging.getLogger("shortcut")

STOP_SECONDS = 20  # that answers may take which are under way when the draining ends
OTHER_DESCRIPTORS = 256  # of a worker, beside its connections: files, pipes, libraries


def allow_descriptors(needed: int) -> None:
    """Raise this process's own limit of open files, often 1,024, to what its connections need; say so where the system
    forbids it."""
    import resource  # not on Windows, where no such server runs

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return
    allowed = needed if hard == resource.RLIM_INFINITY else min(needed, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))
    if allowed < needed:
        log.warning(
            "this process may open %d files, and its connections may need %d: raise the limit (ulimit -n) or lower "
            "SHORTCUT_MAX_CONNECTIONS",
            allowed,
            needed,
        )


class Server(uvicorn.Server):
    """uvicorn's server with listeners of our own. `seams.install` makes a subclass that has these three."""

    edge: Edge
    drain_seconds: float
    shared_folder: Callable[[], Path | None]
    _counts: Counts | None = None
    _listeners: Sequence[Listener] = ()
    _stop_at: float | None = None  # on the monotonic clock, once SIGTERM has come
    _certificate: Certificate | None = None
    stops = False  # it has come, whether it drains or not

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        if sockets is None:
            await super().startup()
            return
        await super().startup(sockets=[])
        if self.config.timeout_graceful_shutdown is None:
            self.config.timeout_graceful_shutdown = STOP_SECONDS
        self._counts = Counts(self.shared_folder())
        allow_descriptors(self.edge.limits.connections + SPARE_PLACES + MAX_OPENING + OTHER_DESCRIPTORS)
        config = self.config
        if config.ssl is not None and config.ssl_certfile is not None:
            key = None if config.ssl_keyfile is None else str(config.ssl_keyfile)
            self._certificate = Certificate(config.ssl, str(config.ssl_certfile), key, config.ssl_keyfile_password)
        self._listeners = [Listener(self, sock) for sock in sockets]

    def protocol(self) -> asyncio.Protocol:
        return Connection(self.edge, self.server_state)

    @property
    def backlog(self) -> int:
        return self.config.backlog

    @property
    def tls(self) -> ssl.SSLContext | None:
        return self.config.ssl

    @property
    def handshake_seconds(self) -> float:
        return self.edge.limits.head_seconds

    def surplus(self) -> int:
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
        if counter % 10 == 0 and self._certificate is not None:
            self._certificate.take_up()
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
