"""The work of reading requests grows with their bytes, however they are cut: into chunks, reads, heads or requests.

Work is counted (bytes copied, bytes looked at, calls), so these hold on any machine. Each was once quadratic.
"""

import random
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.edge.bodies import CHUNK_BYTES, FREE_CHUNKS, Body
from serving.edge.connection import DROP_RATE, DROPPED_AT_ONCE, MAX_PIPELINED
from serving.edge.states import DROPPING, LINGERING
from serving.errors import InvalidRequest
from tests.fixtures.wire import LIMITS, Clock, Wire, on_a_clock, on_a_loop
from tests.fixtures.work import Work

HEAD = b"POST /classify HTTP/1.1\r\nHost: a\r\n"
CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
GET = b"GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"
PER_READ = 60  # calls of one read, whatever it brings
PER_BYTE = 12  # bytes copied or looked at, and calls, for each byte of the smallest chunks


def work_of(sent: bytes, size: int, wire: Wire | None = None) -> Work:
    """What the edge does with `sent` in reads of `size` bytes."""

    def run() -> Work:
        at = wire or Wire()
        work = Work()
        pieces = [work.of(sent[i : i + size]) for i in range(0, len(sent), size)]
        with work.counting():
            for piece in pieces:
                at.send(piece)
        return work

    done: Work = on_a_loop(run)
    return done


def chunks(count: int, size: int = 1) -> bytes:
    return (b"%x\r\n%b\r\n" % (size, b"a" * size)) * count


