"""What connections share: the idle list, the budget of bodies, and what is refused when it is used up."""

import time

import pytest

from serving.edge.worker import Budget, default_limit
from serving.errors import Overloaded
from tests.fixtures.wire import LIMITS, Wire, on_a_loop

GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
HEAD = b"POST /classify HTTP/1.1\r\nHost: a\r\n"


def test_the_budget_is_taken_and_given_back() -> None:
    budget = Budget(100)
    budget.reserve(60)
    with pytest.raises(Overloaded, match="no room for a body of 60 bytes beside 60 of others; the limit is 100"):
        budget.reserve(60)
    budget.release(60)
    budget.reserve(100)


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


def test_the_longest_idle_connection_makes_room_unless_it_has_only_just_become_so() -> None:
    def run() -> None:
        wire = Wire(limits=LIMITS)
        wire.send(GET)
        assert list(wire.edge.idle) == [wire.connection]
        assert not wire.edge.make_room()
        wire.connection._idle_since -= 2  # as if it had been idle for two seconds
        assert wire.edge.make_room()
        assert wire.transport.closed
        assert not wire.edge.idle

    on_a_loop(run)


def test_a_connection_with_a_request_is_never_closed_to_make_room() -> None:
    def run() -> None:
        wire = Wire()
        wire.send(GET[:10])
        assert not wire.edge.idle
        assert not wire.edge.make_room()
        time.sleep(0)

    on_a_loop(run)
