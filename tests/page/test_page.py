"""The page and Swagger in a real browser: the answer shown is that of the picture shown, and nothing ends silently."""

import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, Route, expect

from serving.edge import keys
from tests.fixtures import toy
from tests.fixtures.browser import chromium
from tests.fixtures.pictures import colours, digit, encode
from tests.fixtures.server import Client, running

DROP = """([name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
}"""
KEY, HASH = keys.make()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with chromium() as launched:
        yield launched


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 390, "height": 700})
    page = context.new_page()
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    yield page
    context.close()
    assert errors == []


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("guarded")
    toy.write_artifact(folder / "models")
    settings = {"models": str(folder / "models"), "default_model": "toy-colours", "workers": "1", "api_keys": HASH}
    with running(folder / "log", **settings) as client:
        yield client


def open_page(page: Page, client: Client, path: str = "/") -> None:
    page.goto(f"http://127.0.0.1:{client.port}{path}")


def upload(name: str, data: bytes) -> dict[str, object]:
    return {"name": name, "mimeType": "image/png", "buffer": data}


SEVEN, THREE = encode(digit("7")), encode(digit("3"))


def first(page: Page) -> str:
    return page.locator("#answer td").first.inner_text()


def test_a_picture_is_classified(page: Page, service: Client) -> None:
    open_page(page, service)
    page.set_input_files("#file", upload("seven.png", SEVEN))  # type: ignore[arg-type]
    expect(page.locator("#answer td").first).to_have_text("7")
    page.set_input_files("#file", upload("three.png", THREE))  # type: ignore[arg-type]
    expect(page.locator("#answer td").first).to_have_text("3")


def test_another_model_is_asked_about_the_picture_that_was_dropped(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#model option")).to_have_count(2)
    page.set_input_files("#file", upload("three.png", THREE))  # type: ignore[arg-type]
    expect(page.locator("#answer td").first).to_have_text("3")
    page.evaluate(DROP, ["colours.png", list(encode(colours()))])
    page.select_option("#model", "toy-colours")
    with page.expect_response("**/classify*") as answered:
        page.select_option("#model", "dense_resnet-mnist")
        page.select_option("#model", "toy-colours")
    assert answered.value.ok
    expect(page.locator("#answer tr td:first-child")).to_have_count(3)
    assert {row.inner_text() for row in page.locator("#answer tr td:first-child").all()} == set(toy.LABELS)


def test_a_late_answer_does_not_replace_a_newer_one(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#model option")).to_have_count(2)
    held: list[Route] = []
    first_asked = threading.Event()

    def hold_the_first(route: Route) -> None:
        if first_asked.is_set():
            route.continue_()
        else:
            first_asked.set()
            held.append(route)

    page.route("**/classify*", hold_the_first)
    page.set_input_files("#file", upload("three.png", THREE))  # type: ignore[arg-type]
    expect(page.locator("#answer")).to_have_text("Classifying…")
    page.set_input_files("#file", upload("seven.png", SEVEN))  # type: ignore[arg-type]
    expect(page.locator("#answer td").first).to_have_text("7")
    body = '{"model":"x","version":1,"predictions":[{"label":"3","index":3,"probability":1}]}'
    try:
        held[0].fulfill(status=200, content_type="application/json", body=body)
    except Exception as err:  # the page has given the request up already
        assert "aborted" in str(err) or "handled" in str(err) or "closed" in str(err)
    page.wait_for_timeout(200)
    assert first(page) == "7"


def test_an_error_is_shown_and_so_is_a_service_without_models(page: Page, service: Client) -> None:
    open_page(page, service)
    page.set_input_files("#file", upload("no.png", b"no picture"))  # type: ignore[arg-type]
    expect(page.locator("#answer.error")).to_contain_text("no image in an enabled format")
    page.route(
        "**/models", lambda route: route.fulfill(status=503, json={"error": "not loaded yet", "code": "unavailable"})
    )
    open_page(page, service)
    expect(page.locator("#answer.error")).to_have_text("not loaded yet")
    page.unroute("**/models")
    page.click("#again")
    expect(page.locator("#model option")).to_have_count(2)
    expect(page.locator("#answer")).to_have_text("")


def test_a_service_that_is_gone_is_named(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#model option")).to_have_count(2)
    page.route("**/classify*", lambda route: route.abort())
    page.set_input_files("#file", upload("seven.png", SEVEN))  # type: ignore[arg-type]
    expect(page.locator("#answer.error")).to_have_text("The service does not answer.")


@pytest.mark.parametrize("path", ["/", "/docs"])
def test_a_key_may_be_wrong_cancelled_and_right_in_the_end(page: Page, guarded: Client, path: str) -> None:
    open_page(page, guarded, path)
    problem = page.locator("#problem, #answer.error")
    page.click("dialog button[value=cancel]")
    expect(problem).to_contain_text("asks for a key")
    page.click("#again")
    page.fill("dialog input", "wrong")
    page.click("dialog button[value=send]")
    expect(page.locator("dialog output")).to_have_text("That key was not accepted.")
    page.fill("dialog input", KEY)
    page.click("dialog button[value=send]")
    there = "#model option" if path == "/" else "#swagger-ui .opblock-summary-path"
    expect(page.locator(there).first).to_be_attached()
    expect(page.locator("dialog")).to_be_hidden()
    page.reload()
    expect(page.locator(there).first).to_be_attached()  # the tab keeps it


def test_a_blank_sheet_is_said_to_have_no_figure(page: Page, service: Client) -> None:
    open_page(page, service)
    page.set_input_files("#file", upload("blank.png", encode(digit(""))))  # type: ignore[arg-type]
    expect(page.locator("#answer")).to_contain_text("There is no figure in this picture.")


def test_files_are_asked_for_again_but_not_sent_again(service: Client) -> None:
    for path in ("/", "/docs", "/static/swagger-ui-bundle.js", "/favicon.ico"):
        whole = service.get(path)
        assert (whole.status, whole.headers["cache-control"]) == (200, "no-cache")
        again = service.request("GET", path, headers={"If-None-Match": whole.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == whole.headers["etag"]


def test_the_page_is_small() -> None:
    folder = Path(__file__).parents[2] / "serving" / "page"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 40_000
