"""Who gets a connection, and who loses one, when all of a worker's are taken."""

from dataclasses import replace

import pytest

from serving.edge import places
from serving.edge.connection import PLACE_EVERY, PLACE_SECONDS, PROBE_SECONDS
from serving.edge.places import GRACE_SECONDS, SPARE_PLACES, Places, peer_of
from tests.fixtures.wire import LIMITS, Clock, Transport, Wire, on_a_clock

GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
POST = b"POST /classify HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n"
FEW = replace(LIMITS, connections=4)
ATTACKER, HONEST = "6.6.6.6", "1.1.1.1"


def full(sent: bytes, peer: str = ATTACKER) -> list[Wire]:
    """As many connections as there may be, on each of which `sent` has come."""
    wires = [Wire(limits=FEW, peer=peer)]
    wires += [Wire(beside=wires[0], peer=peer) for _ in range(FEW.connections - 1)]
    for wire in wires:
        wire.send(sent)
    return wires


@pytest.mark.parametrize("sent", [b"", GET[:10], POST, POST + b"abc", GET])
def test_a_connection_that_waits_for_its_client_makes_room_the_longest_so_first(sent: bytes) -> None:
    async def run(clock: Clock) -> None:
        held = full(sent)
        await clock.advance(2)
        new = Wire(beside=held[0], peer=ATTACKER)  # one proxy, or a test on one machine: the same peer
        new.send(GET)
        assert new.transport.written.startswith(b"HTTP/1.1 200 ")
        assert [wire.transport.closed for wire in held] == [True, False, False, False]
        assert held[0].transport.written.startswith(b"HTTP/1.1 408 ") or sent in (b"", GET)
        assert new.edge.places.taken == FEW.connections

    on_a_clock(run)


def busy() -> list[Wire]:
    """As many connections as there may be, none of which can give way: their answers are due."""
    wires = [Wire(limits=FEW, peer=ATTACKER)]
    wires[0].answers_later = True
    wires += [Wire(beside=wires[0], peer=ATTACKER) for _ in range(FEW.connections - 1)]
    for wire in wires:
        wire.send(GET)
    wires[0].answers_later = False
    return wires


def test_only_a_probe_is_answered_while_no_connection_can_give_way() -> None:
    async def run(clock: Clock) -> None:
        held = busy()
        probe, upload, other = (Wire(beside=held[0], peer=ATTACKER) for _ in range(3))
        probe.edge.router.probe = True  # type: ignore[attr-defined]
        probe.send(GET)
        probe.edge.router.probe = False  # type: ignore[attr-defined]
        upload.send(POST)
        other.send(GET)
        assert probe.transport.written.startswith(b"HTTP/1.1 200 ")
        for waiting in (upload, other):
            assert not waiting.transport.written
        await clock.advance(PLACE_SECONDS + 0.1)
        for refused in (upload, other):
            assert refused.transport.written.startswith(b"HTTP/1.1 503 ")
        for wire in (probe, upload, other):
            assert b"connection: close\r\n" in wire.transport.written
            assert wire.transport.closed
        assert not any(wire.transport.closed for wire in held)

    on_a_clock(run)


