"""The pages on a narrow screen, light and dark, and for a screen reader."""

import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import Client
from tests.page.conftest import PAGES, SEVEN_STROKE, draw, open_whole, tab, upload

THEMES = ["light", pytest.param("dark", marks=pytest.mark.thorough)]


@pytest.fixture(scope="module", params=THEMES)
def theme(request: pytest.FixtureRequest) -> str:
    shown: str = request.param
    return shown


@pytest.fixture
def options(theme: str) -> dict[str, Any]:
    return {"viewport": {"width": 390, "height": 700}, "color_scheme": theme}


class Shown(NamedTuple):
    page: Page
    path: str


@pytest.fixture(scope="module", params=PAGES)
def shown(browser: Browser, service: Client, theme: str, request: pytest.FixtureRequest) -> Iterator[Shown]:
    """Each page, opened once for all tests that look at it."""
    with tab(browser, {"viewport": {"width": 390, "height": 700}, "color_scheme": theme}) as page:
        open_whole(page, service, request.param)
        yield Shown(page, request.param)


@pytest.fixture
def violations() -> Callable[[Page], list[str]]:
    """What axe finds on a page and calls serious or critical."""
    try:
        from axe_playwright_python.sync_playwright import Axe
    except ImportError:
        if os.environ.get("CI"):
            pytest.fail("axe-playwright-python is not installed; it is in the extra `dev`")
        pytest.skip("axe-playwright-python is not installed")

    def find(page: Page) -> list[str]:
        found = Axe().run(page).response["violations"]
        return [
            f"{one['id']} ({one['impact']}): {node['html']}"
            for one in found
            for node in one["nodes"]
            if one["impact"] in ("serious", "critical")
        ]

    return find


def test_axe_finds_nothing_serious(shown: Shown, violations: Callable[[Page], list[str]]) -> None:
    assert violations(shown.page) == []


def test_axe_finds_nothing_serious_in_any_state(
    page: Page, service: Client, violations: Callable[[Page], list[str]]
) -> None:
    open_whole(page, service, "/")
    draw(page, SEVEN_STROKE)
    expect(page.locator("#answer")).to_be_visible()
    for summary in page.locator("summary").all():
        summary.click()
    assert violations(page) == []
    page.click("[aria-label='Sample: two digits']")
    expect(page.locator("#say.unsure")).to_be_visible()
    assert violations(page) == []
    seven = {"name": "7.png", "mimeType": "image/png", "buffer": encode(digit("7"))}
    page.set_input_files("#file", [seven, {"name": "no.png", "mimeType": "image/png", "buffer": b"no"}])  # type: ignore[arg-type,list-item]
    expect(page.locator("#several tbody tr")).to_have_count(2)
    assert violations(page) == []
    upload(page, "no.png", b"no picture")
    expect(page.locator("#say.error")).to_be_visible()
    assert violations(page) == []
    page.evaluate("document.getElementById('key').showModal()")
    assert violations(page) == []


def test_a_narrow_screen_shows_it_without_scrolling_sideways(shown: Shown) -> None:
    page, path = shown
    if path == "/":
        page.click("#sample")
        expect(page.locator("#looked")).to_be_visible()
    for width in (320, 390):
        page.set_viewport_size({"width": width, "height": 700})
        assert page.evaluate("document.documentElement.scrollWidth") <= width


def brightness(page: Page, selector: str, kind: str) -> float:
    colour = page.evaluate("([s, k]) => getComputedStyle(document.querySelector(s))[k]", [selector, kind])
    return sum(float(part) for part in colour.removeprefix("rgb(").rstrip(")").split(",")) / 3


def test_the_pages_follow_the_colours_of_the_system(shown: Shown, theme: str) -> None:
    page, path = shown
    dark = theme == "dark"
    assert (brightness(page, "body", "backgroundColor") < 128) == dark
    assert (brightness(page, "body", "color") > 128) == dark
    if path == "/docs":  # Swagger has light colours only: they are turned over
        turned = page.evaluate("getComputedStyle(document.getElementById('swagger-ui')).filter")
        assert turned.startswith("invert") == dark
    page.evaluate("document.getElementById('key').showModal()")
    assert (brightness(page, "dialog", "backgroundColor") < 128) == dark
    page.evaluate("document.getElementById('key').close()")


def test_what_a_screen_reader_says_is_there(shown: Shown) -> None:
    """The main rules, also without axe: every control has a name, every picture a text; there is one first heading,
    a main part, and a place that tells what changes."""
    page, path = shown
    if path != "/docs":  # Swagger's own controls are axe's to judge
        for role in ("button", "link", "combobox", "checkbox", "textbox", "img"):
            for found in page.get_by_role(role).all():  # type: ignore[arg-type]
                named = found.aria_snapshot()
                assert '"' in named, named
        expect(page.get_by_role("heading", level=1)).to_have_count(1)
    expect(page.get_by_role("main")).to_have_count(1)
    expect(page.get_by_role("status").first).to_be_attached()
    assert page.get_attribute("html", "lang") == "en"
