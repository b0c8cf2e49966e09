"""The page as an invitation: the first look, samples, doubt, several files, drawing, the address, large files."""

import io
import re
from typing import Any

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests.fixtures.pictures import colours, digit, encode
from tests.fixtures.server import Client
from tests.page.conftest import KEY, SEVEN_STROKE, draw, expect_answer, open_page, points, upload

DROP = """files => {
  const data = new DataTransfer();
  for (const [name, bytes] of files) data.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
  document.body.dispatchEvent(new DragEvent("drop", {dataTransfer: data, bubbles: true}));
}"""
SEVEN, THREE = encode(digit("7")), encode(digit("3"))
PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def drop(page: Page, *files: tuple[str, bytes]) -> None:
    page.evaluate(DROP, [[name, list(data)] for name, data in files])


# The first look


def test_start_says_what_to_do(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#invitation")).to_contain_text("Draw a digit")
    expect(page.locator("#hint")).to_contain_text("Draw a digit here")
    expect(page.locator("#placeholder")).to_be_visible()
    expect(page.locator(".primary")).to_have_count(1)
    draw(page, SEVEN_STROKE)  # nothing needs to be pressed before
    expect_answer(page, "7")
    expect(page.locator("#placeholder")).to_be_hidden()
    open_page(page, service, "/?model=toy-colours")
    expect(page.locator("#invitation")).to_contain_text("Choose a picture")
    for absent in ("#draw", "#pad", "#sample"):  # this model reads no strokes, and nobody has drawn a sample for it
        expect(page.locator(absent)).to_be_hidden()


@pytest.mark.parametrize("options", [PHONE], ids=["phone"])
def test_answer_is_in_view_on_a_phone(page: Page, service: Client) -> None:
    open_page(page, service)
    box = page.locator("#pad").bounding_box()
    assert box
    assert box["width"] >= 320
    draw(page, SEVEN_STROKE)
    expect_answer(page, "7")
    box = page.locator("#say").bounding_box()
    assert box
    assert page.evaluate("scrollY") == 0
    assert box["y"] + box["height"] <= 844


def test_samples_are_answered(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#samples button")).to_have_count(4)
    for label in "742":
        page.click(f"[aria-label='Sample: {label}']")
        expect_answer(page, label)
    page.click("[aria-label='Sample: two digits']")
    expect(page.locator("#say.unsure")).to_have_text("Several digits")


def test_photo_is_named_by_the_models_that_know_it(page: Page, photos: Client) -> None:
    open_page(page, photos)
    page.click("#sample")
    expect_answer(page, "espresso")
    with page.expect_download() as saved:
        page.click("#save")
    picture = Image.open(io.BytesIO(saved.value.path().read_bytes())).convert("RGB").resize((1200, 900))
    upload(page, "photo.jpg", encode(picture, "JPEG"))
    expect_answer(page, "espresso")
    expect(page.locator("#looked")).to_be_visible()
    page.select_option("#model", "conv_resnet_deep-cifar10")
    expect(page.locator("#answer tbody tr")).to_have_count(5)
    page.click("[aria-label='Sample: automobile']")
    expect_answer(page, "automobile")


# Doubt


def test_answer_below_the_cards_threshold_is_headlined_as_unsure(page: Page, photos: Client) -> None:
    open_page(page, photos, "/?model=conv_resnet_deep-cifar10")
    with page.expect_request(re.compile("/classify.*min_probability=card")):
        upload(page, "colours.png", encode(colours((32, 32))))
    expect(page.locator("#say.unsure")).to_have_text("Not sure")
    expect(page.locator("#unsure")).to_contain_text("do not rely on this answer")
    expect(page.locator("#answer caption")).to_have_text("What it could be")
    expect(page.locator("#answer tbody tr")).to_have_count(5)


def test_model_without_a_threshold_is_asked_without_one(page: Page, service: Client) -> None:
    open_page(page, service, "/?model=toy-colours")
    with page.expect_request("**/classify*") as asked:
        upload(page, "colours.png", encode(colours()))
    assert "min_probability" not in asked.value.url
    expect(page.locator("#say.answer")).to_be_visible()


def test_each_reason_has_its_headline(page: Page, service: Client) -> None:
    predictions = [{"label": "7", "index": 7, "probability": 0.9}, {"label": "1", "index": 1, "probability": 0.0004}]
    body: dict[str, Any] = {"model": "m", "version": 1, "predictions": predictions}
    page.route("**/classify*", lambda route: route.fulfill(json=body))
    open_page(page, service)
    reasons = [("low_probability", "Not sure"), ("unfamiliar", "Something unfamiliar"), ("a_new_one", "Not sure")]
    for reason, headline in reasons:  # each is another one than before
        body["unsure"] = reason
        page.click("#sample")
        expect(page.locator("#say.unsure")).to_have_text(headline)
        expect(page.locator("#unsure")).not_to_be_empty()
        expect(page.locator("#answer tbody tr").last.locator("td").last).to_have_text("< 0.1 %")


def test_a_class_of_pictures_of_none_is_answered_in_words(page: Page, service: Client) -> None:
    predictions = [
        {"label": "none", "index": 2, "probability": 0.95},
        {"label": "cat", "index": 0, "probability": 0.05},
    ]
    page.route(
        "**/classify*", lambda route: route.fulfill(json={"model": "m", "version": 1, "predictions": predictions})
    )
    open_page(page, service)
    page.click("#sample")
    expect(page.locator("#say.answer")).to_have_text("None of these very probably (95.0\u00a0%)")


# Several files


def test_several_files_are_answered_in_a_table(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#model option")).to_have_count(2)
    with page.expect_request("**/classify/batch*"):
        drop(page, ("seven.png", SEVEN), ("no.png", b"no picture"), ("three.png", THREE))
    rows = page.locator("#several tbody tr")
    expect(rows).to_have_count(3)
    for row, text in zip(rows.all(), ("seven.png7 ", "no.pngthe bytes are no image", "three.png3 "), strict=True):
        expect(row).to_contain_text(text)
    expect(page.locator("#say")).to_have_text("2 of 3 pictures have an answer")
    assert page.evaluate("document.querySelector('#several img').naturalWidth") == 28
    rows.last.locator("button").click()  # and one of them alone
    expect_answer(page, "3")
    expect(page.locator("#several")).to_be_hidden()


def test_many_files_are_asked_about_in_parts(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#model option")).to_have_count(2)
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url) if "/batch" in request.url else None)
    files: list[Any] = [{"name": f"{i}.png", "mimeType": "image/png", "buffer": SEVEN} for i in range(20)]
    page.set_input_files("#file", files)
    expect(page.locator("#several tbody tr")).to_have_count(20)
    expect(page.locator("#say")).to_have_text("20 of 20 pictures have an answer")
    assert len(asked) == 2


# Drawing


def test_second_finger_draws_nothing(page: Page, service: Client) -> None:
    open_page(page, service)
    stroke = [(0.5, 0.2), (0.5, 0.5), (0.5, 0.8)]
    palm = [(0.1, 0.8), (0.15, 0.85), (0.1, 0.9)]
    screen = page.context.new_cdp_session(page)
    both = list(zip(points(page, stroke), points(page, palm), strict=True))
    for kind, (first, second) in zip(("touchStart", "touchMove", "touchMove"), both, strict=True):
        if kind == "touchStart":
            only = [{"x": first[0], "y": first[1], "id": 0}]
            screen.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": only})
        fingers = [{"x": x, "y": y, "id": i} for i, (x, y) in enumerate((first, second))]
        screen.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": fingers})
    screen.send("Input.dispatchTouchEvent", {"type": "touchEnd", "touchPoints": []})
    expect_answer(page, "1")
    dark = "([x, y]) => document.getElementById('pad').getContext('2d').getImageData(x, y, 1, 1).data[0] < 128"
    assert page.evaluate(dark, [160, 160])
    assert not page.evaluate(dark, [32, 256])


def test_undo_takes_the_last_stroke_back(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#undo")).to_be_hidden()
    draw(page, SEVEN_STROKE)
    expect_answer(page, "7")
    before = page.evaluate("document.getElementById('pad').toDataURL()")
    draw(page, [(0.1, 0.9), (0.9, 0.9)])
    expect(page.locator("#say.busy")).to_have_count(0)
    assert page.evaluate("document.getElementById('pad').toDataURL()") != before
    page.click("#undo")
    expect_answer(page, "7")
    assert page.evaluate("document.getElementById('pad').toDataURL()") == before
    page.click("#undo")
    expect(page.locator("#placeholder")).to_be_visible()
    expect(page.locator("#hint")).to_be_visible()


# The address


def test_back_and_reload_keep_model_version_and_sample(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#model")).to_have_value("digits_cnn-mnist")
    page.select_option("#model", "toy-colours")
    expect(page.locator("#version")).to_have_value("2")
    page.select_option("#version", "1")
    page.reload()
    expect(page.locator("#model")).to_have_value("toy-colours")
    expect(page.locator("#version")).to_have_value("1")
    page.select_option("#model", "digits_cnn-mnist")
    page.click("[aria-label='Sample: 4']")
    expect_answer(page, "4")
    page.reload()
    expect_answer(page, "4")
    page.go_back()
    expect(page.locator("#placeholder")).to_be_visible()
    page.go_back()
    expect(page.locator("#model")).to_have_value("toy-colours")
    expect(page.locator("#version")).to_have_value("1")
    page.go_back()
    expect(page.locator("#version")).to_have_value("2")
    page.go_forward()
    expect(page.locator("#version")).to_have_value("1")


def test_unknown_model_in_the_address_is_told(page: Page, service: Client) -> None:
    open_page(page, service, "/?model=nobody")
    expect(page.locator("#model")).to_have_value("digits_cnn-mnist")
    expect(page.locator("#about")).to_contain_text("There is no model nobody here.")


# Files


def test_file_that_is_no_picture_is_told_what_to_do(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#model option")).to_have_count(2)
    for name, data, told in (
        ("scan.pdf", b"%PDF-1.7\n" + bytes(99), "This is a PDF, not a picture"),
        ("IMG_1.HEIC", b"\0\0\0\x18ftypheic" + bytes(99), "Most Compatible"),
        ("IMG_2.jpg", b"\0\0\0\x18ftypmif1" + bytes(99), "cannot read HEIC"),
    ):
        upload(page, name, data)
        expect(page.locator("#say.error")).to_contain_text(told)
        for useless in ("#again", "#shown", "#save"):
            expect(page.locator(useless)).to_be_hidden()
        upload(page, "seven.png", SEVEN)
        expect_answer(page, "7")


def test_picture_that_the_browser_cannot_show_is_still_answered(page: Page, service: Client) -> None:
    open_page(page, service)
    upload(page, "seven.tif", encode(digit("7"), "TIFF"))
    expect_answer(page, "7")
    expect(page.locator("#shown")).to_be_hidden()
    expect(page.locator("#hint")).to_contain_text("this browser cannot show it")


def test_large_photo_is_made_smaller_and_upright(page: Page, service: Client) -> None:
    noise = np.random.default_rng(0).normal(0, 12, (3000, 4000, 1))
    paper = np.asarray(digit("7", (3000, 4000), ink=40, ground=215).rotate(90, expand=True))[:, :, None]
    photo = Image.fromarray((paper + noise).clip(0, 255).astype(np.uint8)[:, :, 0]).convert("RGB")
    turned = Image.Exif()
    turned[0x0112] = 6  # to be turned by 90 degrees to the right
    data = encode(photo, "JPEG", exif=turned)
    open_page(page, service)
    expect(page.locator("#model option")).to_have_count(2)
    page.evaluate(
        "(send => { fetch = (...a) => { window.sent = a[1]?.body?.get('image').size; return send(...a) } })(fetch)"
    )
    page.set_input_files("#file", {"name": "photo.jpg", "mimeType": "image/jpeg", "buffer": data})
    expect_answer(page, "7")
    assert 0 < page.evaluate("window.sent") < len(data) / 4
    page.click("#details summary")
    expect(page.locator("#times")).to_contain_text("Sent with 1200×1600 pixels in place of 3000×4000.")


# Command lines


def test_command_lines_for_two_shells(page: Page, service: Client) -> None:
    open_page(page, service)
    made = page.evaluate("""async () => {
        const {commands} = await import("/static/command.js");
        return [commands("http://h/c?a=1&b=2", "a b.png", true), commands("http://h/c", "a;b.png", false)];
    }""")
    assert made == [
        {
            "curl": """curl -H "Authorization: Bearer $KEY" -F 'image=@a b.png' 'http://h/c?a=1&b=2'""",
            "cmd": """curl -H "Authorization: Bearer %KEY%" -F "image=@a b.png" "http://h/c?a=1&b=2\"""",
        },
        {
            "curl": """curl -F 'image=@"a;b.png"' 'http://h/c'""",
            "cmd": '''curl -F "image=@\\"a;b.png\\"" "http://h/c"''',
        },
    ]


# Colours, keys


USUAL = pytest.param({}, marks=pytest.mark.thorough, id="usual")


@pytest.mark.parametrize("options", [pytest.param({"forced_colors": "active"}, id="forced"), USUAL])
def test_bars_are_seen(page: Page, service: Client) -> None:
    open_page(page, service)
    page.click("#sample")
    expect_answer(page, "7")
    bar, track = (
        page.evaluate("s => getComputedStyle(document.querySelector(s)).backgroundColor", selector)
        for selector in (".bar", ".track")
    )
    assert bar != track
    assert bar != "rgba(0, 0, 0, 0)"


def test_focus_ring_is_for_keyboards(page: Page, service: Client) -> None:
    open_page(page, service)
    expect(page.locator("#sample")).to_be_visible()
    ring = "document.querySelector('.primary').matches(':has(:focus-visible)')"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.id") == "file"
    assert page.evaluate(ring)
    page.mouse.click(5, 5)
    with page.expect_file_chooser():
        page.mouse.click(*center(page, ".primary"))
    assert not page.evaluate(ring)


def center(page: Page, selector: str) -> tuple[float, float]:
    box = page.locator(selector).bounding_box()
    assert box
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


def test_key_that_no_header_can_carry_is_asked_for_again(page: Page, guarded: Client) -> None:
    open_page(page, guarded)
    page.fill("dialog input", "sécret-ключ")
    page.keyboard.press("Enter")
    expect(page.locator("dialog .error")).to_contain_text("A key has plain letters")
    page.fill("dialog input", KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#model option").first).to_be_attached()
    assert page.evaluate("sessionStorage.getItem('key')") == KEY
