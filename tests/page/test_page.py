"""The page in a real browser: the answer shown is that of the picture and model shown, and nothing ends silently."""

import base64
import io
import re
import shlex
import subprocess
import threading
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, Route, expect

from tests.fixtures import toy
from tests.fixtures.pictures import colours, digit, encode
from tests.fixtures.server import ROOT, Client
from tests.page.conftest import KEY, SEVEN_STROKE, draw, expect_answer, open_page, touch, upload

DROP = """([name, bytes]) => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
  document.getElementById("drop").dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
}"""
PASTE = """bytes => {
  const data = new DataTransfer();
  data.items.add(new File([new Uint8Array(bytes)], "image.png", {type: "image/png"}));
  document.body.dispatchEvent(new ClipboardEvent("paste", {clipboardData: data, bubbles: true}));
}"""
SEVEN, THREE = encode(digit("7")), encode(digit("3"))


# Ways to a picture


def test_a_picture_is_classified(page: Page, service: Client) -> None:
    open_page(page, service)
    upload(page, "seven.png", SEVEN)
    expect_answer(page, "7")
    expect(page.locator("#answer tbody tr")).to_have_count(5)
    assert page.get_attribute("#shown", "alt") == "The picture: seven.png"
    upload(page, "three.png", THREE)
    expect_answer(page, "3")


def test_a_seven_that_is_drawn_is_a_seven(page: Page, service: Client) -> None:
    open_page(page, service)
    page.click("#draw")
    draw(page, SEVEN_STROKE)
    expect_answer(page, "7")
    draw(page, [(0.45, 0.5), (0.75, 0.5)])  # a bar through it: the answer before belongs to another picture
    expect_answer(page, "7")
    page.click("#clear")
    expect(page.locator("#answer")).to_be_hidden()
    expect(page.locator("#say")).to_have_text("")
    expect(page.locator("#placeholder")).to_be_visible()
    touch(page, [(0.5, 0.2), (0.5, 0.4), (0.5, 0.6), (0.5, 0.8)])
    expect_answer(page, "1")
    with page.expect_download() as saved:
        page.click("#save")
    assert Image.open(io.BytesIO(saved.value.path().read_bytes())).size == (320, 320)


def test_a_stroke_ends_the_answer_about_what_was_there_before(page: Page, service: Client) -> None:
    open_page(page, service)
    page.click("#draw")
    draw(page, SEVEN_STROKE)
    expect_answer(page, "7")
    page.hover("#pad")
    page.mouse.down()
    expect(page.locator("#answer")).to_be_hidden()
    page.mouse.up()
    expect(page.locator("#answer")).to_be_visible()


def test_a_picture_is_pasted(page: Page, service: Client) -> None:
    open_page(page, service)
    page.evaluate(PASTE, list(SEVEN))
    expect_answer(page, "7")


def test_a_phone_offers_its_camera_and_a_desk_does_not(page: Page, service: Client) -> None:
    open_page(page, service)
    assert page.get_attribute("#camera", "capture") == "environment"
    expect(page.locator("#camera")).to_be_hidden()  # this browser has a mouse
    page.set_input_files(
        "#camera", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": encode(digit("7"), "JPEG")}
    )
    expect_answer(page, "7")


