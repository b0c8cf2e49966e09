"""docs/protocols.md is true: its table names every protocol, and each of its snippets gives an answer."""

import base64
import json
import re
import shlex
import subprocess
import sys

import pytest

from serving.protocols.doors import DOORS
from tests.fixtures.server import ROOT, Client

PAGE = (ROOT / "docs" / "protocols.md").read_text()
PROGRAMS = dict(re.findall(r"^## (.*)\n(?:(?!^## ).*\n)*?```python\n((?:.*\n)*?)```", PAGE, re.M))
CURLS = re.findall(r"^\$ (curl .*)$", PAGE, re.M)


def test_table_names_every_protocol() -> None:
    assert re.findall(r"^\| `(\w+)` \|", PAGE, re.M) == list(DOORS)
    assert len(PROGRAMS) == 4
    assert len(CURLS) == 2


@pytest.mark.parametrize("title", PROGRAMS)
def test_program_answers_seven(service: Client, title: str) -> None:
    program = PROGRAMS[title].replace("localhost:3000", f"127.0.0.1:{service.port}")
    done = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "7", done.stderr[-2000:]


@pytest.mark.parametrize("command", CURLS)
def test_curl_answers_seven(service: Client, command: str) -> None:
    seven = base64.b64encode((ROOT / "examples" / "seven.png").read_bytes()).decode()
    real = command.replace("localhost:3000", f"127.0.0.1:{service.port}").replace("…", seven)
    done = subprocess.run([*shlex.split(real), "-s"], cwd=ROOT, capture_output=True, text=True, check=True)
    answer = json.loads(done.stdout)
    first = answer["predictions"][0]
    assert first.get("predictions", [first])[0]["label"] == "7"
