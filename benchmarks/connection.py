"""One kept-alive HTTP/1 connection over a non-blocking socket: request bytes -> the status of the answer.

Understands just enough of a response to know where it ends. Knows neither time nor what is asked; `open_loop` does.
"""

import socket

PIECE = 16384  # bytes read at once


class Connection:
    """At most one `request` under way, which was due at `due`, a time that only the caller understands."""

    __slots__ = ("_address", "_family", "_received", "_socket", "_unsent", "due", "fd", "request", "used")

    def __init__(self, family: int, address: tuple[str, int]) -> None:
        self._family, self._address = family, address
        self._socket = socket.socket()
        self.request = b""
        self.due = 0.0
        self.connect()

    def connect(self) -> None:
        """Begin anew, without waiting: the request can be sent when the socket can be written to."""
        self._socket.close()
        self._socket = socket.socket(self._family)
        self._socket.setblocking(False)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.connect_ex(self._address)
        self.fd = self._socket.fileno()
        self.used = False  # whether an answer has come over it
        self._unsent: bytes | memoryview = self.request
        self._received = b""

    def post(self, request: bytes, due: float) -> None:
        self.request = self._unsent = request
        self.due = due

    def write(self) -> bool:
        """Send what the socket takes; whether the whole request is out. Raises OSError."""
        try:
            sent = self._socket.send(self._unsent)
        except BlockingIOError:
            return False
        if sent == len(self._unsent):
            return True
        self._unsent = memoryview(self._unsent)[sent:]
        return False

    def read(self) -> int:
        """The answer's status, 0 while it is incomplete. Raises OSError, ValueError if it is none, EOFError."""
        try:
            data = self._socket.recv(PIECE)
        except BlockingIOError:
            return 0
        closed = not data
        if self._received:
            data = self._received + data
        if closed and not data:
            raise EOFError("the connection was closed without an answer")
        status = status_of(data, closed)
        if closed and not status:
            raise ValueError(f"the connection was closed within an answer: {data[:40]!r}")
        self._received = b"" if status else data
        self.used = self.used or status > 0
        return status

    def close(self) -> None:
        self._socket.close()


def status_of(data: bytes, closed: bool = False) -> int:
    """The status code of the response that is all of `data`; 0 while it is incomplete. Raises ValueError if it is none.

    Without a Content-Length and not chunked, a response ends where the connection is `closed`.
    """
    end = data.find(b"\r\n\r\n") + 4
    if end < 4:
        return 0
    head = data[:end].lower()
    if not head.startswith(b"http/1."):
        raise ValueError(f"no response of HTTP/1: {data[:40]!r}")
    if (at := head.find(b"\r\ncontent-length:")) >= 0:
        end += int(head[at + 17 : head.index(b"\r", at + 2)])
    elif b"\r\ntransfer-encoding: chunked" in head:
        end = _end_of_chunks(data, end)
    else:
        end = len(data) if closed else len(data) + 1
    if end < len(data):
        raise ValueError(f"{len(data) - end} bytes more than one response: {data[end : end + 40]!r}")
    return int(head[9:12]) if end == len(data) else 0


def _end_of_chunks(data: bytes, at: int) -> int:
    """Where a chunked body that begins at `at` ends; beyond `data` while it is incomplete. Understands no trailers."""
    while (line := data.find(b"\r\n", at)) >= 0:
        size = int(data[at:line].split(b";")[0], 16)
        at = line + 2 + size + 2
        if size == 0:
            return at
    return len(data) + 1
