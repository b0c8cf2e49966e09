"""docs/architecture.md is true: each step that it names is there, and no step of a picture's way is taken twice."""

import ast
import asyncio
import importlib
import re
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from serving.edge import multipart
from serving.edge.connection import Connection
from serving.edge.router import Router
from serving.edge.uploads import Budget
from serving.edge.worker import Edge
from serving.engine.measurements import Measurements
from serving.images import picture as pictures
from serving.protocols.native import Limits, Native
from serving.repository.models import Repository
from serving.settings import Settings
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import ROOT, form
from tests.fixtures.wire import LIMITS, ServerState, Transport

PAGE = (ROOT / "docs" / "architecture.md").read_text()


def test_every_file_and_function_that_is_named_exists() -> None:
    for file, rest in re.findall(r"`((?:serving|training)/[\w/]+\.py)`((?:: `\w+`(?:, `\w+`)*)?)", PAGE):
        source = (ROOT / file).read_text()
        for name in re.findall(r"`(\w+)`", rest):
            assert re.search(rf"^\s*(async )?def {name}\b", source, re.M), f"{file} has no {name}"


class Counted:
    """Counts calls of what must happen once."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch):
        self.calls: Counter[str] = Counter()
        for form_name, opener in list(pictures.OPENERS.items()):
            monkeypatch.setitem(pictures.OPENERS, form_name, self._counting("header", opener))
        monkeypatch.setattr(multipart, "parse", self._counting("form", multipart.parse))
        monkeypatch.setattr(Repository, "find", self._counting("model", Repository.find))
        monkeypatch.setattr(pictures.Picture, "to_array", self._counting("pixels", pictures.Picture.to_array))

    def _counting(self, name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def counting(*arguments: Any, **named: Any) -> Any:
            self.calls[name] += 1
            return call(*arguments, **named)

        return counting


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    toy.write_artifact(tmp_path / "models")
    settings = Settings(models=tmp_path / "models", default_model="toy-colours", provider="cpu", cache=tmp_path)
    return Repository(settings, 1, Measurements(tmp_path))


SMALL = encode(colours())
PHOTO = encode(colours((600, 400)), "JPEG", quality=95)  # up to 128 KiB: its header is read on the event loop
LARGE = encode(colours((1200, 900)), "BMP")  # read on a thread


@pytest.mark.parametrize("data", [SMALL, PHOTO, LARGE], ids=["small", "photo", "large"])
@pytest.mark.parametrize("as_form", [False, True])
def test_no_step_is_taken_twice(
    repository: Repository, monkeypatch: pytest.MonkeyPatch, data: bytes, as_form: bool
) -> None:
    counted = Counted(monkeypatch)
    body, kind = form(("image", "a.png", data)) if as_form else (data, "image/png")
    head = f"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n"

    async def ask() -> bytes:
        native = Native(lambda: repository, Limits(10**8, 10**8, 8, 8))
        edge = Edge(Router(native.routes()), LIMITS, Budget(10**9))
        connection, transport = Connection(edge, ServerState()), Transport()
        connection.connection_made(transport)  # type: ignore[arg-type]
        connection.data_received(head.encode() + body)
        for _ in range(1000):
            if transport.written:
                break
            await asyncio.sleep(0.01)
        connection.connection_lost(None)
        return transport.written

    answer = asyncio.run(ask())
    assert answer.startswith(b"HTTP/1.1 200 "), answer
    assert counted.calls["header"] == (0 if data is SMALL else 1)  # a plain PNG needs no Pillow
    assert counted.calls["pixels"] == (0 if data is SMALL else 1)
    assert counted.calls["form"] == int(as_form)
    assert counted.calls["model"] == 1


@pytest.mark.parametrize("target", sorted(path.stem for path in (ROOT / "fuzz").glob("*.py") if path.stem[0] != "_"))
def test_what_is_fuzzed_is_there(target: str) -> None:
    """Fuzzing needs an environment of its own, so that nothing else notices when what it imports has moved."""
    for node in ast.walk(ast.parse((ROOT / "fuzz" / f"{target}.py").read_text())):
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(("serving.", "tests.")):
            module = importlib.import_module(str(node.module))
            assert [alias.name for alias in node.names if not hasattr(module, alias.name)] == [], node.module
