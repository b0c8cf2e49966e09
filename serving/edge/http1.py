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

from serving.errors import ClassifyError, HeadersTooLarge, InvalidRequest, MethodNotAllowed, Unauthorized

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

    def abandon(self) -> bool:
        """Nobody waits for the answer any more: what it waits for need not be computed. False if it was given."""
        connection, self.connection = self.connection, None
        pending, self.pending = self.pending, None
        if pending is not None:
            pending.cancelled = True
        return connection is not None

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


class Heads:
    """The heads of one connection, each of at most `limit` bytes."""

    def __init__(self, limit: int):
        self._limit = limit
        self._beginning: Beginning | None = None  # of one that has not arrived whole

    def take(self, data: bytes, at: int) -> tuple["Request | None", bytes, int]:
        """The request whose head ends in `data`, None if none does; and the bytes to go on with, and where. Raises
        HeadersTooLarge or InvalidRequest."""
        beginning = self._beginning
        end = data.find(END, at) if beginning is None else -1
        if end < 0:
            # What came before is kept: a head in many pieces is neither copied nor searched again.
            if beginning is None:
                beginning = self._beginning = Beginning()
            end = beginning.add(data[at:] if at else data)
            if end < 0:
                self._check_size(len(beginning.data))
                return None, data, len(data)
            data, at = bytes(beginning.data), 0
            self._beginning = None
        if end - at + len(END) > self._limit:
            self._check_size(end - at)
        if end == at:  # an empty head: version 2 of the PROXY protocol begins so
            raise InvalidRequest(why_invalid(data[at:]))
        return parse_head(data[at : end + len(END)]), data, end + len(END)

    def forget(self) -> None:
        """What has arrived of a head, for good."""
        self._beginning = None

    def _check_size(self, size: int) -> None:
        if size + len(END) > self._limit:
            raise HeadersTooLarge(f"the request line and headers exceed the limit of {self._limit:,} bytes")


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


# Responses

JSON: Headers = (("content-type", "application/json"), ("x-content-type-options", "nosniff"))

VARY: Headers = (("vary", "accept"),)  # of an address at which browsers get something else


# Made once: json.dumps would make one for each answer.
write_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode


def json_response(content: Any, status: int = 200, headers: Headers = ()) -> Response:
    body = write_json(content).encode()
    return Response(status, body, JSON + headers)


def failure(err: ClassifyError) -> Response:
    """As this project's own protocol writes what went wrong."""
    return _failure(err.status, failure_headers(err), tuple(failure_content(err).items()))


def failure_content(err: ClassifyError) -> dict[str, str]:
    return {"error": str(err), "code": err.code}


def failure_headers(err: ClassifyError) -> Headers:
    """What HTTP asks for beside a status: how to authenticate, which methods there are, when to come again."""
    if isinstance(err, Unauthorized):
        return (("www-authenticate", "Bearer"),)
    if isinstance(err, MethodNotAllowed):
        return (("allow", err.allowed),)
    return () if err.retry_after is None else (("retry-after", str(err.retry_after)),)


@functools.lru_cache(64)  # under overload thousands a second, in the same few words: what refusing costs is goodput
def _failure(status: int, headers: Headers, content: tuple[tuple[str, Any], ...]) -> Response:
    return json_response(dict(content), status, headers)


def head_lines(status: int, headers: Headers) -> bytes:
    """The status line and `headers`; the length and the empty line follow."""
    lines = [f"HTTP/1.1 {status} {_PHRASES.get(status, '')}\r\n", *(f"{name}: {value}\r\n" for name, value in headers)]
    return "".join(lines).encode("latin-1")


_PHRASES = {status.value: status.phrase for status in HTTPStatus}
