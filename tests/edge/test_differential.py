"""Our reading of HTTP/1.1 beside h11's: a seeded corpus of heads and bodies, whole and in pieces.

Both must see the same requests with the same bodies, or ours refuses and closes. What only we took would be a request
that a proxy in front never saw.
"""

import random

import h11
import pytest

from tests.fixtures.wire import Seen, Wire, on_a_loop

CASES = 3000
METHODS = (b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"CONNECT", b"get", b"P\0ST", b"HACK")
TARGETS = (b"/classify", b"/models?x=1", b"*", b"http://other/path", b"/a b", b"/\xff", b"", b"/" + b"a" * 300, b"a:80")
VERSIONS = (b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b"HTTP/1.1 ", b"HTTP/11", b"http/1.1", b"")
ENDS = (b"\r\n", b"\n", b"\r", b"\r\r\n", b"\n\r\n", b" \r\n")
SMUGGLED = b"GET /smuggled HTTP/1.1\r\nHost: a\r\n\r\n"
FIELDS = (
    b"Content-Length: %d",
    b"content-length:%d",
    b"Content-Length:  %d ",
    b"Content-Length : %d",
    b"Content-Length: +%d",
    b"Content-Length: -%d",
    b"Content-Length: 0%d",
    b"Content-Length: %d, %d",
    b"Content-Length: 0x%d",
    b"Content-Length: %d\r\nContent-Length: %d",
    b"Content-Length: %d\r\nContent-Length: 1",
    b"Content-Length: 99999999999999999999999%d",
    b"Content_Length: %d",
    b"Content-Length\t: %d",
    b"Content-Length: %d\x0b",
    b"Transfer-Encoding: chunked",
    b"transfer-encoding: CHUNKED",
    b"Transfer-Encoding: chunked\r\nContent-Length: %d",
    b"Content-Length: %d\r\nTransfer-Encoding: chunked",
    b"Transfer-Encoding : chunked",
    b"Transfer-Encoding: gzip, chunked",
    b"Transfer-Encoding: chunked, chunked",
    b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity",
    b"Transfer-Encoding: identity",
    b"Transfer-Encoding: xchunked",
    b"Transfer-Encoding:\x0bchunked",
    b'Transfer-Encoding: "chunked"',
    b"Transfer-Encoding:\r\n chunked",
    b"X: y\r\n Transfer-Encoding: chunked",
    b"Upgrade: h2c\r\nConnection: Upgrade, HTTP2-Settings\r\nHTTP2-Settings: AAMAAABk\r\nContent-Length: %d",
    b"Upgrade: websocket\r\nConnection: Upgrade\r\nSec-WebSocket-Version: 13\r\nContent-Length: %d",
    b"Upgrade: websocket\r\nConnection: Upgrade",
    b"Connection: close\r\nContent-Length: %d",
    b"Connection: keep-alive\r\nContent-Length: %d",
    b"Expect: 100-continue\r\nContent-Length: %d",
    b"Host: b\r\nContent-Length: %d",
    b"X: a\0b\r\nContent-Length: %d",
    b"X: \xe9\r\nContent-Length: %d",
    b"X\r\nContent-Length: %d",
    b": x\r\nContent-Length: %d",
    b"",
)


def chunks(rng: random.Random, body: bytes) -> bytes:
    """`body` in chunks, now and then with a fault or a thing that parsers disagree about."""
    sent = b""
    while body:
        size = rng.randint(1, len(body))
        piece, body = body[:size], body[size:]
        line = rng.choice([b"%x", b"%X", b"0%x", b"%x"]) % size
        line += rng.choice([b""] * 12 + [b";a=b", b" ", b";", b"\t", b"_"])
        sent += (
            line + rng.choice([b"\r\n"] * 14 + [b"\n", b"\r"]) + piece + rng.choice([b"\r\n"] * 14 + [b"\n", b"", b"x"])
        )
    last = rng.choice(
        [b"0\r\n\r\n"] * 12 + [b"0\r\nX: y\r\n\r\n", b"0\n\n", b"00\r\n\r\n", b"0;x\r\n\r\n", b"-0\r\n\r\n", b"0\r\n"]
    )
    return sent + last