def test_another_model_is_asked_about_the_picture_that_was_dropped(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#model option")).to_have_count(2)
    upload(page, "three.png", THREE)
    expect_answer(page, "3")
    page.evaluate(DROP, ["colours.png", list(encode(colours()))])
    expect(page.locator("#shown")).to_have_attribute("alt", "The picture: colours.png")
    page.select_option("#model", "toy-colours")
    expect(page.locator("#say strong")).to_have_count(1)
    names = page.locator("#answer tbody th")
    expect(names).to_have_count(3)
    assert set(names.all_inner_texts()) == set(toy.LABELS)
    expect(page.locator("#version")).to_have_value("2")  # the latest
    with page.expect_request(re.compile("version=1")):
        page.select_option("#version", "1")
    expect(page.locator("#curl")).to_contain_text("model=toy-colours&version=1&")


def test_what_is_dropped_and_no_file_is_told(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#model option")).to_have_count(2)
    page.evaluate(
        "document.body.dispatchEvent(new DragEvent('drop', {dataTransfer: new DataTransfer(), bubbles: true}))"
    )
    expect(page.locator("#say.error")).to_contain_text("drop the file")


def test_everything_is_reached_by_keyboard(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#sample")).to_be_visible()
    order = []
    for _ in range(9):
        page.keyboard.press("Tab")
        order.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        if order[-1] == "sample":
            break
    assert order == ["A", "file", "draw", "sample"]
    page.keyboard.press("Enter")
    expect_answer(page, "7")


# What is shown


def test_what_the_model_knows_is_said(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#about")).to_have_text(
        "Sees 28×28 pixels in grey. It was right about 99.6 % of its test pictures."
    )
    expect(page.locator("#known summary")).to_have_text("Knows 10 classes")
    page.click("#known summary")
    expect(page.locator("#known p")).to_have_text("0, 1, 2, 3, 4, 5, 6, 7, 8, 9")
    open_page(page, service, "/?model=toy-colours")
    expect(page.locator("#model")).to_have_value("toy-colours")
    expect(page.locator("#sample")).to_be_hidden()  # nobody has drawn one for it
    expect(page.locator("#about")).to_contain_text("Its accuracy was not measured here.")


def test_what_the_network_saw_and_where_it_looked(page: Page, service: Client) -> None:
    open_page(page, service)
    with page.expect_response("**/classify*") as answered:
        upload(page, "seven.png", encode(digit("7", (300, 200), ink=0, ground=255)))
    body = answered.value.json()
    expect(page.locator("#where")).to_contain_text("“7”")
    assert page.get_attribute("#seen", "src") == "data:image/png;base64," + body["seen"]
    assert Image.open(io.BytesIO(base64.b64decode(body["seen"]))).size == (28, 28)
    expect(page.locator("#looked")).to_be_visible()
    drawn = page.evaluate(
        "(() => {const c = document.querySelector('#looked canvas');"
        "return [...c.getContext('2d').getImageData(0, 0, c.width, c.height).data]})()"
    )
    alphas = drawn[3::4]
    falls = [fall for row in body["occlusion"] for fall in row]
    assert alphas[falls.index(max(falls))] == max(alphas) == 200
    assert all((alpha > 0) == (fall >= 0.01) for alpha, fall in zip(alphas, falls, strict=True))
    expect(page.locator("#times")).to_be_hidden()
    page.click("#details summary")
    times = page.inner_text("#times").replace("\u00a0", " ")
    assert re.fullmatch(
        r"Answered after .* ms: decoding .*, waiting .*, computing .*; finding where it looked .* ms\.", times
    )
    page.uncheck("#explain")
    expect_answer(page, "7")
    expect(page.locator("#explained")).to_be_hidden()


def test_a_service_that_does_not_explain_still_answers(page: Page, guarded: Client) -> None:
    page.add_init_script(f"sessionStorage.setItem('key', '{KEY}')")
    open_page(page, guarded)
    upload(page, "colours.png", encode(colours()))
    expect(page.locator("#answer tbody tr")).to_have_count(3)
    expect(page.locator("#explained")).to_be_hidden()
    expect(page.locator("#where")).to_contain_text("SHORTCUT_EXPLAIN_GRID is 0")


def test_a_blank_sheet_is_said_to_have_no_figure(page: Page, service: Client) -> None:
    open_page(page, service)
    upload(page, "blank.png", encode(digit("")))
    expect(page.locator("#say.unsure")).to_have_text("No digit found")
    expect(page.locator("#unsure")).to_have_text("There is no digit in this picture, so the answer means nothing.")
    expect(page.locator("#where")).to_contain_text("No single part decides")
    upload(page, "seven.png", SEVEN)
    expect_answer(page, "7")
    expect(page.locator("#unsure")).to_be_hidden()


def test_the_command_line_that_is_shown_gives_the_same_answer(page: Page, service: Client, tmp_path: Path) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    open_page(page, service)
    name = 'it\'s a "seven"; one, & more.png'
    upload(page, name, SEVEN)
    expect_answer(page, "7")
    page.click("#details summary")
    page.click("[data-of=curl]")
    expect(page.locator("#copied")).to_have_text("Copied.")
    command = page.evaluate("navigator.clipboard.readText()")
    (tmp_path / name).write_bytes(SEVEN)
    done = subprocess.run([*shlex.split(command), "-s"], cwd=tmp_path, capture_output=True, text=True, check=True)
    assert '"predictions":[{"label":"7"' in done.stdout


# What goes wrong


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
    upload(page, "three.png", THREE)
    expect(page.locator("#say.busy")).to_have_text("Classifying…")
    expect(page.locator("[aria-busy=true]")).to_have_count(1)
    upload(page, "seven.png", SEVEN)
    expect_answer(page, "7")
    body = '{"model":"x","version":1,"predictions":[{"label":"3","index":3,"probability":1}]}'
    try:
        held[0].fulfill(status=200, content_type="application/json", body=body)
    except Exception as err:  # the page has given the request up already
        assert "aborted" in str(err) or "handled" in str(err) or "closed" in str(err)
    page.wait_for_timeout(200)
    expect_answer(page, "7")
    expect(page.locator("[aria-busy=true]")).to_have_count(0)


def test_an_error_says_what_to_do_and_so_does_a_service_without_models(page: Page, service: Client) -> None:
    open_page(page, service)
    upload(page, "no.png", b"no picture")
    expect(page.locator("#say.error")).to_contain_text("no image in an enabled format")
    expect(page.locator("#say.error")).to_contain_text("Choose another file")
    expect(page.locator("#answer")).to_be_hidden()
    page.route(
        "**/models", lambda route: route.fulfill(status=503, json={"error": "not loaded yet", "code": "unavailable"})
    )
    open_page(page, service)
    expect(page.locator("#say.error")).to_have_text("not loaded yet")
    page.unroute("**/models")
    page.click("#again")
    expect(page.locator("#model option")).to_have_count(2)
    expect(page.locator("#say")).to_have_text("")


def test_a_busy_service_is_asked_again(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#model option")).to_have_count(2)
    page.route(
        "**/classify*", lambda r: r.fulfill(status=503, json={"error": "512 images are waiting", "code": "overloaded"})
    )
    upload(page, "seven.png", SEVEN)
    expect(page.locator("#say.error")).to_have_text(
        "512 images are waiting. Many others ask at the moment: try again soon."
    )
    page.unroute("**/classify*")
    page.click("#again")
    expect_answer(page, "7")


def test_a_service_without_room_for_a_map_still_answers(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#model option")).to_have_count(2)
    busy = {"error": "3 images are waiting; the limit is 28", "code": "overloaded"}
    page.route("**/classify*explain=1*", lambda route: route.fulfill(status=503, json=busy))
    upload(page, "seven.png", SEVEN)
    expect_answer(page, "7")
    expect(page.locator("#where")).to_have_text(f"Where it looked was not found out: {busy['error']}.")


def test_a_service_that_is_gone_is_named(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#model option")).to_have_count(2)
    page.route("**/classify*", lambda route: route.abort())
    upload(page, "seven.png", SEVEN)
    expect(page.locator("#say.error")).to_contain_text("The service does not answer.")
    page.unroute("**/classify*")
    page.route("**/classify*", lambda route: route.fulfill(status=502, body="<h1>Bad Gateway</h1>"))
    page.click("#again")
    expect(page.locator("#say.error")).to_contain_text("(status 502)")


def test_the_page_is_small() -> None:
    folder = ROOT / "serving" / "page"
    assert sum(file.stat().st_size for file in folder.iterdir()) <= 75_000
