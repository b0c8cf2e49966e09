"""The open-loop generator against servers that answer in every way a peer does, or not at all; and the report."""

import io
import json
import socketserver
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks import open_loop, pictures, report, rounds, run, servers
from benchmarks.connection import status_of
from benchmarks.load import Figures, Load
from benchmarks.peers.framing import framed
from benchmarks.pictures import FOR_PHOTO_MODELS
from benchmarks.rounds import BATCH
from serving.images.picture import decode_image
from tests.fixtures import toy

ROOT = Path(__file__).resolve().parents[2]
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


CELLS = ("closed 1", "closed 32", "open own rate", "open same rate", "1024×768 JPEG, 8 connections")


def result(date: str = "2026-11-25 10:00 UTC", kind: str = "AMX", **servers: float) -> dict[str, Any]:
    """A run of two rounds in which each server reaches the rate given for it, a peer's p99 being ten times its p50; of
    uploads ours do a tenth less in the second round."""
    samples: list[dict[str, Any]] = []
    for name, rate in servers.items():
        for cell in CELLS:
            figures = {"rate": rate, "p50_ms": 1.0, "p99_ms": 4.0 if name.startswith("shortcut") else 10.0}
            samples += 2 * [{"server": name, "cell": cell, "late_ms": 0.1, "not_200": 0, "lost": 0, **figures}]
        if name.startswith("shortcut"):
            for round_rate in (2.0 * rate, 1.8 * rate):
                samples.append({"server": name, "cell": "batch", "rate": round_rate, "p50_ms": 1.0, "p99_ms": 4.0})
    for row, rate in {"cpu": 2000.0, "openvino bf16": 8000.0, "openvino bf16, fixed batch": 10000.0}.items():
        samples += [{"server": row, "cell": f"bare {batch}", "rate": rate - batch} for batch in (1, 32)]
    described: dict[str, Any] = {n: {"ready_seconds": 1.0, "largest_process_mib": 100, "idle_cpu": 0} for n in servers}
    for name, provider, precision in (("shortcut", "OpenVINO", "bf16"), ("shortcut-cpu", "CPU", "float32")):
        if name in described:
            provider = f"{provider}ExecutionProvider"
            described[name] |= {"provider": provider, "precision": precision, "provider_reason": "fast"}
    described["bentoml-empty"] = {"ready_seconds": 0.5}
    model = {
        "small": "PNG",
        "servers": described,
        "samples": samples,
        "left_out": {"ray": "it did not start"},
        "bare_left_out": {"openvino float32": "not asked for"},
    }
    versions = {"onnxruntime": "1"}
    return {
        "date": date,
        "preliminary": [],
        "conditions": {
            "cpu": "any",
            "cpu_kind": kind,
            "cores": 2,
            "system": "Linux",
            "python": "3.11",
            "versions": versions,
        },
        "plan": {"rounds": 2, "seconds": 1, "connections": [1, 32], "contenders": list(servers)},
        "models": {"m": model},
    }


def test_our_rows_are_compared_with_the_best_bare_session_and_with_the_best_of_their_kind() -> None:
    ratios = report.ratios(result(**{"shortcut": 5000, "shortcut-cpu": 1500, "peer": 500})["models"]["m"])
    assert ratios["shortcut"]["best"] == ratios["shortcut"]["bare"] == "openvino bf16, fixed batch at batch 1"
    assert (ratios["shortcut"]["of_bare"], ratios["shortcut"]["of_bare_batch"]) == (0.5001, 0.9501)
    assert ratios["shortcut-cpu"]["best"] == "openvino bf16, fixed batch at batch 1"
    assert (ratios["shortcut-cpu"]["of_best"], ratios["shortcut-cpu"]["bare"]) == (0.15, "cpu at batch 1")
    assert ratios["shortcut-cpu"]["of_bare"] == 0.7504
    assert ratios["shortcut"]["tail"] == {"open own rate": 4.0, "open same rate": 4.0}
    assert ratios["shortcut"]["spread"] == 0.9