def request(rng: random.Random) -> bytes:
    """One request, mostly right in all but one thing."""
    odd = rng.randrange(14)
    method = rng.choice(METHODS) if odd == 0 else rng.choice((b"GET", b"POST"))
    target = rng.choice(TARGETS) if odd == 1 else b"/classify"
    version = rng.choice(VERSIONS) if odd == 2 else b"HTTP/1.1"
    host = b"Host: a\r\n" if odd != 3 or rng.random() < 0.7 else b""
    end = rng.choice(ENDS) if odd == 4 else b"\r\n"
    body = rng.choice([b"", b"hello", bytes(rng.randrange(256) for _ in range(rng.randrange(40))), SMUGGLED])
    field = rng.choice(FIELDS) if 5 <= odd <= 8 else rng.choice((b"Content-Length: %d", b"Transfer-Encoding: chunked"))
    length = len(body) if rng.random() < 0.9 else rng.randrange(60)
    field = field.replace(b"%d", b"%d" % length)
    if b"chunked" in field.lower():
        body = chunks(rng, body) if rng.random() < 0.9 else body
    elif b"length" not in field.lower():
        body = b""
    blank = b" " if rng.random() < 0.97 else rng.choice((b"  ", b"\t"))
    return method + blank + target + blank + version + end + host + (field + end if field else b"") + end + body


def corpus() -> list[bytes]:
    rng = random.Random(9112)
    return [b"".join(request(rng) for _ in range(rng.choice((1, 1, 2, 3)))) for _ in range(CASES)]


def by_h11(data: bytes) -> tuple[list[Seen], bool]:
    """The complete requests that h11 finds, and whether it refused what followed."""
    seen: list[Seen] = []
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=10**6)
    connection.receive_data(data)
    head, body = None, b""
    while True:
        try:
            event = connection.next_event()
        except h11.RemoteProtocolError:
            return seen, True
        if event is h11.NEED_DATA or (event is h11.PAUSED and connection.their_state is not h11.DONE):
            return seen, False
        if isinstance(event, h11.Request):
            head, body = event, b""
        elif isinstance(event, h11.Data):
            body += bytes(event.data)
        elif isinstance(event, h11.EndOfMessage):
            assert head is not None
            seen.append(Seen(bytes(head.method), bytes(head.target), body))
            if connection.our_state is h11.SEND_RESPONSE:
                connection.send(h11.Response(status_code=404, headers=[("content-length", "0")]))
                connection.send(h11.EndOfMessage())
            if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                return seen, False  # closed, as the client or the version wants
            connection.start_next_cycle()
        elif isinstance(event, h11.ConnectionClosed) or event is h11.PAUSED:
            return seen, False


def by_us(pieces: list[bytes]) -> tuple[list[Seen], bool]:
    def run() -> tuple[list[Seen], bool]:
        wire = Wire()
        for piece in pieces:
            wire.send(piece)
        wire.end()
        return wire.seen, b"HTTP/1.1 4" in wire.transport.written and wire.transport.closed

    found: tuple[list[Seen], bool] = on_a_loop(run)
    return found


def compare(data: bytes, pieces: list[bytes]) -> str | None:
    """What is wrong, None if nothing is."""
    theirs, they_refused = by_h11(data)
    ours, refused = by_us(pieces)
    if refused:
        return None if ours == theirs[: len(ours)] else f"before our refusal {ours}, h11 {theirs}"
    if they_refused and len(ours) > len(theirs):
        return f"taken here, refused by h11: {ours[len(theirs) :]}"
    return None if ours == theirs else f"{ours}, h11 {theirs}"


def test_both_see_the_same_requests_or_ours_refuses_and_closes() -> None:
    wrong, agreed, refused = {}, 0, 0
    for data in corpus():
        if fault := compare(data, [data]):
            wrong[data] = fault
        ours, closed = by_us([data])
        agreed += bool(ours)
        refused += closed
    assert not wrong, (len(wrong), list(wrong.items())[:3])
    assert agreed > CASES / 3  # the corpus is not only refused,
    assert refused > CASES / 5  # nor only taken


@pytest.mark.parametrize("seed", range(3))
def test_it_makes_no_difference_where_the_bytes_are_cut(seed: int) -> None:
    rng = random.Random(seed)
    for data in corpus()[seed::6]:
        pieces, rest = [], data
        while rest:
            size = rng.choice((1, 2, 3, rng.randint(1, len(rest))))
            pieces.append(rest[:size])
            rest = rest[size:]
        whole, cut = by_us([data]), by_us(pieces)
        assert cut[0] == whole[0], (data, pieces)
        assert cut[1] == whole[1] or not whole[1], (data, pieces)


def test_nothing_behind_an_upgrade_or_its_body_is_a_request_of_its_own() -> None:
    for upgrade in (b"h2c", b"websocket", b"TLS/1.0"):
        head = b"POST /classify HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: %b\r\n" % upgrade
        sent = head + b"Content-Length: %d\r\n\r\n" % len(SMUGGLED) + SMUGGLED
        assert by_us([sent]) == ([Seen(b"POST", b"/classify", SMUGGLED)], False)
        assert by_us([sent * 2]) == ([Seen(b"POST", b"/classify", SMUGGLED)] * 2, False)
