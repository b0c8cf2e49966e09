"""What connections share: the budget of bodies, who gives way when it is used up, and the rate of an upload."""

import sys
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.edge.bodies import Body
from serving.edge.router import Route
from serving.edge.uploads import Budget, Upload
from serving.edge.worker import default_limit
from serving.errors import Overloaded
from tests.fixtures.wire import LIMITS, Clock, Wire, on_a_clock, on_a_loop

GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"POST /classify HTTP/1.1\r\nHost: a\r\n"


def test_the_budget_is_taken_and_given_back() -> None:
    budget, route = Budget(100), Route("POST", "/", lambda request: None, max_bytes=1000)

    def upload(length: int | None) -> Upload:
        return Upload(route, length, budget, LIMITS, lambda: 0.0, lambda err: None)

    first = upload(60)
    first.take(b"x" * 60, 0, 0.0)
    with pytest.raises(Overloaded, match="no room for a body of 60 bytes beside 60 of others; the limit is 100"):
        upload(60)
    first.release()
    first.release()
    upload(100).take(b"x" * 100, 0, 0.0)
    assert budget.used == 100


def test_the_default_takes_a_share_of_the_memory_and_one_largest_body_at_least() -> None:
    assert default_limit(1, 10) >= 2 * default_limit(2, 10) - 2 > 10**6
    assert default_limit(10**9, 12345) == 12345


def test_a_body_without_room_is_refused_before_it_is_read_and_its_bytes_are_dropped() -> None:
    def run() -> None:
        wire = Wire(budget=50)
        wire.send(HEAD + b"Content-Length: 100\r\n\r\n" + b"x" * 40)
        assert wire.transport.written.startswith(b"HTTP/1.1 503 ")
        assert b"retry-after: 1\r\n" in wire.transport.written
        wire.send(b"x" * 60 + GET)
        assert [seen.target for seen in wire.seen] == [b"/livez"]
        assert wire.edge.bodies.used == 0

    on_a_loop(run)


@pytest.mark.parametrize("framing", [b"Content-Length: 40\r\n\r\n", b"Transfer-Encoding: chunked\r\n\r\n28\r\n"])
def test_room_is_given_back_when_the_client_goes_away(framing: bytes) -> None:
    def run() -> None:
        wire = Wire(budget=50)
        wire.send(HEAD + framing + b"x" * 30)
        assert wire.edge.bodies.used >= 30
        wire.end()
        assert wire.edge.bodies.used == 0

    on_a_loop(run)


def test_bodies_of_unknown_length_are_counted_as_they_come() -> None:
    def run() -> None:
        wire = Wire(budget=50)
        wire.send(HEAD + b"Transfer-Encoding: chunked\r\n\r\n")
        for _ in range(6):
            wire.send(b"a\r\n" + b"x" * 10 + b"\r\n")
        assert wire.transport.written.startswith(b"HTTP/1.1 503 ")
        assert wire.transport.closed

    on_a_loop(run)


# Silent and slow uploads

SLOW = replace(LIMITS, body_seconds=60, body_rate=10_000)


def test_what_is_announced_takes_no_room_until_it_arrives() -> None:
    def run() -> None:
        silent = [Wire(limits=replace(LIMITS, connections=1000), budget=200_000)]
        silent += [Wire(beside=silent[0]) for _ in range(255)]
        for wire in silent:
            wire.send(HEAD + b"Content-Length: 100000\r\n\r\n")
        assert silent[0].edge.bodies.used == 0
        for _ in range(12):
            honest = Wire(beside=silent[0])
            honest.send(HEAD + b"Content-Length: 90000\r\n\r\n" + b"x" * 50_000)
            honest.send(b"x" * 40_000)
            assert honest.transport.written.startswith(b"HTTP/1.1 200 ")

    on_a_loop(run)


def test_an_upload_behind_the_least_rate_gives_way_when_room_is_short_the_furthest_first() -> None:
    async def run(clock: Clock) -> None:
        first = Wire(budget=100_000)
        first.send(HEAD + b"Content-Length: 90000\r\n\r\n" + b"x" * 40_000)
        await clock.advance(1)
        second = Wire(beside=first)
        second.send(HEAD + b"Content-Length: 50000\r\n\r\n" + b"x" * 40_000)
        honest = Wire(beside=first)
        honest.send(HEAD + b"Content-Length: 50000\r\n\r\n" + b"x" * 10_000)
        assert honest.transport.written.startswith(b"HTTP/1.1 503 ")  # nobody is behind: both have credit
        await clock.advance(3)
        honest = Wire(beside=first)
        honest.send(HEAD + b"Content-Length: 50000\r\n\r\n" + b"x" * 10_000)
        honest.send(b"x" * 40_000)
        assert honest.transport.written.startswith(b"HTTP/1.1 200 ")
        assert first.transport.written.startswith(b"HTTP/1.1 408 ")
        assert b"its memory is needed" in first.transport.written
        assert not second.transport.written
        assert 40_000 <= first.edge.bodies.used <= 40_100

    on_a_clock(run)


def test_a_slow_phone_that_goes_on_sending_may_take_longer_than_the_timer() -> None:
    async def run(clock: Clock) -> None:
        phone = Wire(limits=replace(SLOW, body_rate=1000))
        phone.send(HEAD + b"Content-Length: 100000\r\n\r\n")
        for _ in range(79):  # at 1,250 bytes a second it takes 80 seconds
            phone.send(b"x" * 1250)
            await clock.advance(1)
        assert not phone.transport.written
        phone.send(b"x" * 1250)
        assert phone.transport.written.startswith(b"HTTP/1.1 200 ")

    on_a_clock(run)


@pytest.mark.parametrize(("first", "each", "cut_within"), [(0, 0, 61), (0, 1, 61), (90_000, 0, 63), (90_000, 1, 63)])
def test_an_upload_that_does_not_go_on_is_cut(first: int, each: int, cut_within: int) -> None:
    """Silent, a byte now and then, and either after a good start."""

    async def run(clock: Clock) -> None:
        wire = Wire(limits=SLOW)
        wire.send(HEAD + b"Content-Length: 100000\r\n\r\n" + b"x" * first)
        for second in range(cut_within):
            assert not (wire.transport.closed and second < 58)
            wire.send(b"x" * each)
            await clock.advance(1)
        assert wire.transport.written.startswith(b"HTTP/1.1 408 ")
        assert b"nor at 10,000 bytes a second" in wire.transport.written
        assert wire.edge.bodies.used == 0
        assert not wire.edge.bodies.arriving

    on_a_clock(run)


@given(st.lists(st.sampled_from([1, 2, 100, 3000, 5000, 20_000]), max_size=40))
def test_the_budget_counts_what_a_body_holds_and_what_holds_it(sizes: list[int]) -> None:
    body = Body(None, 10**7)
    for size in sizes:
        body.take(b"%x\r\n%b\r\n" % (size, b"x" * size))
    assert body.received == sum(sizes)
    held = sum(map(sys.getsizeof, body._pieces)) + len(body._small)
    assert body.received <= body.held
    assert held - 64 <= body.held <= body.received * 1.05 + 200
