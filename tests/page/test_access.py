"""The page, Swagger and the models' pages: with a key, below a path of a proxy, and what is sent of them."""

import json
from pathlib import Path

import pytest
from playwright.sync_api import Page, Response, expect

from tests.fixtures.pictures import digit, encode
from tests.fixtures.proxies import need, proxied
from tests.fixtures.server import ROOT, Client
from tests.page.conftest import KEY, PAGES, open_page, upload

CARD = json.loads((ROOT / "models/digits_cnn-mnist/1/card.json").read_text())
ACCURACY = f"{100 * CARD['metrics']['accuracy']:.2f} %"

# Keys


@pytest.mark.parametrize(
    ("path", "there"),
    [
        ("/", "#model option"),
        # All pages ask by the same script, key.js.
        pytest.param("/models/toy-colours", "#sections section", marks=pytest.mark.thorough),
        pytest.param("/docs", "#swagger-ui .opblock-summary-path", marks=pytest.mark.thorough),
    ],
)
def test_a_key_may_be_wrong_cancelled_and_right_in_the_end(page: Page, guarded: Client, path: str, there: str) -> None:
    open_page(page, guarded, path)
    problem = page.locator("#problem.error, #say.error")
    page.click("dialog button[value=cancel]")
    expect(problem).to_contain_text("asks for a key")
    page.click("#again")
    page.fill("dialog input", "wrong")
    page.click("dialog button[value=send]")
    expect(page.locator("dialog .error")).to_have_text("That key was not accepted.")
    page.fill("dialog input", KEY)
    page.click("dialog button[value=send]")
    expect(page.locator(there).first).to_be_attached()
    expect(page.locator("dialog")).to_be_hidden()
    page.reload()
    expect(page.locator(there).first).to_be_attached()  # the tab keeps it
    assert page.evaluate("localStorage.length + document.cookie.length") == 0  # and nothing else does


def test_the_command_line_names_the_key_and_does_not_show_it(page: Page, guarded: Client) -> None:
    open_page(page, guarded)
    page.fill("dialog input", KEY)
    page.keyboard.press("Enter")
    upload(page, "seven.png", encode(digit("7")))
    expect(page.locator("#curl")).to_contain_text('-H "Authorization: Bearer $KEY"')
    assert KEY not in page.content()


