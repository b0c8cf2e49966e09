"""Connections are accepted in turn, and slow TLS handshakes do not keep others out."""

import asyncio
import contextlib
import socket

import pytest

from serving.edge import listening


def test_another_worker_is_waited_for_the_longer_the_fewer_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that never comes, while eight connect at once."""
    waited: list[float] = []
    monkeypatch.setattr(listening.Listener, "_pause", lambda listener, seconds: waited.append(seconds))

    class Alone:
        backlog, tls, stops = 16, None, False
        listener: listening.Listener

        def surplus(self) -> int:
            return self.listener.opening

    async def serve(listener: listening.Listener, connection: socket.socket) -> None:
        with connection:
            await asyncio.Event().wait()  # until the loop ends

    monkeypatch.setattr(listening.Listener, "_serve", serve)

    async def look() -> None:
        alone = Alone()
        with socket.socket() as sock, contextlib.ExitStack() as stack:
            sock.bind(("127.0.0.1", 0))
            alone.listener = listening.Listener(alone, sock)  # type: ignore[arg-type]
            for _ in range(8):
                stack.enter_context(socket.create_connection(sock.getsockname()))
            while alone.listener.opening < 8:
                alone.listener._ready()
            await asyncio.sleep(0)  # all of them hold their connection now
            asyncio.get_running_loop().remove_reader(sock.fileno())

    asyncio.run(look())
    assert [round(1000 * seconds) for seconds in waited] == [1, 3, 5, 7]


def test_a_socket_on_which_another_worker_has_ended_the_listening_is_left_alone(
    caplog: pytest.LogCaptureFixture,
) -> None:
    class Idle:
        backlog, tls, stops = 8, None, True

        @staticmethod
        def surplus() -> int:
            return 0

    async def look() -> bool:
        with socket.socket() as sock:
            sock.bind(("127.0.0.1", 0))
            listening.Listener(Idle(), sock)  # type: ignore[arg-type]
            sock.shutdown(socket.SHUT_RDWR)
            await asyncio.sleep(0.05)
            return asyncio.get_running_loop().remove_reader(sock.fileno())

    assert not asyncio.run(look())
    assert not caplog.records


def test_a_silent_handshake_makes_room_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listening, "MAX_OPENING", 3)
    monkeypatch.setattr(listening, "OPENING_GRACE_SECONDS", 0.0)
    served: list[socket.socket] = []

    class Busy:
        backlog, tls, stops = 16, None, False

        @staticmethod
        def surplus() -> int:
            return 0

    async def serve(listener: listening.Listener, connection: socket.socket) -> None:
        served.append(connection)
        with connection:
            await asyncio.Event().wait()  # the greeting never comes

    monkeypatch.setattr(listening.Listener, "_serve", serve)

    async def look() -> None:
        with socket.socket() as sock, contextlib.ExitStack() as stack:
            sock.bind(("127.0.0.1", 0))
            listener = listening.Listener(Busy(), sock)  # type: ignore[arg-type]
            for number in range(5):
                stack.enter_context(socket.create_connection(sock.getsockname()))
                async with asyncio.timeout(20):
                    while len(served) <= number:
                        await asyncio.sleep(0.01)
            await asyncio.sleep(0)  # those that were dropped have ended
            assert listener.opening == 3
            assert [connection.fileno() < 0 for connection in served] == [True, True, False, False, False]
            asyncio.get_running_loop().remove_reader(sock.fileno())

    asyncio.run(look())
