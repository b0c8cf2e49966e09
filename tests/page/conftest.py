"""A real browser, and what a person does with it."""

import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from serving.edge import keys
from tests.fixtures import toy
from tests.fixtures.browser import chromium
from tests.fixtures.inside import running_inside
from tests.fixtures.server import ROOT, Client, running

expect.set_options(timeout=30_000)  # on a loaded machine
KEY, HASH = keys.make()
PAGES = {  # each with something that is there once it is complete
    "/": "#model option",
    "/models/digits_cnn-mnist": "#sections section",
    "/docs": "#swagger-ui .opblock-summary-path",
}
SEVEN_STROKE = [(0.27, 0.25), (0.5, 0.27), (0.73, 0.25), (0.6, 0.5), (0.5, 0.79)]  # fractions of the drawing area


@pytest.fixture(scope="package")  # while it is open, no other test may run an event loop
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def options() -> dict[str, Any]:
    """How the browser is; a test may ask for another."""
    return {"viewport": {"width": 390, "height": 700}}


@pytest.fixture
def page(browser: Browser, options: dict[str, Any]) -> Iterator[Page]:
    with tab(browser, options) as opened:
        yield opened


@contextmanager
def tab(browser: Browser, options: dict[str, Any]) -> Iterator[Page]:
    """One in which no script may fail, nothing may be against the Content-Security-Policy, and all must come from the
    service itself."""
    context = browser.new_context(**options)
    page = context.new_page()
    wrong: list[str] = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("console", lambda said: wrong.append(said.text) if "Content Security Policy" in said.text else None)
    foreign = lambda asked: not asked.url.startswith(("http://127.0.0.1:", "blob:", "data:"))  # noqa: E731
    page.on("request", lambda asked: wrong.append(asked.url) if foreign(asked) else None)
    yield page
    context.close()
    assert wrong == []


@pytest.fixture(scope="session")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A service that asks for KEY, and explains nothing."""
    folder = tmp_path_factory.mktemp("guarded")
    toy.write_artifact(folder / "models")
    settings = {"models": str(folder / "models"), "default_model": "toy-colours", "workers": "1", "api_keys": HASH}
    with running(folder / "log", **settings, explain_grid="0") as client:
        yield client
    log = (folder / "log").read_text()
    assert KEY not in log
    assert HASH not in log


@pytest.fixture(scope="package")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("photos")
    for name, version in (("efficientnet_lite0-imagenet", "1"), ("conv_resnet_deep-cifar10", "2")):
        if not (ROOT / "models" / name / version).is_dir():
            pytest.skip(f"{name} is not there")
        shutil.copytree(ROOT / "models" / name / version, folder / "models" / name / version)
    settings = {"models": str(folder / "models"), "default_model": "efficientnet_lite0-imagenet"}
    with running_inside(folder / "log", **settings) as client:
        yield client


def expect_answer(page: Page, label: str) -> None:
    """The headline and the first row name this class, and the headline says in words how sure the model is."""
    expect(page.locator("#answer tbody th").first).to_have_text(label)
    sure = r"(almost certainly|very probably|probably|perhaps) \((>\s)?\d+\.\d\s%\)"
    expect(page.locator("#say")).to_have_text(re.compile(rf"^{label} {sure}$"))


def open_page(page: Page, client: Client, path: str = "/") -> None:
    page.goto(f"http://127.0.0.1:{client.port}{path}")


def open_whole(page: Page, client: Client, path: str) -> None:
    open_page(page, client, path)
    expect(page.locator(PAGES[path]).first).to_be_attached()


def upload(page: Page, name: str, data: bytes) -> None:
    page.set_input_files("#file", {"name": name, "mimeType": "image/png", "buffer": data})


def points(page: Page, stroke: list[tuple[float, float]]) -> list[tuple[float, float]]:
    """Where the points of a stroke are on the screen."""
    page.locator("#pad").scroll_into_view_if_needed()
    box = page.locator("#pad").bounding_box()
    assert box
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in stroke]


def draw(page: Page, stroke: list[tuple[float, float]]) -> None:
    """With the mouse, in the drawing area."""
    first, *others = points(page, stroke)
    page.mouse.move(*first)
    page.mouse.down()
    for point in others:
        page.mouse.move(*point, steps=6)
    page.mouse.up()


def touch(page: Page, stroke: list[tuple[float, float]]) -> None:
    """The same with a finger."""
    screen = page.context.new_cdp_session(page)
    for kind, point in zip(["touchStart", *["touchMove"] * (len(stroke) - 1)], points(page, stroke), strict=True):
        screen.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": [{"x": point[0], "y": point[1]}]})
    screen.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
