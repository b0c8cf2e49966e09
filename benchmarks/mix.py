"""What the soak asks: requests of every kind, good, bad, large, slow and aborted, and the answers each may get.

Knows bytes and status codes; who sends them and what comes of it is `soak`'s.
"""

import io
import json
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from benchmarks.pictures import Subject
from benchmarks.servers import CONTENDERS, CORES, OURS, multipart

BATCH = 16


@dataclass(frozen=True)
class Request:
    """Bytes to send, and the answers they may get: `status code-word`. With none, nothing is waited for."""

    name: str
    data: bytes
    allowed: tuple[str, ...] = ("200", "503 overloaded")
    proof: bytes = b""  # what an answer 200 must contain
    last: bool = False  # nothing can follow on its connection


@dataclass(frozen=True)
class Lane:
    """Clients of one kind: each asks, waits for the answer and then `pause` seconds, and asks again."""

    kind: str
    clients: int
    pause: float = 0.0
    keep: bool = True  # the connection
    pieces: int = 1  # in which a request is sent


# Enough of what costs the service much and a client little to keep every core busy. Pauses are where connections end:
# the port of one may rest for a minute afterwards, and there are not so many.
LANES = (
    Lane("small", 4 + 4 * int(CORES)),
    Lane("new", 2, pause=0.01, keep=False),
    Lane("batch", int(CORES), pause=0.02),
    Lane("large", int(CORES), pause=0.02),
    Lane("bad", 2, pause=0.01),
    Lane("slow", 8, pieces=8),
    Lane("aborted", 2, pause=0.02, keep=False),
    Lane("watching", 1, pause=1.0, keep=False),
)
TIMED = "small"
KINDS = (*(lane.kind for lane in LANES), "503")  # that answers are counted by


def requests(subjects: Sequence[Subject]) -> dict[str, list[list[Request]]]:
    """Of each lane's kind the sequences that its clients repeat: one for each model, where models matter."""
    small = [_small(one) for one in subjects]
    picture, whole = subjects[0].small[0].data, small[0][-1].data
    photos = {one.name: next(iter(one.photos.values()))[0].data for one in subjects if one.photos}
    photo = next(iter(photos.values()), bytes(1_000_000))
    large = [[Request(f"{one.name} large", _post(one, photos[one.name]))] for one in subjects if one.name in photos]
    batches = [[Request(f"{one.name} batch", _batch(one))] for one in subjects]
    form, form_type = multipart([picture])
    bad = (
        ("400 invalid_image", "garbage", _post("/classify", bytes(range(256)) * 8)),
        ("400 invalid_image", "truncated PNG", _post("/classify", picture[: len(picture) // 2])),
        ("400 invalid_image", "truncated large JPEG", _post("/classify", photo[: len(photo) // 2])),
        ("400 invalid_request", "wrong field", _post("/classify", form.replace(b'="image"', b'="file"'), form_type)),
        ("404 unknown_model", "unknown model", _post("/classify?model=nobody", picture)),
        ("422 invalid_parameter", "top_k=0", _post("/classify?top_k=0", picture)),
        ("415 unsupported_format", "text", _post("/classify", b"a picture of a cat", "text/plain")),
        ("415 unsupported_format", "no form", _post("/classify/batch", picture)),
        ("404 not_found", "no such route", _post("/nowhere", picture)),
        ("413 body_too_large", "oversize", _post("/classify", picture, length=2**32)),
        ("400 invalid_request", "no HTTP", b"nonsense\r\n\r\n"),
    )
    aborted = (
        ("within the head", whole[:20]),
        ("within a small body", whole[:-10]),
        ("within a large body", _post("/classify", photo)[: len(photo) // 2]),
        ("before the answer", whole),
        ("before the answer to a batch", _batch(subjects[0])),
    )
    gets = [Request(path, f"GET {path} HTTP/1.1\r\nHost: x\r\n\r\n".encode()) for path in ("/metrics", "/models")]
    return {
        **dict.fromkeys(("small", "new", "slow"), small),
        "batch": batches,
        "large": large or small,
        "bad": [[Request(n, data, (code,), last=n in ("oversize", "no HTTP")) for code, n, data in bad]],
        "aborted": [[Request(f"closed {when}", data, ()) for when, data in aborted]],
        "watching": [gets],
    }


def _small(one: Subject) -> list[Request]:
    """Some JPEGs, whose loss may change the answer, and the PNGs, in turn as a form and as the body itself."""
    made = []
    for picture in one.small[:8]:
        Image.open(io.BytesIO(picture.data)).save(buffer := io.BytesIO(), "JPEG")
        made.append(Request(f"{one.name} JPEG", _post(one, buffer.getvalue())))
    for number, picture in enumerate(one.small):
        data = _post(one, picture.data) if number % 2 else _post(one, *multipart([picture.data]))
        proof = f'"label":{json.dumps(picture.label, ensure_ascii=False)}'.encode()
        made.append(Request(f"{one.name} PNG", data, proof=proof))
    return made


def _batch(one: Subject) -> bytes:
    path = CONTENDERS[OURS].path(one).replace("/classify", "/classify/batch", 1)
    return _post(path, *multipart([picture.data for picture in one.small[:BATCH]]))


def _post(to: str | Subject, body: bytes, kind: str = "application/octet-stream", length: int | None = None) -> bytes:
    path = to if isinstance(to, str) else CONTENDERS[OURS].path(to)
    size = len(body) if length is None else length
    head = f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {kind}\r\nContent-Length: {size}\r\n\r\n"
    return head.encode() + body
