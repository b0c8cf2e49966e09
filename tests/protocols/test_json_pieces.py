"""Long JSON is read as json.loads reads it, and in pieces."""

import asyncio
import base64
import json
import random
import time
from typing import Any

import numpy as np
import pytest

from serving.errors import InvalidRequest
from serving.protocols import json_pieces, parsing
from serving.protocols.json_pieces import MAX_REST, PIECE, loads
from serving.protocols.parsing import from_base64, load_json, parsed
from serving.protocols.tensors import uint8_from_json

RNG = np.random.default_rng(0)
PICTURES = RNG.integers(0, 256, (3, 64, 64, 3)).tolist()
TEXT = base64.b64encode(RNG.bytes(200_000)).decode()
VALUES: list[Any] = [
    {"instances": PICTURES},
    {"inputs": [{"name": "image", "shape": [3, 64, 64, 3], "data": PICTURES}], "id": "x"},
    {"data": np.ravel(PICTURES).tolist(), "more": [1, [2, []], {}], "text": TEXT},
    {"instances": [{"b64": TEXT}, {"b64": TEXT[:500]}, {"image": PICTURES[0]}], "parameters": {"top_k": 3}},
    [RNG.normal(size=20_000).tolist(), [[1.5e-7, -2]]],
    [PICTURES[0], "a" * 5000, PICTURES[1], [[["b"]]], PICTURES[2]],
    {"quoted": 'a "quoted" \\ text' * 200, "unicode": "naïve 漢字 🙂" * 500, "lines": "ab\ncd/" * 500},
    [[[[n]] for n in range(30_000)]],
    [[], [[]], [[n % 7] for n in range(20_000)]][2],
]


# Each of the ways to write it with each of the values; all pairs of ways are thorough.
WAYS = [((",", ":"), True), ((", ", ": "), False), ((" ,\n", " :\t"), True)]
MORE_WAYS = [((",", ":"), False), ((", ", ": "), True), ((" ,\n", " :\t"), False)]


@pytest.mark.parametrize("value", VALUES, ids=range(len(VALUES)))
@pytest.mark.parametrize(
    ("separators", "ascii_only"), [*WAYS, *(pytest.param(*way, marks=pytest.mark.thorough) for way in MORE_WAYS)]
)
def test_value_is_that_of_json(value: Any, separators: tuple[str, str], ascii_only: bool) -> None:
    text = json.dumps(value, separators=separators, ensure_ascii=ascii_only)
    assert loads(text.encode()) == value
    assert loads(text.replace("/", "\\/").encode()) == value  # as PHP writes it


LISTS = json.dumps(PICTURES[0])


@pytest.mark.parametrize(
    "text",
    [
        LISTS[:-1],
        LISTS + "]",
        LISTS.replace("], [", "] [", 1),
        LISTS.replace(", ", " ", 1),
        LISTS[:-3] + ",]]]",
        LISTS.replace("[", "{", 1),
        '{"a": "' + "a" * 5000,
        '{"a": ' + LISTS,
        '["' + "a" * 5000 + '\\"]',
        "[" + ",".join(["1"] * 50_000) + ",]",
        "[" + ",".join(["1"] * 50_000) + ",,1]",
        "[" + "1" * 100_000 + "]",
        "[" * 100_000 + "]" * 100_000,
        '{"' + "n" * 100_000 + '": 1}',
        "[" + ",".join(["01"] * 50_000) + "]",
    ],
    ids=range(15),
)
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(InvalidRequest, match="no valid JSON"):
        load_json(text.encode())


@pytest.mark.parametrize("times", [100, pytest.param(300, marks=pytest.mark.thorough)])
def test_random_damage_is_judged_as_json_does(times: int) -> None:
    """What is taken is what json.loads takes; a little of what that takes is refused (lists that are not even)."""
    random.seed(1)
    whole = json.dumps({"a": PICTURES[0], "b": "x" * 2000, "c": [{"d": PICTURES[1]}]}).encode()
    taken = 0
    for _ in range(times):
        at = random.randrange(len(whole))
        damaged = whole[:at] + random.choice([b"", b",", b"[", b"]", b'"', b"{", b"0", b" "]) + whole[at + 1 :]
        try:
            found = loads(damaged)
        except ValueError:
            continue
        taken += 1
        assert found == json.loads(damaged)
    assert taken > times / 15


def test_constants_are_taken_where_asked() -> None:
    text = ("[" + ",".join(["NaN", "1"] * 20_000) + "]").encode()
    assert len(load_json(text, constants=True)) == 40_000
    with pytest.raises(InvalidRequest, match="NaN is no number"):
        load_json(text)


def test_many_small_values_are_too_many() -> None:
    with pytest.raises(InvalidRequest, match=f"more than {MAX_REST:,} bytes"):
        load_json(b"[" + b'"a",' * 400_000 + b'"a"]')


def test_no_piece_is_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """The work of each call that keeps the interpreter is bounded."""
    sizes: list[int] = []
    plain = json.loads

    def measured(text: bytes, **options: Any) -> Any:
        sizes.append(len(text))
        return plain(text, **options)

    monkeypatch.setattr(json_pieces.json, "loads", measured)
    for value in VALUES[:6] + VALUES[7:]:  # one has texts that are escaped, which are read at once
        loads(json.dumps(value).encode())
    assert max(sizes) <= PIECE + 2


def test_base64_is_read_in_pieces() -> None:
    data = RNG.bytes(3 * parsing.BASE64_PIECE + 1)
    text = base64.b64encode(data).decode()
    lines = "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
    for one in (
        text,
        lines,
        text.rstrip("="),
        "data:image/png;base64," + text,
        base64.urlsafe_b64encode(data).decode(),
    ):
        assert from_base64(one) == data
    assert from_base64("") == b""
    for bad in (
        text[:-3] + "!==",
        text + "AAAA",
        text[: parsing.BASE64_PIECE - 4] + "AA==" + text,
        text[:101],
        "====",
        7,
    ):
        with pytest.raises(InvalidRequest, match="b64"):
            from_base64(bad)
    for address in ("http://127.0.0.1/a.png", "https://example.com/a.png", "file:///etc/passwd", "s3://a/b"):
        with pytest.raises(InvalidRequest, match=r"b64.*never fetches"):
            from_base64(address)


def test_other_threads_run_while_a_long_body_is_read() -> None:
    """Beside a body that takes long, the event loop has its turn many times."""
    body = json.dumps({"data": RNG.integers(0, 256, (8, 224, 224, 3)).tolist()}).encode()
    assert len(body) > 4_000_000

    async def scenario() -> tuple[float, float]:
        began = time.perf_counter()
        task = asyncio.create_task(
            parsed(body, lambda text: uint8_from_json(load_json(text)["data"], (8, 224, 224, 3)))
        )
        longest, last = 0.0, time.perf_counter()
        while not task.done():
            await asyncio.sleep(0)
            now = time.perf_counter()
            longest, last = max(longest, now - last), now
        assert (await task).shape == (8, 224, 224, 3)
        return longest, time.perf_counter() - began

    longest, took = asyncio.run(scenario())
    assert longest < took / 4, (longest, took)
