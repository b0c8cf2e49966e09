"""How far a picture walks: calls of our functions and files that they stand in, counted while a request is answered.

A real connection on a fake transport, with all routes of the service. A list comprehension is no call: it is one in
Python 3.11 only (PEP 709).
"""

import asyncio
import io
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from types import FrameType
from typing import Any, NamedTuple

import numpy as np
import pytest
from PIL import Image

import serving
from serving.edge.connection import Connection
from serving.edge.router import Router
from serving.engine.measurements import Measurements
from serving.protocols.native import routes
from serving.repository.models import Repository
from serving.settings import Settings
from tests.fixtures.pictures import encode
from tests.fixtures.server import ROOT
from tests.fixtures.wire import ServerState, Transport, edge_of

SERVING = str(Path(serving.__file__).parent)
READ = 64 * 1024  # bytes that a socket gives at once


class Walk(NamedTuple):
    """What was called, in order."""

    calls: list[tuple[str, str]]  # file, function

    @property
    def files(self) -> set[str]:
        return {file for file, _ in self.calls}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    cache = tmp_path_factory.mktemp("cache")
    settings = Settings(models=ROOT / "models", versions="", provider="cpu", cache=cache)
    only = cache / "models"
    (only / "digits_cnn-mnist").mkdir(parents=True)
    (only / "digits_cnn-mnist" / "1").symlink_to(ROOT / "models" / "digits_cnn-mnist" / "1")
    loaded = Repository(Settings(models=only, provider="cpu", cache=settings.cache), 1, Measurements(cache))
    loaded.replace(None)
    yield loaded
    for served in loaded:
        served.retire()


def walk(repository: Repository, picture: bytes) -> Walk:
    """Of the third of three equal requests on a connection: heads and paths are remembered then, as with any client."""
    head = f"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {len(picture)}\r\n\r\n"
    sent = head.encode() + picture
    calls: list[tuple[str, str]] = []

    def note(frame: FrameType, event: str, argument: Any) -> None:
        code = frame.f_code
        if event == "call" and code.co_filename.startswith(SERVING) and not code.co_name.startswith("<listcomp"):
            calls.append((code.co_filename[len(SERVING) + 1 :], code.co_qualname))

    async def ask(connection: Connection, transport: Transport) -> None:
        transport.written = b""
        for start in range(0, len(sent), READ):
            connection.data_received(sent[start : start + READ])
        while not transport.written:
            await asyncio.sleep(0)
        assert transport.written.startswith(b"HTTP/1.1 200 "), transport.written

    async def scenario() -> None:
        connection, transport = (
            Connection(edge_of(Router(routes(lambda: repository, Settings()))), ServerState()),
            Transport(),
        )
        connection.connection_made(transport)  # type: ignore[arg-type]
        await ask(connection, transport)
        await ask(connection, transport)
        threading.setprofile(note)
        sys.setprofile(note)
        try:
            await ask(connection, transport)
        finally:
            sys.setprofile(None)
            threading.setprofile(None)
        connection.connection_lost(None)

    asyncio.run(asyncio.wait_for(scenario(), 60))
    return Walk(calls)


def shown(found: Walk) -> str:
    return "\n".join(f"{file}: {function}" for file, function in found.calls)
