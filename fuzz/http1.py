"""atheris on the edge's reading of HTTP/1.1: any bytes, whole or cut in two, give the requests that h11 finds, or a
refusal.

The first two bytes of an input say where it is cut. `fuzz.connection` counts the work that such bytes cause.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["serving"]):
    from tests.edge.test_differential import by_us, compare, corpus


def one_input(data: bytes) -> None:
    sent = data[2:]
    if not sent:
        return
    if fault := compare(sent, [sent]):
        raise AssertionError(fault)
    cut = int.from_bytes(data[:2], "big") % len(sent)
    whole, pieces = by_us([sent]), by_us([sent[:cut], sent[cut:]])
    if whole[0] != pieces[0]:
        raise AssertionError(f"cut at {cut}: {pieces}, whole {whole}")


def seeds(folder: Path) -> None:
    """Some of the differential test's corpus, as a start."""
    for number, case in enumerate(corpus()[:300]):
        (folder / f"seed-{number}").write_bytes(number.to_bytes(2, "big") + case)


if __name__ == "__main__":
    if len(sys.argv) > 2 and Path(sys.argv[-1]).is_dir():
        seeds(Path(sys.argv[-1]))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
