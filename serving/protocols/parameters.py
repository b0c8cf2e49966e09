"""A request's query -> which model it means and how many classes to name. Knows neither HTTP bodies nor models."""

from dataclasses import dataclass
from functools import lru_cache

from starlette.datastructures import QueryParams

from serving.errors import InvalidParameter

DEFAULT_TOP_K = 3


@dataclass(frozen=True)
class Parameters:
    """`model` and `version` are None for the default and the latest."""

    model: str | None
    version: int | None
    top_k: int


@lru_cache(1024)  # clients send the same few queries again and again; a refused one is not kept
def parse(query: bytes) -> Parameters:
    """Raises InvalidParameter."""
    given = QueryParams(query.decode("latin-1"))
    top_k = _integer(given.get("top_k"), "top_k", 1)
    return Parameters(
        given.get("model"),
        _integer(given.get("version"), "version", 0),
        DEFAULT_TOP_K if top_k is None else top_k,
    )


def _integer(text: str | None, name: str, low: int) -> int | None:
    if text is None:
        return None
    if not (text.isascii() and text.isdecimal() and len(text) <= 9 and int(text) >= low):
        raise InvalidParameter(f"{name} must be a whole number of at least {low}, got {text[:40]!a}")
    return int(text)
