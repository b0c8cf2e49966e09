"""Each file in examples/ does what it says, against the real service."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Page

from tests.fixtures.browser import chromium
from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import ROOT, Client

EXAMPLES = ROOT / "examples"
SEVEN = encode(digit("7"))


@pytest.fixture
def files(tmp_path: Path) -> list[str]:
    """A seven, and what is no picture."""
    names = ["a; b, c.png", "no.png"]  # curl's -F would take a name apart at these
    for name, data in zip(names, (SEVEN, b"no picture"), strict=True):
        (tmp_path / name).write_bytes(data)
    return [str(tmp_path / name) for name in names]


def run(*command: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if name != "CLASSIFY_API_KEY"}
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=60)


def test_curl(service: Client, files: list[str]) -> None:
    url = f"http://127.0.0.1:{service.port}"
    done = run(str(EXAMPLES / "curl.sh"), files[0], url)
    assert done.returncode == 0, done
    assert json.loads(done.stdout) == service.post("/classify", SEVEN).json()
    failed = run(str(EXAMPLES / "curl.sh"), files[1], url)
    assert failed.returncode == 22  # curl's, for an HTTP status of 400 and above
    assert json.loads(failed.stdout)["code"] == "invalid_image"


def test_httpx(service: Client, files: list[str]) -> None:
    done = run(sys.executable, str(EXAMPLES / "ask_httpx.py"), f"http://127.0.0.1:{service.port}", *files)
    best = service.post("/classify", SEVEN).json()["predictions"][0]
    assert done.stdout == f"{files[0]}: {best['label']} {best['probability']:.4f}\n"
    assert done.returncode == 1
    assert "RuntimeError: invalid_image: " in done.stderr


@pytest.fixture(scope="module")
def page(service: Client) -> Iterator[Page]:
    with chromium() as browser:
        context = browser.new_context(bypass_csp=True)  # the service's own pages allow no script that a test adds
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{service.port}/")
        source = (EXAMPLES / "classify.js").read_text()
        page.add_script_tag(content=f"{source}\nwindow.classify = classify;", type="module")
        page.wait_for_function("typeof window.classify === 'function'")
        yield page


ASK = """async ([bytes, options]) => {
  try { return await window.classify(new Blob([new Uint8Array(bytes)]), options); }
  catch (error) { return {message: error.message, code: error.code}; }
}"""


def test_fetch(service: Client, page: Page) -> None:
    assert page.evaluate(ASK, [list(SEVEN), {"top_k": 1}]) == service.post("/classify?top_k=1", SEVEN).json()
    failed = page.evaluate(ASK, [list(b"no picture"), {}])
    assert failed["code"] == "invalid_image"
    assert "no image in an enabled format" in failed["message"]


def test_fetch_asks_again_while_the_service_is_busy(service: Client, page: Page) -> None:
    answers = [503, 503]

    def busy_at_first(route) -> None:  # type: ignore[no-untyped-def]
        if answers:
            route.fulfill(status=answers.pop(), headers={"Retry-After": "0.01"}, json={"error": "", "code": ""})
        else:
            route.continue_()

    page.route("**/classify*", busy_at_first)
    assert page.evaluate(ASK, [list(SEVEN), {}]) == service.post("/classify", SEVEN).json()
    assert answers == []
