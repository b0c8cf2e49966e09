"""The open-loop generator against servers that answer in every way a peer does, or not at all; and the report."""

import socketserver
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from benchmarks import open_loop, report
from benchmarks.connection import status_of
from benchmarks.rounds import BATCH

HEAD = b"HTTP/1.1 %s\r\nContent-Type: text/plain\r\n"
WHOLE = HEAD % b"200 OK" + b"content-length: 5\r\n\r\nseven"
CHUNKED = HEAD % b"200 OK" + b"Transfer-Encoding: chunked\r\n\r\n3\r\nsev\r\n2;last=1\r\nen\r\n0\r\n\r\n"
UNSIZED = HEAD % b"200 OK" + b"\r\nseven"
BUSY = HEAD % b"503 Service Unavailable" + b"Content-Length: 0\r\n\r\n"


class _Answers(socketserver.StreamRequestHandler):
    """What the path asks for."""

    def handle(self) -> None:
        while line := self.rfile.readline():
            length = 0
            while (field := self.rfile.readline()) != b"\r\n":
                name, _, value = field.partition(b":")
                length = int(value) if name.lower() == b"content-length" else length
            assert self.rfile.read(length) == b"x" * length
            if not self.answer(line.split()[1].decode()):
                return

    def answer(self, path: str) -> bool:
        """Whether the connection stays open."""
        if path == "/pieces":
            for piece in (CHUNKED[:20], CHUNKED[20:-12], CHUNKED[-12:]):
                self.wfile.write(piece)
                time.sleep(0.001)
        elif path == "/stall":
            with self.server.stalled:  # type: ignore[attr-defined]
                self.wfile.write(WHOLE)
        else:
            self.wfile.write({"/unsized": UNSIZED, "/busy": BUSY, "/silent": b"", "/late": b""}.get(path, WHOLE))
        if path == "/late":
            time.sleep(0.5)
        return path not in ("/closing", "/unsized", "/silent", "/late")


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = daemon_threads = True
    request_queue_size = 64
    stalled = threading.Lock()


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with _Server(("127.0.0.1", 0), _Answers) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def measured(url: str, body: bytes = b"x" * 100, seconds: float = 0.25) -> dict[str, Any]:
    return open_loop.run(url, [body], "text/plain", rate=200, seconds=seconds, connections=8)


@pytest.mark.parametrize("path", ["/whole", "/pieces", "/unsized", "/closing"])
def test_every_way_to_answer_is_understood(address: str, path: str) -> None:
    got = measured(address + path)
    assert (got["rate"], got["not_200"], got["lost"], got["problem"]) == (200, 0, 0, "")
    assert 0 < got["p50_ms"] <= got["p99_ms"]


def test_a_request_that_meets_a_kept_alive_connection_being_closed_is_sent_again(address: str) -> None:
    assert measured(address + "/closing")["resent"] == 50 - 8  # all but the first on each connection


def test_a_body_larger_than_the_socket_takes_at_once_arrives_whole(address: str) -> None:
    assert measured(address + "/whole", body=b"x" * 8_000_000, seconds=0.05)["rate"] == 200


def test_other_answers_are_counted(address: str) -> None:
    got = measured(address + "/busy")
    assert (got["rate"], got["not_200"], got["lost"]) == (200, 50, 0)


def test_a_request_without_an_answer_is_lost(address: str) -> None:
    got = measured(address + "/silent")
    assert (got["rate"], got["lost"]) == (0, 50)
    assert "closed without an answer" in got["problem"]