def test_the_table_holds_both_of_our_rows_beside_each_peer() -> None:
    text = report.markdown(result(**{"shortcut": 5000, "shortcut-cpu": 1500, "peer": 500}))
    assert "### m on AMX" in text
    assert "| PNG, 1 connection, images/s | 5,000 | 1,500 | 500 (10× / 3×) |" in text
    assert "| 1024×768 JPEG, 8 connections, p99 ÷ p50 | 4.0 | 4.0 | 10.0 |" in text
    assert "all at 60% of the slowest one's best, p99 ÷ p50 | 4.0 | 4.0 | 10.0 |" in text
    assert f"reaches 0.50 with one image a request and 0.95 with {BATCH}" in text
    assert "No openvino float32: not asked for." in text
    assert "uploads: 10,000, 9,000 images/s, the slowest 0.90 of the fastest" in text
    assert "Left out: ray (it did not start)." in text


def test_a_run_on_one_kind_of_cpu_leaves_the_figures_of_the_other(tmp_path: Path, monkeypatch: Any) -> None:
    old, other = result("2026-11-24 10:00 UTC", shortcut=100.0), result("2026-11-23 10:00 UTC", "none", shortcut=77.0)
    runs = [result(shortcut=5000.0, fastapi=500.0), old, other]
    page, front, folder = tmp_path / "bench.md", tmp_path / "README.md", tmp_path / "results"
    folder.mkdir()
    for number, one in enumerate(runs):
        (folder / f"{number}.json").write_text(json.dumps(one))
    page.write_text(f"before\n{report.BEGIN}\nstale\n{report.END}\nafter\n")
    front.write_text(f"{report.FRONT_BEGIN}\n{report.FRONT_END}\n")
    for name, path in (("RESULTS", folder), ("README", page), ("FRONT", front)):
        monkeypatch.setattr(report, name, path)
    assert report.main(["--readme"]) == 0
    text = page.read_text()
    assert text.startswith("before\n")
    assert text.endswith("after\n")
    assert "stale" not in text
    assert [line for line in text.splitlines() if line.startswith("###")] == ["### m on AMX", "### m on none"]
    rows = front.read_text().splitlines()[4:6]
    assert rows[0].startswith("| `m`, PNG, 32 connections | any, AMX, 2026-11-25 | 5,000 | 500 | –")
    assert "| any, none, 2026-11-23 |" in front.read_text()
    assert "2026-11-24" not in front.read_text()


@pytest.mark.parametrize("quick", [False, True])
def test_the_cells_of_the_acceptance_are_chosen_by_one_word(quick: bool) -> None:
    args = run.parse(["--cells", "acceptance", *(["--quick"] if quick else [])])
    assert "shortcut-cpu" not in args.peers
    assert {"fastapi", "litserve", "bentoml", "mosec", "mlserver"} <= set(args.peers)
    assert (args.rounds, args.seconds) == ((1, 1) if quick else (5, 2))


class _Cells(Load):
    """Which measurements are asked for, and nothing measured."""

    def __init__(self, asked: list[str], name: str, size: int) -> None:
        self._asked, self._name, self.bytes = asked, name, size

    def closed(self, connections: int, seconds: int) -> Figures:
        self._asked.append(f"{self._name} {connections} for {seconds} s")
        return Figures(100.0 + connections, 1.0, 2.0, 0, 0)

    def open(self, rate: float, seconds: float, connections: int = 64) -> Figures:
        self._asked.append(f"{self._name} at {rate:g}")
        return Figures(rate, 1.0, 2.0, 0, 0)


