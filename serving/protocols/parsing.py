"""Large bodies -> values, beside the event loop: JSON, and pictures as base64 text in it. Knows no protocol.

A small body is parsed at once, since waking a thread costs more.
"""

import asyncio
import binascii
import gc
import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from serving.errors import InvalidRequest
from serving.protocols.json_pieces import loads, slices

T = TypeVar("T")

BASE64_PIECE = 64 * 1024  # characters
LONGEST_SCHEME = 10  # characters; an address has its `://` within them
INLINE_BYTES = 64 * 1024  # a body of up to this is parsed on the event loop, in a millisecond or two
_PARSERS = ThreadPoolExecutor(1, "parse")  # of a worker: more would only share the interpreter, and take memory
# Parsed JSON takes up to ten times the memory of its text, and empty lists twenty times: they are counted first.
MAX_LISTS = 1_000_000  # of lists and objects: 64 pictures of 224x224 pixels have 920,000


async def parsed(body: bytes, parse: Callable[[bytes], T]) -> T:
    """What `parse` makes of a body; a large one on a thread. Raises what it raises.

    `parse` reads, decodes and checks whatever takes long for a large body, and returns what is needed of it. Drop
    `request.body` before you await this, so that the body is freed as soon as it is parsed.
    """
    return parse(body) if len(body) <= INLINE_BYTES else await on_thread(lambda: parse(body))


async def on_thread(parse: Callable[[], T]) -> T:
    """What `parse` gives, in its turn after others'."""
    return await asyncio.get_running_loop().run_in_executor(_PARSERS, _uncollected, parse)


def _uncollected(parse: Callable[[], T]) -> T:
    """Without the garbage collector, which would look through a million new lists again and again, and keep the
    interpreter meanwhile. There is one parser's thread, so that nobody else turns it off or on."""
    collects = gc.isenabled()
    gc.disable()
    try:
        return parse()
    finally:
        if collects:
            gc.enable()


def load_json(body: bytes, constants: bool = False) -> Any:
    """The value of a JSON text in UTF-8. NaN and Infinity are no JSON, but taken with `constants`. Raises
    InvalidRequest."""
    if (lists := body.count(b"[") + body.count(b"{")) > MAX_LISTS:
        raise InvalidRequest(f"the JSON has {lists:,} lists and objects; the limit is {MAX_LISTS:,}: send binary data")
    try:
        if len(body) <= INLINE_BYTES:  # whole, by the standard library: taking it in pieces costs three times as much
            return (_TOLERANT if constants else _STRICT).decode(body.decode("utf-8-sig"))
        return loads(body, None if constants else _no_number)
    except (ValueError, RecursionError) as err:  # no UTF-8, no JSON, or thousands of lists in each other
        raise InvalidRequest(f"the body is no valid JSON: {_short(err)}") from None


def load_object(body: bytes, constants: bool = False) -> dict[str, Any]:
    """The same where an object is needed."""
    content = load_json(body, constants)
    if not isinstance(content, dict):
        raise InvalidRequest(f"the body must be a JSON object, got {type(content).__name__}")
    return content


def from_base64(text: Any, what: str = "b64") -> bytes:
    """The bytes of base64 text (RFC 4648, sections 4 and 5), with or without line ends, padding and a `data:` URL's
    beginning; `what` names the field in messages. Raises InvalidRequest."""
    if not isinstance(text, str):
        raise InvalidRequest(f"{what} must be base64 text, got {type(text).__name__}")
    start = text.find(",") + 1 if text.startswith("data:") else 0
    try:
        return b"".join(_decoded(text, start))
    except ValueError as err:  # binascii.Error is one
        if "://" in text[:LONGEST_SCHEME]:
            raise InvalidRequest(
                f"{what} must be a picture's bytes, not an address: the service never fetches one"
            ) from None
        raise InvalidRequest(f"{what} is no valid base64: {_short(err)}") from None


def _decoded(text: str, start: int) -> Iterator[bytes]:
    """In pieces, as JSON is read."""
    ended, left = False, ""
    for part in slices(len(text) - start, BASE64_PIECE):
        piece = text[start + part.start : start + part.stop]
        if not piece.isalnum():  # nearly every piece has + or /
            piece = "".join(piece.split()).replace("-", "+").replace("_", "/")
        piece = left + piece
        whole = len(piece) // 4 * 4
        piece, left = piece[:whole], piece[whole:]
        if piece and ended:
            raise ValueError("it goes on behind its padding")
        ended = ended or piece.endswith("=")
        yield binascii.a2b_base64(piece, strict_mode=True)
    if left:
        if ended:
            raise ValueError("it goes on behind its padding")
        yield binascii.a2b_base64(left + "=" * (-len(left) % 4), strict_mode=True)


def _no_number(name: str) -> None:
    raise ValueError(f"{name} is no number of JSON's")


_STRICT, _TOLERANT = json.JSONDecoder(parse_constant=_no_number), json.JSONDecoder()  # made once: it costs a parse


def _short(err: Exception) -> str:
    return str(err)[:100] or type(err).__name__