BODIES = {
    "chunks of one byte": lambda count: CHUNKED + chunks(count),
    "chunks of 64 bytes": lambda count: CHUNKED + chunks(count // 12, 64),
    "one chunk": lambda count: CHUNKED + b"%x\r\n" % (6 * count) + b"a" * 6 * count + b"\r\n",
    "a length": lambda count: HEAD + b"Content-Length: %d\r\n\r\n" % (6 * count) + b"a" * 6 * count,
    "a long target": lambda count: b"GET /" + b"a" * count,
    "a long field": lambda count: HEAD + b"X: " + b"a" * count,
    "many fields": lambda count: HEAD + b"a: b\r\n" * (count // 6),
    "requests": lambda count: GET * (count // 6),
}


@pytest.mark.parametrize("kind", BODIES)
@pytest.mark.parametrize("size", [1, 7, 1000, 1 << 20])
def test_twice_the_bytes_are_at_most_twice_the_work(kind: str, size: int) -> None:
    count = 600
    make: Callable[[int], bytes] = BODIES[kind]
    once, twice = work_of(make(count), size), work_of(make(2 * count), size)
    assert twice.total <= 2.2 * once.total + 100, f"{once}; with twice the bytes {twice}"
    sent = len(make(2 * count))
    assert twice.total <= PER_BYTE * sent + PER_READ * (sent / size + 1), f"{sent:,} bytes: {twice}"


@pytest.mark.parametrize("status", [b"200", b"413", b"401", b"404"])
def test_a_refused_body_is_dropped_as_cheaply(status: bytes) -> None:
    sent = CHUNKED + chunks(3000)
    wires: list[Wire] = []

    def run() -> Wire:
        wire = Wire()
        wire.edge.router.refuse = int(status)  # type: ignore[attr-defined]
        return wire

    def work() -> Work:
        wires.append(run())
        done = Work()
        with done.counting():
            wires[-1].send(done.of(sent))
        return done

    done: Work = on_a_loop(work)
    assert done.total <= PER_BYTE * len(sent) + PER_READ
    if status != b"200":
        assert wires[0].transport.written.startswith(b"HTTP/1.1 " + status)
        assert done.copied < len(sent) / 10 + 200  # nothing is kept of it


def test_a_body_in_too_many_chunks_is_refused_with_the_reason() -> None:
    def run() -> None:
        wire = Wire()
        wire.send(CHUNKED + chunks(FREE_CHUNKS))
        assert not wire.transport.written
        wire.send(chunks(80))
        answer = wire.transport.written
        assert answer.startswith(b"HTTP/1.1 400 ")
        assert b"the body comes in too many chunks: 4,162 for 4,161 bytes" in answer
        assert b"they must hold 64 bytes on average" in answer
        assert wire.edge.bodies.used == 0

    on_a_loop(run)


def test_a_dropped_body_in_too_many_chunks_ends_the_connection() -> None:
    def run() -> None:
        wire = Wire()
        wire.edge.router.refuse = 404  # type: ignore[attr-defined]
        wire.send(CHUNKED + chunks(FREE_CHUNKS))
        assert wire.connection._state is DROPPING
        wire.send(chunks(200))
        assert wire.transport.closed
        assert wire.transport.written.count(b"HTTP/1.1") == 1

    on_a_loop(run)


@pytest.mark.parametrize("status", [404, 413])
@pytest.mark.parametrize("ending", ["the body goes on", "the connection ends"])
def test_what_nobody_takes_is_read_at_a_bounded_rate(status: int, ending: str) -> None:
    length = b"Content-Length: %d\r\n\r\n" % 10**9
    closes = b"Connection: close\r\n" if ending == "the connection ends" else b""

    async def run(clock: Clock) -> None:
        wire = Wire()
        wire.edge.router.refuse = status  # type: ignore[attr-defined]
        wire.send(HEAD + closes + length)
        assert wire.connection._state is (LINGERING if closes else DROPPING)
        for _ in range(20):
            read = 0
            while not wire.transport.paused:
                wire.connection.data_received(b"a" * 65_536)
                read += 65_536
            assert read == DROPPED_AT_ONCE
            await clock.advance(DROPPED_AT_ONCE / DROP_RATE)
            assert not wire.transport.paused

    on_a_clock(run)


@given(st.integers(CHUNK_BYTES, 300), st.integers(50, 5000))
@settings(max_examples=10, deadline=None)
def test_chunks_of_a_line_each_are_always_taken(size: int, step: int) -> None:
    body, sent = Body(None, 10**7), chunks(5000, size) + b"0\r\n\r\n"
    for at in range(0, len(sent), step):
        body.take(sent[at : at + step])
    assert body.complete
    assert body.received == 5000 * size


def test_the_smallest_chunks_hold_no_more_memory_than_large_ones() -> None:
    body = Body(None, 10**7)
    for _ in range(40):
        body.take(chunks(100))
    assert len(body._pieces) <= 1
    assert body.held <= body.received + 200
    with pytest.raises(InvalidRequest, match="too many chunks"):
        body.take(chunks(1000))


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_cut_of_any_requests_is_linear(data: st.DataObject) -> None:
    kinds = data.draw(st.lists(st.sampled_from(sorted(BODIES)), min_size=1, max_size=4))
    counts = [data.draw(st.integers(1, 300)) for _ in kinds]
    seed = data.draw(st.integers(0, 10**6))
    sent = b"".join(BODIES[kind](count) for kind, count in zip(kinds, counts, strict=True))
    rng = random.Random(seed)

    def run() -> tuple[Work, int]:
        wire, work, at, reads = Wire(), Work(), 0, 0
        with work.counting():
            while at < len(sent):
                size = rng.choice((1, 2, 5, 50, 5000))
                wire.send(work.of(sent[at : at + size]))
                at += size
                reads += 1
        return work, reads

    work, reads = on_a_loop(run)
    assert work.total <= PER_BYTE * len(sent) + PER_READ * (reads + 4), f"{len(sent):,} bytes, {reads} reads: {work}"


# Pipelining


def test_pipelined_requests_are_all_answered_a_few_at_a_time() -> None:
    async def run(clock: Clock) -> None:
        wire = Wire()
        wire.send(GET * 100)
        assert len(wire.seen) == MAX_PIPELINED
        assert wire.transport.paused  # nothing more is read meanwhile
        for _ in range(10):
            await clock.turn()
        assert len(wire.seen) == 100
        assert wire.transport.written.count(b"HTTP/1.1 200") == 100
        assert not wire.transport.paused

    on_a_clock(run)


def test_what_waits_behind_an_answer_is_one_read() -> None:
    def run() -> None:
        wire = Wire()
        wire.answers_later = True
        wire.send(GET)
        wire.send(GET * 3)
        assert wire.transport.paused
        assert len(wire.seen) == 1
        wire.answer_now()
        wire.answer_now()
        wire.answers_later = False
        wire.answer_now()
        assert len(wire.seen) == 4
        assert not wire.transport.paused

    on_a_loop(run)


def test_an_answer_given_within_the_handler_starts_no_second_loop() -> None:
    """A thousand requests, each answered by `respond` before its handler returns: no stack grows with them."""

    async def run(clock: Clock) -> None:
        wire = Wire()
        wire.answers_within = True
        wire.send(GET * 1000)
        for _ in range(100):
            await clock.turn()
        assert len(wire.seen) == 1000
        assert len(set(wire.depths)) <= 2  # from the read, and from the turns after it

    on_a_clock(run)


# Half-closed clients


@pytest.mark.parametrize("behind", [b"", GET])
def test_a_half_closed_client_gets_what_is_due(behind: bytes) -> None:
    def run() -> None:
        wire = Wire()
        wire.answers_later = True
        wire.send(GET + behind)
        wire.half_close()
        assert not wire.transport.closed
        wire.answer_now()
        wire.answer_now()
        assert wire.transport.written.count(b"HTTP/1.1 200 ") == len(wire.seen) == 1 + bool(behind)
        assert wire.transport.closed

    on_a_loop(run)


@pytest.mark.parametrize("sent", [b"", GET[:9], HEAD + b"Content-Length: 9\r\n\r\nabc", GET + GET[:9]])
def test_a_half_closed_client_with_nothing_due_is_closed(sent: bytes) -> None:
    def run() -> None:
        wire = Wire()
        wire.send(sent)
        wire.half_close()
        assert wire.transport.closed

    on_a_loop(run)


def test_clients_that_have_gone_are_not_all_kept() -> None:
    """A closed connection looks like a half-closed one; of many the first few are kept."""

    def run() -> None:
        wires = [Wire()]
        wires += [Wire(beside=wires[0]) for _ in range(9)]
        for wire in wires:
            wire.answers_later = True
            wire.send(GET)
            wire.half_close()
        assert [wire.transport.closed for wire in wires] == [False] * 4 + [True] * 6
        wires[0].end()
        late = Wire(beside=wires[0])
        late.answers_later = True
        late.send(GET)
        late.half_close()
        assert not late.transport.closed

    on_a_loop(run)


def test_over_tls_a_half_closed_client_is_closed() -> None:
    def run() -> None:
        wire = Wire()
        wire.transport.extra["sslcontext"] = object()
        wire.answers_later = True
        wire.send(GET)
        wire.half_close()
        assert wire.transport.closed

    on_a_loop(run)


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n" + GET, "the PROXY protocol, version 1"),
        (b"\r\n\r\n\0\r\nQUIT\n\x21\x11\0\x0c" + b"\0" * 12 + GET, "the PROXY protocol, version 2"),
    ],
)
def test_the_proxy_protocol_is_named(sent: bytes, told: str) -> None:
    def run() -> None:
        wire = Wire(limits=LIMITS)
        wire.send(sent)
        assert wire.transport.written.startswith(b"HTTP/1.1 400 ")
        assert told.encode() in wire.transport.written
        assert b"send-proxy" in wire.transport.written

    on_a_loop(run)