@pytest.mark.parametrize("pieces", [1, 3])
def test_a_request_waits_for_a_place_and_keeps_it(pieces: int) -> None:
    sent = POST + b"a" * 1000 + GET
    size = -(-len(sent) // pieces)

    async def run(clock: Clock) -> None:
        held = busy()
        new = Wire(beside=held[0], peer=HONEST)
        for start in range(0, len(sent), size):
            new.send(sent[start : start + size])
            await clock.advance(PLACE_EVERY)
        assert not new.transport.written
        held[0].answer_now()  # all are idle now
        await clock.advance(GRACE_SECONDS)
        await clock.advance(PLACE_EVERY)
        assert new.transport.written.count(b"HTTP/1.1 200 ") == 2
        assert [len(seen.body) for seen in held[0].seen[-2:]] == [1000, 0]
        assert not new.transport.closed
        assert not new.transport.paused
        assert [wire.transport.closed for wire in held] == [True, False, False, False]
        places = new.edge.places
        assert (places.taken, len(places._spare)) == (FEW.connections, 0)
        await clock.advance(PLACE_SECONDS)
        new.send(GET)
        assert new.transport.written.count(b"HTTP/1.1 200 ") == 3

    on_a_clock(run)


def test_nobody_is_left_of_a_client_that_went_while_it_waited() -> None:
    async def run(clock: Clock) -> None:
        held = busy()
        gone, refused = (Wire(beside=held[0], peer=HONEST) for _ in range(2))
        gone.send(GET)
        gone.end()
        refused.edge.router.refuse = 404  # type: ignore[attr-defined]
        refused.send(GET)
        assert refused.transport.written.startswith(b"HTTP/1.1 404 ")
        assert refused.transport.closed
        refused.end()
        held[0].answer_now()
        seen = len(held[0].seen)
        await clock.advance(GRACE_SECONDS + PLACE_SECONDS)
        assert len(held[0].seen) == seen
        assert not held[0].edge.places._spare

    on_a_clock(run)


def test_a_spare_place_is_kept_for_a_moment_only() -> None:
    async def run(clock: Clock) -> None:
        held = full(GET[:10])
        silent = Wire(beside=held[0])
        await clock.advance(PROBE_SECONDS + 0.1)
        assert silent.transport.written.startswith(b"HTTP/1.1 503 ")
        assert silent.transport.closed
        held = full(GET[:10])
        spare = [Wire(beside=held[0]) for _ in range(SPARE_PLACES + 3)]
        assert [wire.transport.closed for wire in spare] == [True] * 3 + [False] * SPARE_PLACES

    on_a_clock(run)


def test_the_peer_with_the_most_unproductive_connections_loses_one() -> None:
    async def run(clock: Clock) -> None:
        honest = Wire(limits=FEW, peer=HONEST)  # idle for the longest, but alone
        honest.send(GET)
        await clock.advance(5)
        held = [Wire(beside=honest, peer=ATTACKER) for _ in range(3)]
        for wire in held:
            wire.send(POST)
        await clock.advance(2)
        new = Wire(beside=honest, peer="2.2.2.2")
        new.send(GET)
        assert new.transport.written.startswith(b"HTTP/1.1 200 ")
        assert [wire.transport.closed for wire in (honest, *held)] == [False, True, False, False]

    on_a_clock(run)


def test_an_upload_that_goes_on_keeps_its_place_and_a_trickle_does_not() -> None:
    async def run(clock: Clock) -> None:
        trickle = Wire(limits=FEW)
        others = [Wire(beside=trickle) for _ in range(3)]
        for wire in (trickle, *others):
            wire.send(POST.replace(b"1000", b"100000"))
        for _ in range(30):
            await clock.advance(0.2)
            trickle.send(b"x")
            for wire in others:
                wire.send(b"x" * 3000)
        Wire(beside=trickle)
        assert [wire.transport.closed for wire in (trickle, *others)] == [True, False, False, False]

    on_a_clock(run)


def test_a_request_whose_answer_is_due_never_loses_its_place() -> None:
    async def run(clock: Clock) -> None:
        first = Wire(limits=replace(LIMITS, connections=1))
        first.answers_later = True
        first.send(GET)
        await clock.advance(5)
        new = Wire(beside=first)
        new.send(GET)
        await clock.advance(PLACE_SECONDS)
        assert new.transport.written.startswith(b"HTTP/1.1 503 ")
        first.answer_now()
        assert first.transport.written.startswith(b"HTTP/1.1 200 ")
        await clock.advance(2)
        assert not Wire(beside=first).connection._place.spare

    on_a_clock(run)


def test_places_are_given_back_and_peers_forgotten() -> None:
    async def run(clock: Clock) -> None:
        wires = full(GET)
        held = wires[0].edge.places
        assert (held.taken, len(held._peers)) == (4, 1)
        for wire in wires:
            wire.end()
            wire.end()
        assert (held.taken, len(held._peers), len(held._spare)) == (0, 0, 0)

    on_a_clock(run)


class Held:
    """A connection that gives way."""

    def give_up_place(self) -> None: ...
    def refuse_full(self) -> None: ...


def test_a_flood_of_connections_looks_at_one_connection_a_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    looked = 0

    class Looked(places.Place):
        """Counts how often a waiting connection is looked at."""

        @property
        def since(self) -> float:
            nonlocal looked
            looked += 1
            return self._since

        @since.setter
        def since(self, value: float) -> None:
            self._since = value

    monkeypatch.setattr(places, "Place", Looked)
    all_of_them = Places(1000)
    for number in range(1000):
        all_of_them.enter(Held(), f"10.0.0.{number % 3}", 0.0).wait(0.0)
    assert looked == 0
    for _ in range(500):
        assert not all_of_them.enter(Held(), "10.0.0.1", 5.0).spare
    assert looked <= 3 * 500


@pytest.mark.parametrize(
    ("address", "peer"),
    [
        (("1.2.3.4", 5), "1.2.3.4"),
        (("2001:db8:1:2:3::4", 5, 0, 0), "2001:db8:1:2::/64"),
        (("::ffff:1.2.3.4", 5, 0, 0), "1.2.3.4"),
        (("fe80::1%eth0", 5, 0, 2), "fe80::/64"),
        ("", ""),
        (None, ""),
    ],
)
def test_a_peer_is_an_ipv4_address_or_an_ipv6_network(address: object, peer: str) -> None:
    transport = Transport()
    transport.extra["peername"] = address  # type: ignore[assignment]
    assert peer_of(transport) == peer