def test_an_answer_that_comes_too_late_is_lost(address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(open_loop, "GRACE_SECONDS", 0.1)
    got = open_loop.run(address + "/late", [b"x"], "text/plain", rate=100, seconds=0.08, connections=8)
    assert got["lost"] == 8
    assert "within 0 s" in got["problem"]


def test_a_server_that_stalls_cannot_hide_the_requests_that_met_the_stall(address: str) -> None:
    """Half of the time nothing is answered: half of the requests, waiting for 8 connections, must show it."""
    _Server.stalled.acquire()
    threading.Timer(0.55, _Server.stalled.release).start()
    got = measured(address + "/stall", seconds=1.0)
    assert got["rate"] == 200
    assert got["p99_ms"] > 400
    assert got["late_ms"] < got["p99_ms"]  # it noticed each in time, though all connections were taken


@pytest.mark.parametrize("whole", [WHOLE, CHUNKED, BUSY])
def test_a_response_ends_where_it_ends(whole: bytes) -> None:
    status = int(whole[9:12])
    assert [status_of(whole[:n]) for n in range(len(whole) + 1)] == [0] * len(whole) + [status]
    with pytest.raises(ValueError, match="more than one response"):
        status_of(whole + b"!")


def test_a_response_without_a_length_ends_with_the_connection() -> None:
    assert status_of(UNSIZED) == 0
    assert status_of(UNSIZED, closed=True) == 200
    assert status_of(UNSIZED[:30], closed=True) == 0


def test_what_is_not_http_is_refused() -> None:
    with pytest.raises(ValueError, match="no response of HTTP/1"):
        status_of(b"SSH-2.0-OpenSSH\r\n\r\n")


def test_arrivals_are_as_many_as_expected_and_always_the_same() -> None:
    assert len(open_loop.moments(100, 2)) == 200
    assert open_loop.moments(100, 2) == open_loop.moments(100, 2) == sorted(open_loop.moments(100, 2))


def result(**servers: float) -> dict[str, Any]:
    """A run of one round in which each server reaches the rate given for it, a peer's p99 being ten times its p50."""
    samples: list[dict[str, Any]] = []
    for name, rate in servers.items():
        for cell in ("closed 1", "closed 32", "open own rate", "open same rate"):
            figures = {"rate": rate, "p50_ms": 1.0, "p99_ms": 4.0 if name.startswith("shortcut") else 10.0}
            samples.append({"server": name, "cell": cell, "late_ms": 0.1, "not_200": 0, "lost": 0, **figures})
        if name.startswith("shortcut"):
            samples.append({"server": name, "cell": "batch", "rate": 2 * rate, "p50_ms": 1.0, "p99_ms": 4.0})
    for row, rate in {"cpu": 2000.0, "openvino bf16": 8000.0, "openvino bf16, fixed batch": 10000.0}.items():
        samples += [{"server": row, "cell": f"bare {batch}", "rate": rate} for batch in (1, 32)]
    described: dict[str, Any] = {n: {"ready_seconds": 1.0, "largest_process_mib": 100, "idle_cpu": 0} for n in servers}
    for name, provider in (("shortcut", "OpenVINO"), ("shortcut-cpu", "CPU")):
        described[name] |= {"provider": f"{provider}ExecutionProvider", "precision": "bf16", "provider_reason": "fast"}
    described["bentoml-empty"] = {"ready_seconds": 0.5}
    model = {"servers": described, "samples": samples, "bare_left_out": {"openvino float32": "not asked for"}}
    return {
        "date": "today",
        "preliminary": [],
        "conditions": {"cpu": "any", "cores": 2, "system": "Linux", "python": "3.11", "versions": {}},
        "plan": {"rounds": 1, "seconds": 1, "connections": [1, 32], "contenders": list(servers)},
        "models": {"m": model},
    }


def test_our_rows_are_compared_with_the_bare_session_on_their_own_provider() -> None:
    ratios = report.ratios(result(**{"shortcut": 5000, "shortcut-cpu": 1500, "peer": 500})["models"]["m"])
    assert ratios["shortcut"]["bare"] == "openvino bf16, fixed batch"
    assert (ratios["shortcut"]["of_bare"], ratios["shortcut"]["of_bare_batch"]) == (0.5, 1.0)
    assert (ratios["shortcut-cpu"]["bare"], ratios["shortcut-cpu"]["of_bare"]) == ("cpu", 0.75)
    assert ratios["shortcut"]["tail"] == {"open own rate": 4.0, "open same rate": 4.0}


def test_the_table_holds_both_of_our_rows_beside_each_peer() -> None:
    text = report.markdown(result(**{"shortcut": 5000, "shortcut-cpu": 1500, "peer": 500}))
    assert "| 1 connection, images/s | 5,000 | 1,500 | 500 (10× / 3×) |" in text
    assert "all at 60% of the slowest one's best, p99 ÷ p50 | 4.0 | 4.0 | 10.0 |" in text
    assert f"reaches 0.50 with one image a request and 1.00 with {BATCH}" in text
    assert "No openvino float32: not asked for." in text
