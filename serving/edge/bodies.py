"""The bytes of a request's body, put together from the pieces they arrive in: by a length, or in chunks.

RFC 9112, sections 6 and 7. Time and memory grow with the bytes, however they are cut. Knows no sockets and no routes.
"""

import re

from serving.errors import BodyTooLarge, ClassifyError, InvalidRequest

# How finely a body may be cut into chunks: the first ones as one likes, then by this many bytes on average. A client
# that sends a file line by line makes chunks of some 200 bytes; each costs about a microsecond, whatever it holds.
FREE_CHUNKS = 4096
CHUNK_BYTES = 64
SMALL_PIECE_BYTES = 4096  # smaller pieces of a body are joined as they come
PIECE_OVERHEAD_BYTES = 64  # about what Python holds for one piece beside its bytes
_CHUNK_SIZE = re.compile(rb"([0-9a-fA-F]{1,16})\r\n")
_CHUNK_SIZE_BEGINNING = re.compile(rb"[0-9a-fA-F]{1,16}\r?")


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
        size = len(data) - at
        if size > self._left:
            size = self._left
        self._left -= size
        self.complete = not self._left
        if self._limit and size >= SMALL_PIECE_BYTES and not self._small:  # as nearly always
            self._pieces.append(data[at : at + size])
            self.received += size
            self.held += size + PIECE_OVERHEAD_BYTES
        else:
            self._keep(data[at : at + size] if self._limit else b"", size)
        return at + size

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
            if self._small:
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
