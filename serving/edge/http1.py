"""The bytes of HTTP/1.1 -> requests, and responses -> bytes (RFC 9110 and 9112). No sockets, no routes.

Strict where a proxy could read the same bytes in another way: what is framed in a way that is not certain is refused,
and the connection must then be closed. An offered upgrade is ignored, as RFC 9110, section 7.8 allows.
"""

import functools
import itertools
import json
import re
import secrets
import time
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple, Protocol

from serving.errors import BodyTooLarge, ClassifyError, InvalidRequest

Headers = tuple[tuple[str, str], ...]

_TOKEN = rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+"
_HEAD = re.compile(
    rb"(?:\r\n)?"  # RFC 9112, section 2.2: one empty line before a request is no mistake
    rb"([A-Z]{3,20}) ([!-~]+) HTTP/1\.([01])\r\n"  # the request line: method, target, minor version
    rb"((?:" + _TOKEN + rb":[\t -~\x80-\xff]*\r\n)*)\r\n"  # header lines without folding or control characters
)
_METHOD = re.compile(rb"[A-Z]{3,20} ")
_METHOD_BEGINNING = re.compile(rb"[A-Z]{0,20}")
_LINE_BYTES = re.compile(rb"[!-~ ]*\r?")  # of a request line, so far
_VERSION_BEGINNING = re.compile(rb"[HTP/1.0\r]{0,9}")
_BARE = re.compile(rb"(?<!\r)\n|\r(?!\n|\Z)")  # a line end of one byte: other parsers may find a head's end there
_REQUEST_LINE = re.compile(rb"[A-Z]{3,20} [!-~]+ HTTP/1\.[01]\r\n")
# RFC 9110, section 9.3, RFC 5789 and WebDAV's; CONNECT, which would turn the connection into a tunnel, is not there.
_METHODS = frozenset(
    b"GET HEAD POST PUT DELETE OPTIONS TRACE PATCH PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK SEARCH REPORT".split()
)
_LENGTH = re.compile(rb"[0-9]{1,19}")
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,16})\r\n")
_CHUNK_SIZE_BEGINNING = re.compile(rb"[0-9a-fA-F]{1,16}\r?")
_ONCE = frozenset((b"host", b"content-length", b"transfer-encoding"))  # fields that may not be sent twice
_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
_PROCESS = secrets.token_hex(4)
_numbers = itertools.count(1)  # of the requests of this process
_PROXY = "turn it off where the balancer sends to this service (HAProxy: send-proxy; AWS: proxy_protocol_v2)"
_OTHER_PROTOCOLS: tuple[tuple[bytes, str], ...] = (
    (b"\x16\x03", "a TLS greeting; this port speaks plain HTTP (http://, not https://)"),
    (b"PRI * HTTP/2.0", "HTTP/2 with prior knowledge; this port speaks HTTP/1.1"),
    (b"SSH-", "an SSH greeting"),
    (b"CONNECT ", "CONNECT, and this is no proxy"),
    (b"PROXY ", f"the PROXY protocol, version 1; {_PROXY}"),
    (b"\r\n\r\n\0\r\nQUIT\n", f"the PROXY protocol, version 2; {_PROXY}"),
)
END = b"\r\n\r\n"  # of a head
# How finely a body may be cut into chunks: the first ones as one likes, then by this many bytes on average. A client
# that sends a file line by line makes chunks of some 200 bytes; each costs about a microsecond, whatever it holds.
FREE_CHUNKS = 4096
CHUNK_BYTES = 64
SMALL_PIECE_BYTES = 4096  # smaller pieces of a body are joined as they come
PIECE_OVERHEAD_BYTES = 64  # about what Python holds for one piece beside its bytes
CACHED_HEAD_BYTES = 512  # longer ones are parsed each time: a client must not fill the memory with them


class Answers(Protocol):
    """Where a request came from, and its answer goes."""

    def answer(self, request: "Request", response: "Response", /) -> None: ...


class Cancellable(Protocol):
    cancelled: bool


class Response(NamedTuple):
    """`headers` are without those that every answer has: date, x-request-id, content-length, connection."""

    status: int
    body: bytes
    headers: Headers = ()


class Head(NamedTuple):
    """What a request's head says. Requests with the same bytes share it: nobody changes it."""

    method: bytes
    target: bytes
    minor: bytes  # of HTTP/1: b"0" or b"1"
    fields: Mapping[bytes, bytes]  # names in lower case; of a name that is repeated the first value
    repeated: frozenset[bytes]  # names that were sent more than once
    path: bytes  # still percent-encoded
    query: bytes
    length: int | None  # of the body in bytes; None for a chunked one
    close: bool  # the client wants the connection closed after the answer
    expects_continue: bool