def test_a_key_that_is_taken_back_is_asked_for_again(page: Page, guarded: Client) -> None:
    open_page(page, guarded)
    page.fill("dialog input", KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#model option").first).to_be_attached()
    page.evaluate("sessionStorage.setItem('key', 'old')")
    upload(page, "seven.png", encode(digit("7")))
    expect(page.locator("dialog .error")).to_have_text("That key was not accepted.")
    page.fill("dialog input", KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#answer tbody tr")).to_have_count(3)


# The pages of models, and Swagger


def test_the_page_of_a_model_shows_its_card(page: Page, service: Client) -> None:
    open_page(page, service)
    page.click("#card")
    expect(page.locator("h1")).to_have_text("digits_cnn-mnist")
    sections = page.locator("#sections")
    for text in (ACCURACY, f"{CARD['parameters']:,}", "CPUExecutionProvider", "60,000 for training", "SHA-256"):
        expect(sections).to_contain_text(text)
    expect(page.locator("tr", has=page.locator("th", has_text="5")).first).to_be_attached()
    page.click("text=Try it with a picture")
    expect(page.locator("#model")).to_have_value("digits_cnn-mnist")
    open_page(page, service, "/models/nobody")
    expect(page.locator("#problem.error")).to_contain_text("no model 'nobody'; there is digits_cnn-mnist")


def test_swagger_knows_the_models_and_its_examples_run(page: Page, service: Client) -> None:
    open_page(page, service, "/docs")
    for operation in ("describeModel", "listModels"):
        block = page.locator(f"#operations-default-{operation}")
        block.locator(".opblock-summary-control").click()
        block.locator(".try-out__btn").click()
        if operation == "describeModel":
            names = block.locator("select").first.locator("option")
            assert {"digits_cnn-mnist", "toy-colours"} <= set(names.all_inner_texts())
            block.locator("select").first.select_option("toy-colours")
        with page.expect_response("**/models**") as answered:
            block.locator(".execute").click()
        assert answered.value.ok
        expect(block.locator(".live-responses-table .response-col_status").nth(1)).to_contain_text("200")
    block = page.locator("#operations-default-classify")
    block.locator(".opblock-summary-control").click()
    block.locator(".try-out__btn").click()
    block.locator("input[type=file]").set_input_files(
        {"name": "7.png", "mimeType": "image/png", "buffer": encode(digit("7"))}
    )
    with page.expect_response("**/classify*") as answered:
        block.locator(".execute").click()
    assert answered.value.json()["predictions"][0]["label"] == "7"


def models_by_swagger(page: Page, address: str) -> Response:
    """What GET /models answers when Swagger asks for it at an address of this pattern."""
    block = page.locator("#operations-default-listModels")
    block.locator(".opblock-summary-control").click()
    block.locator(".try-out__btn").click()
    with page.expect_response(address) as answered:
        block.locator(".execute").click()
    return answered.value


def test_swagger_asks_with_the_key_of_the_tab(page: Page, guarded: Client) -> None:
    open_page(page, guarded, "/docs")
    page.fill("dialog input", KEY)
    page.keyboard.press("Enter")
    assert models_by_swagger(page, "**/models").ok


def test_all_of_it_works_below_a_path_of_a_proxy(page: Page, service: Client, tmp_path: Path) -> None:
    need("nginx")
    with proxied("nginx", service.port, tmp_path, "/deep/er/") as proxy:
        page.goto(f"http://127.0.0.1:{proxy.port}/deep/er/")
        page.click("#sample")
        expect(page.locator("#say strong")).to_have_text("7")
        expect(page.locator("#curl")).to_contain_text(f":{proxy.port}/deep/er/classify?")
        page.click("#card")
        expect(page.locator("#sections")).to_contain_text(ACCURACY)
        page.click("text=API")
        assert models_by_swagger(page, "**/deep/er/models").ok
        page.click("header a")
        expect(page.locator("#model option")).to_have_count(2)


# What is sent


def test_files_are_asked_for_again_but_not_sent_again(service: Client) -> None:
    for path in ("/", "/docs", "/static/swagger-ui-bundle.js", "/static/page.js", "/favicon.ico"):
        whole = service.get(path)
        assert (whole.status, whole.headers["cache-control"]) == (200, "no-cache")
        again = service.request("GET", path, headers={"If-None-Match": whole.headers["etag"]})
        assert (again.status, again.body) == (304, b"")
        assert again.headers["etag"] == whole.headers["etag"]


@pytest.mark.parametrize("path", PAGES)
def test_nothing_inline_is_allowed_nor_there(service: Client, path: str) -> None:
    answer = service.request("GET", path, headers={"Accept": "text/html"})
    assert "unsafe" not in answer.headers["content-security-policy"]
    text = answer.body.decode()
    assert "style=" not in text
    assert "<style" not in text
    assert text.count("<script") == text.count("<script src=") + text.count('<script type="module" src=')


@pytest.mark.parametrize("accept", ["", "*/*", "application/json", "application/json, text/html;q=0.5"])
def test_only_who_wants_html_first_gets_the_page_of_a_model(service: Client, guarded: Client, accept: str) -> None:
    path, headers = "/models/digits_cnn-mnist", {"Accept": accept} if accept else {}
    answer = service.request("GET", path, headers=headers)
    assert answer.json()["card"]["name"] == "digits_cnn-mnist"
    assert (answer.headers["content-type"], answer.headers["vary"]) == ("application/json", "accept")
    assert guarded.request("GET", path, headers=headers).status == 401
    browser = {"Accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}
    for client in (service, guarded):  # the page itself says nothing about a model
        shown = client.request("GET", path, headers=browser)
        assert (shown.status, shown.body) == (200, (ROOT / "serving" / "page" / "model.html").read_bytes())
        assert shown.headers["vary"] == "accept"
    assert service.request("HEAD", path, headers=browser).headers["content-type"] == "text/html; charset=utf-8"
    assert service.request("DELETE", path, headers=browser).status == 405
