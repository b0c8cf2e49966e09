"""Lanes take turns, however much one has waiting."""

import functools
import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import CancelledError, Future

import pytest

from serving.engine.fair_pool import FairPool


class Gate:
    """One thread of turns that is kept busy until it is opened."""

    def __init__(self) -> None:
        self.turns = FairPool(1, "test")
        self.done: list[str] = []
        self._open = threading.Event()
        entered = threading.Event()

        def wait() -> None:
            entered.set()
            self._open.wait(60)

        self._first = self.turns.submit("first", wait)
        entered.wait(60)

    def ask(self, lane: str, name: str) -> "Future[None]":
        return self.turns.submit(lane, lambda: self.done.append(name))

    def open(self) -> None:
        self._open.set()
        self._first.result(10)


def test_lanes_take_turns() -> None:
    gate = Gate()
    asked = [gate.ask("a", f"a{i}") for i in range(4)] + [gate.ask("b", "b0"), gate.ask("c", "c0"), gate.ask("b", "b1")]
    assert [gate.turns.waiting(lane) for lane in "abcd"] == [4, 2, 1, 0]
    gate.open()
    for future in asked:
        future.result(10)
    assert gate.done == ["a0", "b0", "c0", "a1", "b1", "a2", "a3"]
    assert gate.turns.waiting("a") == 0


def test_what_is_cancelled_is_not_called() -> None:
    gate = Gate()
    first, second = gate.ask("a", "a0"), gate.ask("a", "a1")
    assert first.cancel()
    assert gate.turns.waiting("a") == 1  # nor does it count
    gate.open()
    second.result(10)
    assert gate.done == ["a1"]
    with pytest.raises(CancelledError):
        first.result(0)


def test_what_a_call_raises_is_its_own() -> None:
    def fail() -> None:
        raise ValueError("this picture")

    turns = FairPool(2, "test")
    calls: list[Callable[[], object]] = [fail, lambda: "a picture"]
    first, second = (turns.submit("a", call) for call in calls)
    with pytest.raises(ValueError, match="this picture"):
        first.result(10)
    assert second.result(10) == "a picture"


def test_what_a_call_raises_keeps_nothing_alive() -> None:
    class Upload:
        pass

    def fail(upload: Upload) -> None:
        raise ValueError("this picture")

    upload = Upload()
    gone = weakref.ref(upload)
    turns = FairPool(1, "test")
    gc.disable()
    try:
        future = turns.submit("a", functools.partial(fail, upload))
        del upload
        with pytest.raises(ValueError, match="this picture"):
            future.result(10)
        del future
        turns.submit("a", int).result(10)
        assert gone() is None
    finally:
        gc.enable()
