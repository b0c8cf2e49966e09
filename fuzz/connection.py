"""atheris on a connection's work: any bytes, in reads of any sizes, cost in proportion to their number, and memory too.

The first bytes of an input choose the size of the reads, what the routes do, and a part of the rest that is repeated.
So a cost that grows with the square of the bytes shows at once. Bytes copied, bytes looked at and calls are counted.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["serving"]):
    from tests.edge.test_differential import corpus
    from tests.edge.test_work import PER_BYTE, PER_READ
    from tests.fixtures.wire import Wire, on_a_loop
    from tests.fixtures.work import Work

SIZES = (1, 2, 7, 64, 1000, 1 << 20)
REFUSALS = (0, 0, 401, 404, 413)
REPEATED = 3000  # bytes of the repeated part
PER_REQUEST = 150  # calls of one request and its answer, which may be as short as 20 bytes
SHORTEST = 18


def one_input(data: bytes) -> None:
    if len(data) < 4:
        return
    size, refusal = SIZES[data[0] % len(SIZES)], REFUSALS[data[0] // 8 % len(REFUSALS)]
    start = data[1] % len(data[3:])
    part = data[3 + start :][: 1 + data[2] % 64]
    sent = data[3 : 3 + start] + part * (REPEATED // len(part))

    def run() -> tuple[Work, Wire]:
        wire, work = Wire(), Work()
        wire.edge.router.refuse = refusal  # type: ignore[attr-defined]
        with work.counting():
            for at in range(0, len(sent), size):
                wire.send(work.of(sent[at : at + size]))
        return work, wire

    work, wire = on_a_loop(run)
    reads = min(len(sent), len(sent) // size + 1)
    most = PER_BYTE * len(sent) + PER_READ * (reads + 4) + PER_REQUEST * (len(sent) // SHORTEST)
    if work.total > most:
        raise AssertionError(f"{len(sent):,} bytes in reads of {size:,}: {work}, more than {most:,}")
    if wire.edge.bodies.used > 1.1 * len(sent) + 500:
        raise AssertionError(f"{len(sent):,} bytes hold {wire.edge.bodies.used:,}")
    wire.end()
    if wire.edge.bodies.used or wire.edge.places.taken:
        raise AssertionError(f"left behind: {wire.edge.bodies.used} bytes, {wire.edge.places.taken} places")


def seeds(folder: Path) -> None:
    """Some of the differential test's corpus, as a start, and bodies in small chunks."""
    head = b"POST / HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
    for number in range(len(SIZES)):
        for which in range(len(REFUSALS)):
            name = f"chunks-{number}-{which}"
            first = bytes([number + 48 * which & 255, len(head), 5])
            (folder / name).write_bytes(first + head + b"1\r\na\r\n")
    for number, case in enumerate(corpus()[:200]):
        (folder / f"seed-{number}").write_bytes(bytes([number % 40, number % 50, number % 64]) + case)


if __name__ == "__main__":
    if len(sys.argv) > 2 and Path(sys.argv[-1]).is_dir():
        seeds(Path(sys.argv[-1]))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