@pytest.mark.parametrize("for_photos", [False, True])
@pytest.mark.parametrize("acceptance", [False, True])
def test_one_server_does_its_cells_in_one_go(for_photos: bool, acceptance: bool) -> None:
    asked: list[str] = []
    photos = {
        kind: _Cells(asked, kind.title, size) for kind, size in zip(FOR_PHOTO_MODELS, (10**5, 10**7), strict=True)
    }
    loads = rounds.Loads(_Cells(asked, "small", 1), photos, _Cells(asked, "batch", 1))  # type: ignore[arg-type]
    plan = rounds.Plan(
        ["shortcut"], rounds=1, seconds=2, warm_seconds=0, connections=[1, 32, 64], acceptance=acceptance
    )
    cells = dict(rounds._cells(loads, plan, for_photos, lambda: asked.append("settled")))
    brief = acceptance and for_photos
    expected = ["small 32 for 2 s"] if brief else [f"small {n} for 2 s" for n in (1, 32, 64)] + ["small at 98.4"]
    wide, phone = (kind.title for kind in FOR_PHOTO_MODELS)
    if for_photos or not acceptance:
        expected += [f"{wide} 8 for 2 s", f"{wide} 32 for 2 s", f"{phone} 8 for 4 s"]
        assert [f"{wide}, 32 connections", f"{phone}, 8 connections"] == list(cells)[-2 - (not brief) :][:2]
    if not brief:
        expected.append("batch 8 for 9 s")  # three times what 8 uploads of 64 pictures take at 164 a second
        assert cells["batch"].rate == 108 * BATCH
    assert asked[::2] == ["settled"] * (len(asked) // 2)
    assert asked[1::2] == expected


def test_photos_are_of_the_size_and_turn_that_cameras_give(tmp_path: Path) -> None:
    """Of a model that tells where it is brighter, in the left half or in the upper one."""
    artifact = toy.write_artifact(tmp_path, shape=(16, 16, 3), labels=("left", "top"), convention="centre_crop")
    halves = np.zeros((16, 16, 3, 2), np.float32)
    halves[:, :8, :, 0] = halves[:8, :, :, 1] = 1
    (artifact / "model.onnx").write_bytes(toy.graph("halves", (16, 16, 3), halves.reshape(-1, 2)))
    told = pictures._Judge(artifact)
    kind = pictures.Photos("a", 512, 384, 3, noise=8, quality=90, enlarged=2, orientation=pictures.SIDEWAYS)
    for picture in pictures._photos(told, kind):
        with Image.open(io.BytesIO(picture.data)) as image:
            assert (image.size, image.getexif()[0x0112]) == ((512, 384), pictures.SIDEWAYS)
            assert told.label(picture.data) == picture.label
            plain = io.BytesIO()
            image.save(plain, "JPEG", quality=95, exif=Image.Exif())
        assert told.label(plain.getvalue()) != picture.label


@pytest.mark.parametrize(
    "how",
    [
        {"input_convention": "plain"},
        {"input_convention": "pad", "resample": "bicubic"},
        {"input_convention": "pad", "pad_fill": [9, 99, 199]},
        {"input_convention": "centre_crop"},
        {"input_convention": "centre_crop", "resize_to": 40},
    ],
    ids=str,
)
@pytest.mark.parametrize("size", [(60, 45), (45, 60), (32, 32)])
def test_peers_frame_a_picture_as_the_service_does(how: dict[str, Any], size: tuple[int, int]) -> None:
    """But for rounding, and what the filter sees beside a cut."""
    image = Image.radial_gradient("L").resize(size)
    picture = Image.merge(
        "RGB", (image, image.transpose(Image.Transpose.FLIP_LEFT_RIGHT), image.transpose(Image.Transpose.ROTATE_180))
    )
    file = io.BytesIO()
    picture.save(file, "PNG")
    ours = decode_image(
        file.getvalue(),
        (32, 32, 3),
        how["input_convention"],
        how.get("resample", "bilinear"),
        resize_to=how.get("resize_to"),
        fill=how.get("pad_fill", 0),
    )
    peers = np.asarray(framed(picture, {"input_shape": [32, 32, 3], **how}))
    assert np.abs(ours.astype(int) - peers).max() <= 8
    assert np.abs(ours.astype(int) - peers).mean() < 3


def test_every_server_answers_with_the_model_that_is_measured(tmp_path: Path) -> None:
    """And ours not with the models of the folder that the benchmark is started in."""
    artifact = tmp_path / "models" / "a" / "1"
    subject = pictures.Subject("a", artifact, for_photos=False, small=[], small_title="", photos={})
    ours, peer = (servers.environment(servers.CONTENDERS[name], subject) for name in (servers.OURS, "fastapi"))
    assert ours["SHORTCUT_MODELS"] == str(tmp_path / "models")
    assert "SHORTCUT_MODELS" not in peer
    assert peer["BENCH_ARTIFACT"] == str(artifact)


def test_what_computes_is_the_same_in_every_environment() -> None:
    """MLServer's environment is locked apart from the others."""

    def pinned(file: str) -> dict[str, str]:
        lines = (ROOT / "requirements" / file).read_text().splitlines()
        return dict(
            line.removesuffix(" \\").split("==") for line in lines if line.startswith(("onnxruntime==", "pillow=="))
        )

    assert pinned("serving.txt") == pinned("bench.txt") == pinned("bench-mlserver.txt")
    assert len(pinned("serving.txt")) == 2
