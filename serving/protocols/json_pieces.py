"""A long JSON text -> its value, in pieces, so that other threads run in between.

One call of json.loads keeps the interpreter until it ends: for 32 MiB of numbers two seconds, on whichever thread it
is. What is long in a request is base64 text and lists of numbers. Both are taken out and read in pieces; json.loads
reads the little that is left. Knows no protocol.
"""

import json
import re
import secrets
import time
from collections.abc import Callable, Iterator
from typing import Any

LONG = 1024  # bytes from which on a text or a list of numbers is taken out
PIECE = 32 * 1024  # bytes that are read at once: about a millisecond
MAX_REST = 1024 * 1024  # bytes that may be left: names, and values that are short
MAX_DEPTH = 16  # of lists of numbers in each other

_ELEMENT_ENDS = [re.compile(rb"(?:\]\s*){%d}," % depth) for depth in range(MAX_DEPTH + 1)]
_OPENINGS = re.compile(rb"[\[\s]*")

Constant = Callable[[str], Any]


def slices(length: int, step: int) -> Iterator[slice]:
    """The slices of something long; between two of them other threads have their turn."""
    for start in range(0, length, step):
        if start:
            time.sleep(0)
        yield slice(start, start + step)


def loads(body: bytes, parse_constant: Constant | None = None) -> Any:
    """json.loads, for a text of UTF-8. Raises ValueError, also where it holds too much that is neither text nor
    numbers."""
    reader = _Reader(body, parse_constant)
    reader.take_out()
    return reader.value()


class _Reader:
    """Reads one text. `_rest` is what is left of it, with a mark in the place of what was taken out."""

    def __init__(self, body: bytes, parse_constant: Constant | None):
        self._body = body
        self._parse_constant = parse_constant
        self._mark = secrets.token_hex(8)  # a client cannot know it
        self._rest: list[bytes] = []
        self._left = 0  # bytes of them
        self._taken: list[Any] = []

    def take_out(self) -> None:
        body, at = self._body, 0
        for i, (start, end) in enumerate(self._texts()):
            if i % 256 == 255:
                time.sleep(0)
            self._keep_between(at, start)
            if end - start < LONG:
                self._keep(body[start:end])
            else:
                self._put(_text(body[start + 1 : end - 1]))
            at = end
        self._keep_between(at, len(body))

    def _texts(self) -> Iterator[tuple[int, int]]:
        """Where each text stands, with its quotes."""
        body, at = self._body, 0
        while (start := body.find(b'"', at)) >= 0:
            end = body.find(b'"', start + 1)
            while end >= 0 and _is_escaped(body, end):
                end = body.find(b'"', end + 1)
            if end < 0:
                raise ValueError("a text has no end")
            at = end + 1
            yield start, at

    def _keep(self, piece: bytes) -> None:
        self._rest.append(piece)
        self._left += len(piece)
        if self._left > MAX_REST:
            raise ValueError(
                f"more than {MAX_REST:,} bytes of it are neither long texts nor lists of numbers; send binary data"
            )

    def _put(self, value: Any) -> None:
        self._keep(b'"%s%d"' % (self._mark.encode(), len(self._taken)))
        self._taken.append(value)

    def _keep_between(self, start: int, end: int) -> None:
        """What stands between two texts; a list of numbers in it is taken out."""
        body = self._body
        first = body.find(b"[", start, end) if end - start >= LONG else -1
        if first >= 0:
            braces = [at for at in (body.find(b"{", first, end), body.find(b"}", first, end)) if at >= 0]
            last = body.rfind(b"]", first, min(braces, default=end)) + 1
            # Brackets behind the list close what began before it.
            surplus = body.count(b"]", first, last) - body.count(b"[", first, last)
            for _ in range(surplus):
                last = body.rfind(b"]", first, last - 1) + 1
            for _ in range(-surplus):  # and brackets before it begin what goes on
                first = body.find(b"[", first + 1, last)
                if first < 0:
                    break
            if first >= 0 and last - first >= LONG:
                self._keep(body[start:first])
                self._put(self._numbers(first, last))
                start = last
        self._keep(body[start:end])

    def _numbers(self, start: int, end: int) -> list[Any]:
        """The list from `start` to `end`, which holds numbers, or lists of them that are all as deep."""
        body = self._body
        if end - start <= PIECE:
            value = self._loads(body[start:end])
            if not isinstance(value, list):
                raise ValueError("what should be a list is none")
            return value
        opening = _OPENINGS.match(body, start + 1, end)
        depth = opening.group().count(b"[") if opening is not None else 0
        if depth > MAX_DEPTH:
            raise ValueError(f"lists are nested more than {MAX_DEPTH} deep")
        numbers: list[Any] = []
        at, end = start + 1, end - 1
        while at < end:
            time.sleep(0)
            cut = self._cut(at, end, depth)
            if depth and cut - at > PIECE:  # one element, longer than a piece
                numbers.append(self._numbers(body.index(b"[", at, cut), body.rindex(b"]", at, cut) + 1))
            else:
                numbers += self._loads(b"[%s]" % body[at:cut])
            at = cut + 1
            if at == end:
                raise ValueError("a comma has nothing behind it")
        return numbers

    def _cut(self, at: int, end: int, depth: int) -> int:
        """Where the comma is behind as many whole elements as fit into a piece, at least one; or the end."""
        body = self._body
        if end - at <= PIECE:
            return end
        if not depth:
            cut = body.rfind(b",", at, at + PIECE)
            if cut < 0:
                raise ValueError("a number is too long")
            return cut
        ends = _ELEMENT_ENDS[depth]
        match = ends.search(body, at + PIECE // 2, min(at + PIECE, end)) or ends.search(body, at, end)
        return end if match is None else match.end() - 1

    def _loads(self, piece: bytes) -> Any:
        return json.loads(piece, parse_constant=self._parse_constant)

    def value(self) -> Any:
        return self._filled(self._loads(b"".join(self._rest)))

    def _filled(self, value: Any) -> Any:
        """What was taken out, put back."""
        if isinstance(value, str) and value.startswith(self._mark):
            return self._taken[int(value[len(self._mark) :])]
        if isinstance(value, list):
            return [self._filled(one) for one in value]
        if isinstance(value, dict):
            if any(name.startswith(self._mark) for name in value):
                raise ValueError(f"a name has more than {LONG:,} bytes")
            return {name: self._filled(one) for name, one in value.items()}
        return value


def _is_escaped(body: bytes, at: int) -> bool:
    """Whether an odd number of backslashes stands before."""
    before = at
    while body[before - 1] == 0x5C:
        before -= 1
    return (at - before) % 2 == 1


def _text(raw: bytes) -> str:
    """What stands between two quotes."""
    if b"\\" in raw and b"\\\\" not in raw:
        raw = raw.replace(b"\\/", b"/").replace(b"\\r", b"\r").replace(b"\\n", b"\n")  # as writers of base64 escape
    if b"\\" in raw:
        if len(raw) > MAX_REST:
            raise ValueError(f"a text of {len(raw):,} bytes is escaped; the limit is {MAX_REST:,}")
        return str(json.loads(b'"%s"' % raw, strict=False))
    return raw.decode()