class Request:
    """One request. Its head is complete; `body` is there when its route's handler is called."""

    __slots__ = (
        *Head._fields,
        "body",
        "connection",
        "context",
        "failure",
        "label",
        "parameters",
        "pending",
        "request_id",
        "stages",
        "started",
    )
    method: bytes
    target: bytes
    minor: bytes
    fields: Mapping[bytes, bytes]
    repeated: frozenset[bytes]
    path: bytes
    query: bytes
    length: int | None
    close: bool  # also where what follows is refused
    expects_continue: bool

    def __init__(self, head: Head):
        (
            self.method,
            self.target,
            self.minor,
            self.fields,
            self.repeated,
            self.path,
            self.query,
            self.length,
            self.close,
            self.expects_continue,
        ) = head
        self.body = b""
        self.started = time.perf_counter()
        self.request_id = _request_id(head.fields)
        self.label = ""  # the route in metrics
        self.failure: Callable[[ClassifyError], Response] = failure  # how its protocol writes what went wrong
        self.parameters: dict[str, str] = {}  # of the path
        self.context: Any = None  # what the route's `admit` found out for its handler
        self.pending: Cancellable | None = None  # what the answer waits for; cancelled if the client goes away
        self.stages: Any = ()  # where the time went, for spans
        self.connection: Answers | None = None

    def respond(self, response: Response) -> None:
        """Answer, once; does nothing if the client has gone."""
        connection, self.connection = self.connection, None
        self.pending = None  # it may keep this request: what is in no cycle needs no garbage collector
        if connection is not None:
            connection.answer(self, response)

    def header(self, name: bytes) -> str:
        """The value of a header field, empty if there is none."""
        return self.fields.get(name, b"").decode("latin-1")


def parse_head(head: bytes) -> Request:
    """The request of a whole head, with its empty line. Raises InvalidRequest."""
    return Request(_parse_again_and_again(head) if len(head) <= CACHED_HEAD_BYTES else _parse(head))


def _parse(head: bytes) -> Head:
    match = _HEAD.fullmatch(head)
    if match is None:
        raise InvalidRequest(why_invalid(head))
    method, target, minor, lines = match.groups()
    if method not in _METHODS:
        raise InvalidRequest(f"the method {method.decode()} is not known here")
    fields: dict[bytes, bytes] = {}
    repeated: set[bytes] = set()
    if lines:
        for line in lines[:-2].split(b"\r\n"):
            name, _, value = line.partition(b":")
            name = name.lower()
            if name not in fields:
                fields[name] = value.strip(b" \t")
            else:
                repeated.add(name)
                if name == b"connection":
                    fields[name] += b"," + value
    length, close, expects_continue = _framing(fields, repeated, minor)
    path, query = _path_and_query(target)
    return Head(method, target, minor, fields, frozenset(repeated), path, query, length, close, expects_continue)


# A client sends the same head with each picture, but for the length; one that is refused is not kept.
_parse_again_and_again = functools.lru_cache(1024)(_parse)


def _framing(fields: Mapping[bytes, bytes], repeated: set[bytes], minor: bytes) -> tuple[int | None, bool, bool]:
    """The body's length (RFC 9112, section 6), whether the connection ends after the answer (9.3), and whether the
    client waits for a word before it sends the body (RFC 9110, 10.1.1)."""
    if repeated and not repeated.isdisjoint(_ONCE):
        raise InvalidRequest("Host, Content-Length and Transfer-Encoding may be sent only once")
    if b"host" not in fields and minor == b"1":
        raise InvalidRequest("an HTTP/1.1 request needs a Host")
    coding, given = fields.get(b"transfer-encoding"), fields.get(b"content-length")
    length: int | None = 0
    if coding is not None:
        if given is not None or minor == b"0":
            raise InvalidRequest("Transfer-Encoding goes with HTTP/1.1 and without Content-Length")
        if coding.lower() != b"chunked":
            raise InvalidRequest("the only Transfer-Encoding that is known here is `chunked`")
        length = None
    elif given is not None:
        if not _LENGTH.fullmatch(given):
            raise InvalidRequest("Content-Length must be a number of bytes")
        length = int(given)
    connection = fields.get(b"connection")
    if connection is None:
        close = minor == b"0"
    else:
        options = [option.strip() for option in connection.lower().split(b",")]
        close = b"close" in options or (minor == b"0" and b"keep-alive" not in options)
    return length, close, minor == b"1" and fields.get(b"expect", b"").lower() == b"100-continue"


