"""atheris on edge.multipart.parse: any body and boundary give parts within the limits, or InvalidRequest.

An input is the Content-Type's tail up to the first line feed, then the body.
"""

import sys
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["python_multipart", "serving"]):
    from serving.edge.multipart import MAX_FILENAME, parse
    from serving.errors import InvalidRequest

MAX_PARTS = 4


def one_input(data: bytes) -> None:
    tail, _, body = data.partition(b"\n")
    try:
        parts = parse(body, "multipart/form-data" + tail.decode("latin-1"), MAX_PARTS)
    except InvalidRequest as err:
        if not str(err):
            raise AssertionError("a refusal without a reason") from err
        return
    if len(parts) > MAX_PARTS or sum(len(part.data) for part in parts) > len(body):
        raise AssertionError(f"{len(parts)} parts of {[len(part.data) for part in parts]} bytes from {len(body)}")
    if any(len(part.filename or "") > MAX_FILENAME for part in parts):
        raise AssertionError("a file name over its limit")


def seeds(folder: Path) -> None:
    """The corpus's forms, as a start."""
    from tests.fixtures.hostile_requests import requests

    for number, case in enumerate(requests()):
        kind = dict(case.headers).get("Content-Type", "")
        if case.body is not None and len(case.body) < 4000 and kind.startswith("multipart/form-data"):
            tail = kind.removeprefix("multipart/form-data").encode("latin-1")
            (folder / f"seed-{number}").write_bytes(tail + b"\n" + case.body)


if __name__ == "__main__":
    if len(sys.argv) > 2 and Path(sys.argv[-1]).is_dir():
        seeds(Path(sys.argv[-1]))
    atheris.Setup(sys.argv, one_input)
    atheris.Fuzz()
