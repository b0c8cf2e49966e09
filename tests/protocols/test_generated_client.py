"""A client that openapi-python-client generates from /docs.json has every operation, and gets answers."""

import importlib
import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import Client

pytestmark = pytest.mark.thorough
NAME = "generated_client"


@pytest.fixture(scope="module")
def generated(service: Client, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ModuleType]:
    folder = tmp_path_factory.mktemp("client")
    (folder / "docs.json").write_bytes(service.get("/docs.json").body)
    tools = Path(sys.executable).parent
    command = [str(tools / "openapi-python-client"), "generate", "--path", str(folder / "docs.json"), "--meta", "none"]
    done = subprocess.run(
        [*command, "--output-path", str(folder / NAME)],
        env=os.environ | {"PATH": f"{tools}:{os.environ['PATH']}"},  # it formats what it writes with ruff
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Unable to" not in done.stdout, done.stdout  # only media types that it does not know are left out
    sys.path.insert(0, str(folder))
    yield importlib.import_module(NAME)
    sys.path.remove(str(folder))


def test_every_operation_is_generated(service: Client, generated: ModuleType) -> None:
    paths = service.get("/docs.json").json()["paths"]
    operations = {operation["operationId"] for methods in paths.values() for operation in methods.values()}
    files = Path(str(generated.__file__)).parent.glob("api/*/*.py")
    made = {file.stem for file in files if file.stem != "__init__"}
    assert made == {re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower() for name in operations}


def test_generated_client_classifies(service: Client, generated: ModuleType) -> None:
    classify = importlib.import_module(f"{NAME}.api.default.classify")
    types = importlib.import_module(f"{NAME}.types")
    with generated.Client(base_url=f"http://127.0.0.1:{service.port}") as client:
        picture = types.File(payload=io.BytesIO(encode(digit("7"))))
        answer = classify.sync(client=client, body=picture, top_k=1)
        assert answer.predictions[0].label == "7"
        failure = classify.sync(client=client, body=types.File(payload=io.BytesIO(b"")))
        assert failure.code == "invalid_image"
