"""The soak runs and judges: invented samples, answers of every kind, and a few seconds of the real thing."""

import math
import socket
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from benchmarks import soak
from benchmarks.mix import Request
from benchmarks.soak import Sample, Tally, exchange, judge
from tests.fixtures import toy
from tests.fixtures.server import ROOT, environment

MIB = 2**20


def samples(*sizes: int, workers: int = 2, **tally: Counter[str]) -> list[Sample]:
    """A second each; all workers together hold so many MiB."""
    answered: dict[str, Any] = {"answers": Counter(small=10), "seconds": [0.001] * 9 + [0.1]} | tally
    return [
        Sample(second, Tally(**answered), 50 * MIB, dict.fromkeys(range(workers), size * MIB // workers), 20, 8)
        for second, size in enumerate(sizes, 1)
    ]


def test_memory_that_stays_after_the_first_minute_passes() -> None:
    verdict = judge(samples(*range(100, 150), *[200] * 100, 207, *[200] * 9))
    assert (verdict.growth, verdict.lost, verdict.answers, verdict.failed) == (0, 0, 1600, False)
    assert str(verdict).endswith("passed")


def test_memory_that_grows_fails() -> None:
    verdict = judge(samples(*[200] * 60, *range(201, 301)))
    assert verdict.growth == pytest.approx(47.75)  # the median of 291…300
    assert verdict.failed
    assert "+47.8 % (limit 5 %)" in str(verdict)


def test_a_run_too_short_for_it_is_not_judged_by_its_memory() -> None:
    verdict = judge(samples(*range(100, 219)))
    assert (verdict.growth, verdict.failed) == (None, False)


def test_anything_unexpected_fails_and_is_shown() -> None:
    verdict = judge(samples(200, 200, unexpected=Counter({"small, x: ValueError: 500": 2})))
    assert verdict.failed
    assert "unexpected: 4;" in str(verdict)
    assert "4 × small, x: ValueError: 500" in str(verdict)


@pytest.mark.parametrize("last", [{0: MIB, 7: MIB}, {0: MIB}])
def test_a_worker_that_ended_fails_whether_or_not_it_was_replaced(last: dict[int, int]) -> None:
    verdict = judge([*samples(200, 200), Sample(3, Tally(), memory=last)])
    assert (verdict.lost, verdict.failed) == (1, True)


def test_a_service_that_answers_nothing_fails() -> None:
    assert judge(samples(200, 200, answers=Counter())).failed


def test_rows_cover_all_samples_and_have_rates_by_the_second() -> None:
    rows = soak.condensed(samples(*[200] * 25, answers=Counter({"small": 10, "503": 1})), 10)
    assert [row["minute"] for row in rows] == [n / 60 for n in (3, 6, 9, 12, 15, 18, 21, 24, 25)]
    assert {(row["small/s"], row["503/s"], row["MiB"], row["p50 ms"], row["p99 ms"]) for row in rows} == {
        (10, 1, 200, 1, 100)
    }
    assert math.isnan(soak.condensed([Sample(1, Tally())], 10)[0]["p99 ms"])
    assert len(soak.table(samples(*[200] * 600)).splitlines()) == 12


def test_the_plot_is_small(tmp_path: Path) -> None:
    soak.plot(samples(*range(200, 800)), tmp_path / "soak.png")
    assert 10_000 < (tmp_path / "soak.png").stat().st_size < 200_000


def answered(request: Request, answer: bytes) -> tuple[str, bool]:
    """What `exchange` makes of it when `answer` is all that the server says."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        theirs.sendall(answer)
        theirs.shutdown(socket.SHUT_WR)
        return exchange(ours, request)


def response(status: int, body: bytes, *headers: str) -> bytes:
    head = "".join(f"{line}\r\n" for line in (f"HTTP/1.1 {status} X", f"content-length: {len(body)}", *headers))
    return head.encode() + b"\r\n" + body


def test_an_allowed_answer_is_taken() -> None:
    good = Request("good", b"x", proof=b"seven")
    assert answered(good, response(200, b'{"label":"seven"}')) == ("200", False)
    assert answered(good, response(200, b'{"label":"seven"}', "Connection: close")) == ("200", True)
    assert answered(good, response(503, b'{"code":"overloaded"}')) == ("503 overloaded", False)
    assert answered(Request("aborted", b"x", ()), b"") == ("", True)


@pytest.mark.parametrize(
    "answer",
    [
        response(200, b'{"label":"eight"}'),
        response(500, b'{"code":"internal_error"}'),
        response(503, b'{"code":"unavailable"}'),
        response(502, b"Bad Gateway"),
        response(200, b"seven")[:-1],
        b"",
    ],
)
def test_any_other_answer_is_an_error(answer: bytes) -> None:
    with pytest.raises((ValueError, EOFError)):
        answered(Request("good", b"x", proof=b"seven"), answer)


@pytest.mark.floods
@pytest.mark.skipif(not (ROOT / ".venv/bin/bentoml").exists(), reason="the serving environment is not built here")
def test_a_few_seconds_of_it(tmp_path: Path) -> None:
    toy.write_artifact(tmp_path / "models")
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.soak", "--minutes", "0.05", "--plot", str(tmp_path / "soak.png")],
        cwd=ROOT,
        env=environment(models=str(tmp_path / "models"), default_model="toy-colours"),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "unexpected: 0; workers replaced: 0" in done.stdout
    head, _, *rows = [line.strip("|").split("|") for line in done.stdout.splitlines() if line.startswith("|")]
    assert len(rows) == 3
    total = {name.strip(): sum(float(row[i].replace(",", "")) for row in rows) for i, name in enumerate(head)}
    assert all(total[f"{lane.kind}/s"] > 0 for lane in soak.LANES)
    assert (tmp_path / "soak.png").exists()