class Beginning:
    """A head that arrives in pieces. Each byte is looked at once, however small the pieces are."""

    def __init__(self) -> None:
        self.data = bytearray()
        self._seen = 0  # bytes that are known to be sound
        self._line_ended = False  # the request line is whole
        self._target_end = -1  # where the space behind the target stands, once it has come

    def add(self, piece: bytes) -> int:
        """Where the head's end begins in `data`, -1 if that has not come. Raises InvalidRequest if these bytes cannot
        become a request: nobody waits for their rest."""
        self.data += piece
        end = self.data.find(END, max(0, self._seen - len(END) + 1))
        if end < 0:
            self._check()
        self._seen = len(self.data)
        return end

    def _check(self) -> None:
        data = self.data
        if not self._line_ended and data != b"\r":
            start = 2 if data.startswith(b"\r\n") else 0  # one empty line before a request is no mistake
            newline = data.find(b"\n", max(start, self._seen))
            self._line_ended = newline >= 0
            if self._line_ended:
                sound = _REQUEST_LINE.fullmatch(data, start, newline + 1) is not None
            else:
                sound = self._line_may_go_on(start)
            if not sound:
                raise InvalidRequest(why_invalid(data))
        if _BARE.search(data, max(0, self._seen - 1)):
            raise InvalidRequest(why_invalid(data))

    def _line_may_go_on(self, start: int) -> bool:
        """Whether what there is, from `start` on, can become a request line."""
        data, new = self.data, max(start, self._seen)
        method_end = data.find(b" ", start, start + 21)
        if method_end < 0:
            return _METHOD_BEGINNING.fullmatch(data, start) is not None
        if not _METHOD.match(data, start) or not _LINE_BYTES.fullmatch(data, new):
            return False
        target = method_end + 1
        if self._target_end < 0:
            self._target_end = data.find(b" ", max(target, new))
        if self._target_end < 0:
            return not data.endswith(b"\r")
        return self._target_end > target and _VERSION_BEGINNING.fullmatch(data, self._target_end + 1) is not None


def why_invalid(data: bytes | bytearray) -> str:
    """The sentence for bytes that are no request, which names what they are if that is known."""
    for beginning, name in _OTHER_PROTOCOLS:
        if data.startswith(beginning):
            return f"the bytes received are {name}"
    return "the bytes received are no valid HTTP/1.1 request"


def _path_and_query(target: bytes) -> tuple[bytes, bytes]:
    """The target's path, still percent-encoded, and query; an absolute address (RFC 9112, 3.2.2) loses its host."""
    if not target.startswith(b"/"):
        scheme, colon, rest = target.partition(b"://")
        if colon and scheme.lower() in (b"http", b"https"):
            slash = rest.find(b"/")
            target = rest[slash:] if slash >= 0 else b"/"
        elif target != b"*":
            raise InvalidRequest("the request's target must be a path that starts with /")
    path, _, query = target.partition(b"?")
    return path, query


def _request_id(fields: Mapping[bytes, bytes]) -> str:
    """The client's X-Request-Id, if it is harmless, else a new one."""
    given = fields.get(b"x-request-id")
    if given is not None and _ID.fullmatch(given):
        return given.decode()
    return f"{_PROCESS}-{next(_numbers):x}"


