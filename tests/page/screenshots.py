"""`python -m tests.page.screenshots`: the pictures of the page and of a report in docs/, as they look today.

Starts a service with committed models and a browser, and does what a visitor does. It trains a small network for the
report.
Each picture carries the hash of the files that it shows, so that a test can tell an old one.
"""

import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin
from playwright.sync_api import Page, expect

from tests.fixtures.browser import chromium
from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import ROOT, Client, running
from tests.page.conftest import SEVEN_STROKE, draw

DOCS = ROOT / "docs"
DESK: dict[str, Any] = {"viewport": {"width": 1000, "height": 700}}
PHONE: dict[str, Any] = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True}


def _drawn(page: Page) -> None:
    draw(page, SEVEN_STROKE)
    expect(page.locator("#say strong")).to_have_text("7")


def _unsure(page: Page) -> None:
    page.goto(page.url + "?model=conv_resnet_deep-cifar10&sample=airplane")
    expect(page.locator("#say.unsure")).to_be_visible()


def _several(page: Page) -> None:
    files: Any = [
        {"name": f"scan-{n}.png", "mimeType": "image/png", "buffer": encode(digit(text, (90, 120), ink=0, ground=255))}
        for n, text in enumerate(("7", "3", "38"), 1)
    ]
    page.set_input_files("#file", files)
    expect(page.locator("#several tbody tr")).to_have_count(3)


SCREENS: dict[str, tuple[dict[str, Any], Callable[[Page], None]]] = {
    "page.png": (DESK, _drawn),
    "page-phone.png": (PHONE, _drawn),
    "page-unsure.png": (DESK, _unsure),
    "page-several.png": (DESK, _several),
}


REPORT = "report.png"


def sources(name: str) -> str:
    """The hash of the files that a picture shows."""
    folder = ROOT / "serving" / "page"
    runs = ROOT / "training" / "runs"
    files = [runs / "report.py", runs / "advice.py"] if name == REPORT else sorted(folder.iterdir())
    return hashlib.sha256(b"".join(file.read_bytes() for file in files if file.is_file())).hexdigest()


def save(png: bytes, name: str, folder: Path = DOCS) -> None:
    """As a PNG of 128 colours, which is small enough for a repository."""
    told = PngImagePlugin.PngInfo()
    told.add_text("sources", sources(name))
    picture = Image.open(io.BytesIO(png)).convert("RGB").quantize(128, dither=Image.Dither.NONE)
    picture.save(folder / name, optimize=True, pnginfo=told)
    print(folder / name)


def _take(client: Client) -> None:
    with chromium() as browser:
        for name, (options, act) in SCREENS.items():
            context = browser.new_context(**options)
            page = context.new_page()
            page.goto(f"http://127.0.0.1:{client.port}/")
            expect(page.locator("#model option").first).to_be_attached()
            act(page)
            page.wait_for_timeout(300)  # until the pictures of the answer are painted
            save(page.screenshot(), name)
            context.close()


def _take_report(folder: Path) -> None:
    """Of a training on drawn digits in changing light, some of them hard."""
    random = np.random.default_rng(0)
    for n in range(240):
        label = "147"[n % 3]
        where = folder / "digits-on-paper" / label
        where.mkdir(parents=True, exist_ok=True)
        size = int(random.integers(24, 60))
        drawn = digit(
            label, (size, size), tuple(random.uniform(0.35, 0.65, 2)), random.uniform(0.5, 0.9), ink=40, ground=215
        )
        noise = random.normal(0, random.uniform(5, 75), (size, size))
        Image.fromarray((np.asarray(drawn) + noise).clip(0, 255).astype(np.uint8)).save(where / f"scan-{n:03}.png")
    data = ["--data", "digits-on-paper", "--image-size", "28", "--epochs", "12", "--recipe", "augmented"]
    command = [sys.executable, "-m", "training.fit", "conv_resnet_shallow", *data]
    subprocess.run(command, cwd=folder, env=os.environ | {"PYTHONPATH": str(ROOT)}, check=True)
    (report,) = folder.glob("runs/*/1/report.html")
    with chromium() as browser:
        page = browser.new_page(viewport={"width": 1000, "height": 1100})
        page.goto(report.as_uri())
        save(page.screenshot(), REPORT)


def main() -> int:
    expect.set_options(timeout=30_000)
    with tempfile.TemporaryDirectory() as folder:
        models = Path(folder) / "models"
        for artifact in ("digits_cnn-mnist/1", "conv_resnet_deep-cifar10/2"):
            shutil.copytree(ROOT / "models" / artifact, models / artifact)
        with running(Path(folder) / "log", models=str(models), workers="1") as client:
            _take(client)
        _take_report(Path(folder))
    return 0


if __name__ == "__main__":
    sys.exit(main())
