"""An AVIF file -> how many pixels its AV1 frames have, which may be more than the file says of itself.

libavif decodes a frame of any size and shrinks it to what the file says: a few hundred bytes would take gigabytes.
Knows boxes and the first fields of AV1, and decodes nothing.
"""

from collections.abc import Iterator

_CONTAINERS = {b"moov", b"trak", b"mdia", b"minf", b"stbl"}  # ISO/IEC 14496-12
_MOST = 10_000  # boxes, extents and OBUs that are looked at; an ordinary file has some dozens
_SEQUENCE_HEADER, _FRAMES = 1, (3, 6)  # AV1, section 6.2.2: obu_type


def largest_frame(data: bytes) -> int:
    """Pixels of the largest frame that an item or a track of the file begins with; 0 where none is found.

    Raises ValueError or IndexError on a damaged file, or one of too many pieces.
    """
    steps = Steps()
    return max((_frame_of(stream, steps) for stream in _streams(memoryview(data), steps)), default=0)


class Steps:
    """Counts what is looked at."""

    def __init__(self) -> None:
        self._taken = 0

    def take(self) -> None:
        self._taken += 1
        if self._taken > _MOST:
            raise ValueError(f"more than {_MOST:,} pieces")


def _boxes(data: memoryview, start: int, end: int, steps: Steps) -> Iterator[tuple[bytes, int, int]]:
    """The kind of each box, where its content begins and where it ends (ISO/IEC 14496-12, section 4.2)."""
    while start + 8 <= end:
        steps.take()
        size, kind, head = int.from_bytes(data[start : start + 4], "big"), bytes(data[start + 4 : start + 8]), 8
        if size == 1:
            size, head = int.from_bytes(data[start + 8 : start + 16], "big"), 16
        behind = end if size == 0 else min(end, start + size)
        if behind < start + head:
            return
        if kind in _CONTAINERS:
            yield from _boxes(data, start + head, behind, steps)
        elif kind == b"meta":
            yield from _boxes(data, start + head + 4, behind, steps)
        yield kind, start + head, behind
        start = behind


def _streams(data: memoryview, steps: Steps) -> Iterator[memoryview]:
    """What each item and each track's first chunk consist of."""
    boxes = list(_boxes(data, 0, len(data), steps))
    inside = next((start for kind, start, _ in boxes if kind == b"idat"), 0)
    for kind, start, _ in boxes:
        if kind == b"iloc":
            yield from _items(data, start, inside, steps)
        elif kind in (b"stco", b"co64") and int.from_bytes(data[start + 4 : start + 8], "big"):
            wide = 4 if kind == b"stco" else 8
            yield data[int.from_bytes(data[start + 8 : start + 8 + wide], "big") :]


def _items(data: memoryview, at: int, inside: int, steps: Steps) -> Iterator[memoryview]:
    """The extents of each item, joined (section 8.11.3: ItemLocationBox); `inside` is where the file's idat begins."""

    def number(size: int) -> int:
        nonlocal at
        at += size
        return int.from_bytes(data[at - size : at], "big")

    version = number(4) >> 24
    sizes = number(2)
    offset_size, length_size, base_size = sizes >> 12, sizes >> 8 & 15, sizes >> 4 & 15
    index_size = sizes & 15 if version in (1, 2) else 0
    joined = 0
    for _ in range(number(4 if version == 2 else 2)):
        steps.take()
        number(4 if version == 2 else 2)  # the item's number
        method = number(2) & 15 if version in (1, 2) else 0
        number(2)  # data_reference_index
        base = number(base_size) + (inside if method == 1 else 0)
        pieces = []
        for _ in range(number(2)):
            steps.take()
            number(index_size)
            start, length = base + number(offset_size), number(length_size)
            pieces.append(data[start : start + length] if length else data[start:])
        if len(pieces) == 1:
            yield pieces[0]
            continue
        joined += sum(map(len, pieces))
        if joined > len(data):
            raise ValueError("items that overlap")
        yield memoryview(b"".join(pieces))


def _frame_of(stream: memoryview, steps: Steps) -> int:
    """Pixels of a frame of AV1's `stream`, as its sequence header says; 0 where there is none (AV1, section 5.3)."""
    at = 0
    while at + 2 <= len(stream) and not stream[at] & 0x81:  # that no OBU begins with
        steps.take()
        kind, extended, sized = stream[at] >> 3 & 15, stream[at] >> 2 & 1, stream[at] >> 1 & 1
        at += 1 + extended
        size, shift = 0, 0
        while sized:
            size |= (stream[at] & 127) << shift
            shift += 7
            at += 1
            if not stream[at - 1] & 128 or shift > 35:
                break
        size = size if sized else len(stream) - at
        if kind == _SEQUENCE_HEADER:
            return _frame_in(stream[at : at + min(size, 200)])
        if kind in _FRAMES:
            return 0
        at += size
    return 0


def _frame_in(header: memoryview) -> int:
    """Pixels of the largest frame that a sequence header allows (AV1, section 5.5.1)."""
    bits = f"{int.from_bytes(header, 'big'):0{8 * len(header)}b}"
    at = 0

    def number(count: int) -> int:
        nonlocal at
        at += count
        return int(bits[at - count : at], 2) if count else 0

    number(4)  # seq_profile, still_picture
    delay = 0
    if number(1):  # reduced_still_picture_header
        number(5)
    else:
        if number(1):  # timing_info_present_flag
            number(64)
            if number(1):  # equal_picture_interval
                zeros = bits.index("1", at) - at
                number(2 * zeros + 1)
            if number(1):  # decoder_model_info_present_flag
                delay = number(5) + 1
                number(42)
        shown = number(1)  # initial_display_delay_present_flag
        for _ in range(number(5) + 1):  # operating points
            number(12)
            if number(5) > 7:  # seq_level_idx
                number(1)
            if delay and number(1):
                number(2 * delay + 1)
            if shown and number(1):
                number(4)
    wide, high = number(4) + 1, number(4) + 1
    return (number(wide) + 1) * (number(high) + 1)
