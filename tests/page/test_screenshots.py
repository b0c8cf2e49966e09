"""The pictures in docs/ are of the page as it is today: they carry the hash of the files that they show."""

import pytest
from PIL import Image

from tests.fixtures.server import ROOT
from tests.page.screenshots import DOCS, REPORT, SCREENS, sources

NAMES = [*SCREENS, REPORT]


@pytest.mark.parametrize("name", NAMES)
def test_screenshot_is_of_today(name: str) -> None:
    with Image.open(DOCS / name) as picture:
        taken = picture.info["sources"]
    assert taken == sources(name), "run .venv-dev/bin/python -m tests.page.screenshots"


def test_screenshots_are_small_and_shown() -> None:
    assert sum((DOCS / name).stat().st_size for name in NAMES) < 400_000
    pages = "".join(page.read_text() for page in [ROOT / "README.md", *DOCS.glob("*.md")])
    assert [name for name in NAMES if f"({name})" not in pages and f"(docs/{name})" not in pages] == []
