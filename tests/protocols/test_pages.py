"""Metrics of many workers are put together beside the event loop, and once for all that ask meanwhile."""

import asyncio
import itertools
import time
from typing import Any

import pytest

from serving.edge.http1 import Request, parse_head
from serving.operations import metrics
from serving.protocols.pages import METRICS_REST, Pages


def pages() -> Pages:
    return Pages(lambda: None, dict, dict)


def request() -> Request:
    head = b"GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n"
    return parse_head(head)


def test_metrics_do_not_hold_the_event_loop_and_are_made_once_at_a_time(monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[float] = []

    def slow() -> bytes:
        made.append(time.perf_counter())
        time.sleep(0.5)  # as with some hundred workers
        return b"text"

    async def scenario() -> tuple[int, list[Any]]:
        served = pages()
        asked = [asyncio.create_task(served.metrics(request())) for _ in range(5)]
        turns = 0
        while not all(task.done() for task in asked):
            await asyncio.sleep(0.01)
            turns += 1
        return turns, [task.result().body for task in asked]

    monkeypatch.setattr(metrics, "collected", slow)
    turns, bodies = asyncio.run(scenario())
    assert bodies == [b"text"] * 5
    assert len(made) == 1
    assert turns > 5  # the loop went on


def test_a_client_that_goes_away_does_not_cost_the_others_their_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    def slow() -> bytes:
        time.sleep(0.2)
        return b"text"

    async def scenario() -> bytes:
        served = pages()
        first, second = (asyncio.create_task(served.metrics(request())) for _ in range(2))
        await asyncio.sleep(0.05)
        first.cancel()
        return (await second).body

    monkeypatch.setattr(metrics, "collected", slow)
    assert asyncio.run(scenario()) == b"text"


def test_who_asks_again_at_once_waits_so_that_others_have_the_core(monkeypatch: pytest.MonkeyPatch) -> None:
    """And gets what holds then. Scrapes with seconds between them wait for nothing."""
    made: list[tuple[float, float]] = []

    def slow() -> bytes:
        began = time.monotonic()
        time.sleep(0.1)
        made.append((began, time.monotonic()))
        return b"%d" % len(made)

    async def scenario() -> list[bytes]:
        served = pages()
        return [(await served.metrics(request())).body for _ in range(3)]

    monkeypatch.setattr(metrics, "collected", slow)
    assert asyncio.run(scenario()) == [b"1", b"2", b"3"]
    for (began, ended), (next_began, _) in itertools.pairwise(made):
        assert next_began - ended > (METRICS_REST - 0.5) * (ended - began)
