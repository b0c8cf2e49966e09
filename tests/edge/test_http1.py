"""Heads, bodies and answers as bytes: what is read, and what is refused with which reason."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.edge import http1
from serving.edge.bodies import Body
from serving.edge.http1 import Beginning, Request, parse_head
from serving.errors import BodyTooLarge, InvalidRequest


def read(head: bytes) -> Request:
    return parse_head(head[: head.index(b"\r\n\r\n") + 4])


def check_beginning(data: bytes) -> None:
    Beginning().add(data)


def test_a_head_is_read() -> None:
    request = read(b"POST /classify?top_k=2 HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nX-A:  b \r\n\r\nhello")
    assert (request.method, request.path, request.query, request.length) == (b"POST", b"/classify", b"top_k=2", 5)
    assert request.header(b"x-a") == "b"
    assert not request.close
    assert not request.expects_continue


@pytest.mark.parametrize(
    ("lines", "close"),
    [
        (b"HTTP/1.1\r\nHost: a", False),
        (b"HTTP/1.1\r\nHost: a\r\nConnection: close", True),
        (b"HTTP/1.1\r\nHost: a\r\nConnection: Upgrade, Close", True),
        (b"HTTP/1.1\r\nHost: a\r\nConnection: x\r\nConnection: close", True),
        (b"HTTP/1.0", True),
        (b"HTTP/1.0\r\nConnection: Keep-Alive", False),
    ],
)
def test_the_connection_goes_on_as_both_sides_must_understand_it(lines: bytes, close: bool) -> None:
    assert read(b"GET / " + lines + b"\r\n\r\n").close is close


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "needs a Host"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", "only once"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n", "only once"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nContent-Length: one\r\n\r\n", "number of bytes"),
        (b"GET / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: gzip\r\n\r\n", "chunked"),
        (b"GET / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", "Transfer-Encoding goes with"),
        (b"GET here HTTP/1.1\r\nHost: a\r\n\r\n", "starts with /"),
        (b"CONNECT a:80 HTTP/1.1\r\nHost: a\r\n\r\n", "not known here"),
        (b"PRI * HTTP/2.0\r\n\r\n", "HTTP/2"),
    ],
)
def test_what_is_not_certain_is_refused_with_the_reason(sent: bytes, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        read(sent)


@pytest.mark.parametrize(("sent", "told"), [(b"\x16\x03\x01", "TLS"), (b"SSH-2.0", "SSH"), (b"\0", "no valid")])
def test_another_protocol_is_named_before_its_end_comes(sent: bytes, told: str) -> None:
    with pytest.raises(InvalidRequest, match=told):
        check_beginning(sent)


@pytest.mark.parametrize(
    "lines", [b"Host: a\n", b"Host: a\n\r\n1", b"Host: a\rX: y", b"Host: a\r\n\nGET", b"Host: a\r\r"]
)
def test_a_line_end_of_one_byte_is_refused_before_the_heads_end_comes(lines: bytes) -> None:
    with pytest.raises(InvalidRequest, match="no valid HTTP"):
        check_beginning(b"GET / HTTP/1.1\r\n" + lines)


@given(st.integers(0, 60))
def test_every_beginning_of_a_good_head_may_go_on(size: int) -> None:
    check_beginning(b"\r\nPOST /classify?model=a HTTP/1.1\r\nHost: a\r\nX: y\r\n"[:size])


@given(st.binary(max_size=200), st.integers(1, 50), st.binary(max_size=20))
def test_a_chunked_body_is_put_together_however_it_is_cut(content: bytes, step: int, behind: bytes) -> None:
    pieces = [content[i : i + step] for i in range(0, len(content), step)]
    sent = b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in pieces) + b"0\r\n\r\n" + behind
    for size in (1, 7, len(sent)):
        body, rest = Body(None, 1000), sent
        left = b""
        while rest and not body.complete:
            left = rest[body.take(rest[:size]) : size]
            rest = rest[size:]
        assert body.complete
        assert (body.joined(), left + rest) == (content, behind)


def test_a_chunk_that_announces_too_much_is_refused_before_it_comes() -> None:
    body = Body(None, 100)
    body.take(b"40\r\n" + b"x" * 64 + b"\r\n")
    with pytest.raises(BodyTooLarge, match="more than the limit of 100 bytes"):
        body.take(b"40\r\n")


@pytest.mark.parametrize("sent", [b"5;a=b\r\nhello\r\n", b"0\r\nX: y\r\n\r\n", b"2\r\nhello", b"5\nhello", b" 5\r\n"])
def test_extensions_trailers_and_lies_in_chunks_are_refused(sent: bytes) -> None:
    with pytest.raises(InvalidRequest):
        Body(None, 100).take(sent)


def test_requests_with_the_same_head_share_what_it_says_and_nothing_else() -> None:
    head = b"POST /classify?top_k=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\n"
    one, other = parse_head(head), parse_head(head)
    assert one.fields is other.fields
    assert one.request_id != other.request_id
    one.close, one.label = True, "/classify"
    assert not other.close
    assert (other.label, other.length, other.query) == ("", 5, b"top_k=1")


def test_a_client_cannot_fill_the_memory_with_heads() -> None:
    kept = http1._parse_again_and_again
    before = kept.cache_info().currsize
    long = b"GET / HTTP/1.1\r\nHost: x\r\nX-Long: " + b"a" * http1.CACHED_HEAD_BYTES + b"\r\n\r\n"
    parse_head(long)
    with pytest.raises(InvalidRequest):
        parse_head(b"BREW /pot HTTP/1.1\r\nHost: x\r\n\r\n")
    assert kept.cache_info().currsize == before
    for i in range(2000):
        head = b"GET /%d HTTP/1.1\r\nHost: x\r\n\r\n" % i
        parse_head(head)
    assert kept.cache_info().currsize <= 1024
