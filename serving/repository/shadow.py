"""A version that is asked what another one was asked, after that has answered; how far they agree is counted.

So a new version is judged by the users' own pictures before it is served. Its answers go nowhere else. What it does
happens aside: on a thread of low priority, and not at all while the version that answers has work waiting.
"""

import asyncio
import contextlib
import functools
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from serving.artifacts import Artifact
from serving.errors import ClassifyError, StartError
from serving.images.picture import Decoded, Picture
from serving.operations.comparison import Comparison
from serving.repository.answers import Answer, Outcome
from serving.repository.decoding import to_array
from serving.repository.served import ServedModel

MOST_WAITING = 32  # pictures that may wait for a shadow; what comes then is dropped
MOST_WAITING_BYTES = 16 * 1024 * 1024  # of those whose files it must decode itself
_WANTED = re.compile(r"([^\s:@]+):([0-9]{1,19})(?:@(0?\.[0-9]{1,6}|1(?:\.0*)?))?")


class Wanted(NamedTuple):
    """What SHORTCUT_SHADOW says of a model: which version is its shadow, and what share of pictures it is asked."""

    version: int
    share: float


def wanted(text: str) -> dict[str, Wanted]:
    """`model:2 other:3@0.1` -> by model. Raises StartError for what is not so."""
    shadows: dict[str, Wanted] = {}
    for part in text.split():
        match = _WANTED.fullmatch(part)
        if match is None or float(match[3] or 1) <= 0:
            raise StartError(f"SHORTCUT_SHADOW={text}: expected `model:2` or `model:2@0.1`, got {part!r}")
        if match[1] in shadows:
            raise StartError(f"SHORTCUT_SHADOW={text}: names {match[1]} twice; a model has one shadow")
        shadows[match[1]] = Wanted(int(match[2]), float(match[3] or 1))
    return shadows


def versions(shadows: Mapping[str, Wanted]) -> dict[str, int]:
    """The version of each."""
    return {name: one.version for name, one in shadows.items()}


class Shadow:
    """`served` is asked what `original` answers. Belongs to the event loop."""

    def __init__(self, served: ServedModel, original: ServedModel, share: float):
        self.served = served
        self.share = share
        self._original = original.batcher
        self._alike = _input(served.artifact) == _input(original.artifact)
        self._meter = Comparison(served.artifact.name, served.artifact.version)
        self._due = 0.0  # pictures; each is asked when a whole one is due
        self._waiting = self._bytes = 0

    def after(self, done: Callable[[Outcome], None], data: bytes | None) -> Callable[[Outcome], None]:
        """`done`, and then the shadow is asked too. `data` is the file, None for an array."""
        return functools.partial(self._answered, done, None if self._alike else data)

    def _answered(self, done: Callable[[Outcome], None], data: bytes | None, outcome: Outcome) -> None:
        done(outcome)
        if not isinstance(outcome, Answer):
            return
        self._due += self.share
        if self._due < 1:
            return
        self._due -= 1
        if not self._alike and data is None:
            self._meter.count("incomparable")
        elif (
            len(self._original)
            or self._waiting >= MOST_WAITING
            or (data is not None and self._bytes + len(data) > MOST_WAITING_BYTES)
        ):
            self._meter.count("dropped")
        else:
            self._ask(outcome, data)

    def _ask(self, real: Answer, data: bytes | None) -> None:
        self._waiting += 1
        self._bytes += len(data or b"")
        compare = functools.partial(self._compare, real._replace(moments=(0.0, 0.0, 0.0, 0.0)), len(data or b""))
        try:
            if data is None:
                self.served.submit(real.image, compare)
                return
            loop = asyncio.get_running_loop()
            decoding = self.served.in_background(
                functools.partial(_decode, data, self.served.max_pixels, self.served.artifact)
            )
        except Exception as err:  # it is full, or cannot compute
            compare(err)
            return
        decoding.add_done_callback(lambda ended: _on(loop, self._decoded, compare, ended.exception() or ended.result()))

    def _decoded(self, compare: Callable[[Outcome], None], decoded: Decoded | BaseException) -> None:
        if isinstance(decoded, BaseException):
            compare(RuntimeError(repr(decoded)))
            return
        try:
            self.served.submit(decoded.array, compare)
        except ClassifyError as err:
            compare(err)

    def _compare(self, real: Answer, size: int, outcome: Outcome) -> None:
        self._waiting -= 1
        self._bytes -= size
        if not isinstance(outcome, Answer):
            self._meter.count("failed")
            return
        mine, theirs = int(outcome.probabilities.argmax()), int(real.probabilities.argmax())
        difference = abs(float(outcome.probabilities[mine]) - float(real.probabilities[theirs]))
        self._meter.compared(outcome.labels[mine] == real.labels[theirs], difference)


def _input(artifact: Artifact) -> tuple[object, ...]:
    """What decides the array that a picture becomes."""
    return (
        artifact.input_shape,
        artifact.input_convention,
        artifact.resample,
        artifact.resize_to,
        artifact.pad_fill,
    )


def _decode(data: bytes, max_pixels: int, artifact: Artifact) -> Decoded:
    return to_array(Picture.open(data, max_pixels), artifact)


def _on(loop: asyncio.AbstractEventLoop, call: Callable[..., None], *arguments: object) -> None:
    with contextlib.suppress(RuntimeError):  # the loop has ended
        loop.call_soon_threadsafe(call, *arguments)