class Body:
    """A body that arrives in pieces: `take` them until `complete`. At most `limit` bytes; with a limit of 0 it is read
    and dropped. Time and memory grow with the bytes, not with the chunks or reads they come in."""

    def __init__(self, length: int | None, limit: int):
        self.received = 0  # bytes of the body, without what frames them
        self.held = 0  # bytes of memory that it takes meanwhile
        self.complete = False
        self._limit = limit
        self._pieces: list[bytes] = []
        self._small = bytearray()  # small pieces, joined; they follow the others
        self._chunked = length is None
        self._chunks = 0
        self._left = length or 0  # bytes of the body, or of the chunk at hand with its line end, that are still to come
        self._rest = b""  # of a chunk's size line that has not arrived whole

    def take(self, data: bytes, at: int = 0) -> int:
        """Takes `data` from `at` on, and returns where the body ends in it, or the length of `data`. Raises
        BodyTooLarge, or InvalidRequest where the chunks are not sound or too many."""
        if self._chunked:
            return self._take_chunks(data, at)
        end = min(len(data), at + self._left)
        self._left -= end - at
        self._keep(data[at:end] if self._limit else b"", end - at)
        self.complete = self._left == 0
        return end

    def joined(self) -> bytes:
        """The whole body."""
        self._join_small()
        return self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)

    def _keep(self, piece: bytes, size: int) -> None:
        self.received += size
        if not piece:
            return
        if size < SMALL_PIECE_BYTES:
            self._small += piece
            self.held += size
        else:
            self._join_small()
            self._pieces.append(piece)
            self.held += size + PIECE_OVERHEAD_BYTES

    def _join_small(self) -> None:
        if self._small:
            self._pieces.append(bytes(self._small))
            self._small.clear()
            self.held += PIECE_OVERHEAD_BYTES

    def _take_chunks(self, data: bytes, at: int) -> int:
        """RFC 9112, section 7.1, without chunk extensions and trailers, about which parsers disagree."""
        if self._rest:  # at most one size line: the copy is one of this read's bytes
            before = len(self._rest)
            end = self._take_chunks_of(self._rest + data[at:])
            return max(at, at + end - before)
        return self._take_chunks_of(data, at)

    def _take_chunks_of(self, data: bytes, at: int = 0) -> int:
        self._rest = b""
        size, left = len(data), self._left
        pieces: list[bytes] = []  # of this read
        while at < size:
            if left > 2:  # bytes of a chunk
                end = min(size, at + left - 2)
                left -= end - at
                self.received += end - at
                if self._limit:
                    pieces.append(data[at:end])
                at = end
            elif left:  # the line end behind them
                end = min(size, at + left)
                if data[at:end] != b"\r\n"[2 - left : 2 - left + end - at]:
                    raise InvalidRequest("a chunk of the body is longer than its size says")
                left -= end - at
                at = end
            else:
                line = _CHUNK_SIZE.match(data, at)
                if line is None:
                    if not _CHUNK_SIZE_BEGINNING.fullmatch(data, at):
                        raise InvalidRequest("a chunk of the body has no valid size; extensions are not taken")
                    self._rest = data[at:]
                    at = size
                    break
                length = int(line[1], 16)
                if length == 0:
                    at = self._take_end(data, at, line.end())
                    break
                self._count_chunk()
                if self._limit and self.received + length > self._limit:
                    raise too_large(self._limit)
                at = line.end()
                end = at + length
                if data.startswith(b"\r\n", end):  # the whole chunk is here, as nearly always
                    self.received += length
                    if self._limit:
                        pieces.append(data[at:end])
                    at = end + 2
                else:
                    left = length + 2
        self._left = left
        if pieces:
            piece = b"".join(pieces)
            self.received -= len(piece)
            self._keep(piece, len(piece))
        return at

    def _count_chunk(self) -> None:
        self._chunks += 1
        if self._chunks > FREE_CHUNKS + self.received // CHUNK_BYTES:
            raise InvalidRequest(
                f"the body comes in too many chunks: {self._chunks:,} for {self.received:,} bytes; "
                f"beyond {FREE_CHUNKS:,} they must hold {CHUNK_BYTES} bytes on average"
            )

    def _take_end(self, data: bytes, start: int, at: int) -> int:
        """Behind the size of the last chunk, which begins at `start`."""
        last = data[at : at + 2]
        if not b"\r\n".startswith(last):
            raise InvalidRequest("trailers behind a chunked body are not taken")
        if len(last) < 2:
            self._rest = data[start:]
            return len(data)
        self.complete = True
        return at + 2


def too_large(limit: int, received: str = "") -> ClassifyError:
    what = f"the body has {received} bytes; the limit is" if received else "the body has more than the limit of"
    return BodyTooLarge(f"{what} {limit:,}{'' if received else ' bytes'}")


# Responses

JSON: Headers = (("content-type", "application/json"), ("x-content-type-options", "nosniff"))

VARY: Headers = (("vary", "accept"),)  # of an address at which browsers get something else


def json_response(content: Any, status: int = 200, headers: Headers = ()) -> Response:
    body = json.dumps(content, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    return Response(status, body, JSON + headers)


def failure(err: ClassifyError) -> Response:
    return _failure(err.status, err.headers, tuple(err.body().items()))


@functools.lru_cache(64)  # under overload thousands a second, in the same few words: what refusing costs is goodput
def _failure(status: int, headers: Headers, content: tuple[tuple[str, Any], ...]) -> Response:
    return json_response(dict(content), status, headers)


def head_lines(status: int, headers: Headers) -> bytes:
    """The status line and `headers`; the length and the empty line follow."""
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n", *(f"{name}: {value}\r\n" for name, value in headers)]
    return "".join(lines).encode("latin-1")


_PHRASES = {status.value: status.phrase for status in HTTPStatus}
