"""The hostile corpus: every picture of hostile_images as an upload, and every request of hostile_requests."""

from tests.hostile_images import Picture, pictures
from tests.hostile_requests import STATUS, Case, requests

__all__ = ["STATUS", "Case", "Picture", "corpus", "pictures"]


def corpus() -> list[Case]:
    """The cases in a fixed order; names are unique."""
    return [Case(picture.name, picture.codes, body=picture.data) for picture in pictures()] + requests()
