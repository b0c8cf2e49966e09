"""A fetched model is verified and whole in its place, or there is nothing in its place."""

import contextlib
import functools
import hashlib
import http.server
import importlib.util
import io
import json
import re
import socketserver
import subprocess
import sys
import tarfile
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import pytest

from serving import artifacts, fetch
from serving.fetch import FetchError
from tests.fixtures import toy
from tests.fixtures.server import ROOT


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return toy.write_artifact(tmp_path / "store", version=3)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    return tmp_path / "models"


def tar_of(folder: Path, path: Path, inside: str = "toy-colours/3", mode: str = "w") -> Path:
    with tarfile.open(path, mode) as tar:  # type: ignore[call-overload]
        tar.add(folder, inside)
    return path


def left_in(models: Path) -> list[str]:
    return sorted(str(path.relative_to(models)) for path in models.rglob("*") if path.is_file())


@contextlib.contextmanager
def web(folder: Path) -> Iterator[str]:
    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(Quiet, directory=str(folder)))
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_folder_of_every_kind_of_place(source: Path, models: Path) -> None:
    store = fsspec.filesystem("memory")
    for file in source.iterdir():
        store.pipe_file(f"/fetch/toy-colours/3/{file.name}", file.read_bytes())
    with web(source.parents[1]) as site:
        for number, url in enumerate(
            [str(source), source.as_uri(), f"{site}/toy-colours/3/", "memory://fetch/toy-colours/3"]
        ):
            place = fetch.fetch(url, models / str(number))
            assert place == models / str(number) / "toy-colours" / "3"
            assert artifacts.read(place).sha256 == toy.sha256(source / "model.onnx")
            assert left_in(models / str(number)) == [f"toy-colours/3/{file}" for file in sorted(artifacts.FILES)]


@pytest.mark.parametrize(("inside", "version"), [("toy-colours/3", 3), (".", 1), ("anything", 1)])
@pytest.mark.parametrize("kind", ["tar", "tar.gz"])
def test_tar(source: Path, models: Path, tmp_path: Path, inside: str, version: int, kind: str) -> None:
    tar = tar_of(source, tmp_path / f"x.{kind}", inside, "w:gz" if kind == "tar.gz" else "w")
    assert fetch.fetch(tar.as_uri(), models, hashlib.sha256(tar.read_bytes()).hexdigest()).name == str(version)


def test_wrong_hash_leaves_nothing(source: Path, models: Path, tmp_path: Path) -> None:
    for url in (tar_of(source, tmp_path / "x.tar"), source):
        with pytest.raises(FetchError, match=f"expected {'0' * 64}"):
            fetch.fetch(str(url), models, "0" * 64)
    assert fetch.fetch(str(source), models, f"sha256:{toy.sha256(source / 'model.onnx').upper()}")


def test_damaged_model_leaves_nothing(source: Path, models: Path) -> None:
    (source / "model.onnx").write_bytes(b"changed on the way")
    with pytest.raises(FetchError, match=r"^[^ ]*/3: toy-colours/3/model.onnx: is damaged or was changed"):
        fetch.fetch(str(source), models)
    assert left_in(models) == []
    assert list(models.iterdir()) == []


def test_what_is_there_stays(source: Path, models: Path) -> None:
    place = fetch.fetch(str(source), models)
    written = (place / "card.json").stat().st_mtime_ns
    assert fetch.fetch(str(source), models) == place
    assert (place / "card.json").stat().st_mtime_ns == written
    other = toy.write_artifact(source.parents[2] / "other", version=3, seed=5)
    with pytest.raises(FetchError, match="is there already, and is another model"):
        fetch.fetch(str(other), models)
    assert artifacts.read(place).sha256 == toy.sha256(source / "model.onnx")
    assert fetch.fetch(str(other), models, version=4).name == "4"


def test_tar_takes_no_path_and_no_link(source: Path, models: Path, tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("not yours")
    with tarfile.open(tmp_path / "x.tar", "w") as tar:
        for name in ("../../card.json", "../../golden.npz"):
            tar.add(source / Path(name).name, name)
        link = tarfile.TarInfo("../../model.onnx")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    with pytest.raises(FetchError, match="lacks model"):
        fetch.fetch(str(tmp_path / "x.tar"), models)
    assert list(models.iterdir()) == []


def test_card_cannot_choose_a_place_elsewhere(source: Path, models: Path) -> None:
    card = json.loads((source / "card.json").read_text())
    (source / "card.json").write_text(json.dumps(card | {"name": "../up"}))
    with pytest.raises(FetchError, match="is no name for a folder"):
        fetch.fetch(str(source), models)


def test_more_than_a_model_may_have_is_not_kept(source: Path, models: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetch, "MAX_BYTES", 1000)
    with pytest.raises(FetchError, match="larger than 1,000 bytes"):
        fetch.fetch(str(source), models)


def test_answer_that_is_cut_off_is_an_error() -> None:
    cut = fetch._Whole(io.BytesIO(b"12345"), 10)
    assert cut.read(100) == b"12345"
    with pytest.raises(OSError, match="ended 5 bytes early"):
        cut.read(100)


def test_failures_are_one_line(source: Path, models: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "no.tar").write_bytes(b"x" * 1000)
    two = tar_of(source, tmp_path / "two.tar")
    with tarfile.open(two, "a") as tar:
        tar.add(source, "toy-colours/4")
    with web(source.parents[1]) as site:
        for url, told in (
            (tmp_path / "nothing", "no such file"),
            (f"{site}/nothing", "the server answers 404"),
            (tmp_path / "no.tar", "is truncated, damaged or no tar"),
            (two, "more than one model"),
            ("nowhere://x/y", "nowhere"),
            ("http://127.0.0.1:9/x", "cannot be read"),
        ):
            assert fetch.main([str(url), "--to", str(models)]) == 1
            said = capsys.readouterr().err
            assert said.startswith("error: ")
            assert told in said
            assert said.count("\n") == 1
    assert left_in(models) == []


@pytest.mark.parametrize("kind", ["gz", "bz2", "xz"])
def test_damaged_archive_is_told(source: Path, models: Path, tmp_path: Path, kind: str) -> None:
    whole = tar_of(source, tmp_path / f"x.tar.{kind}", mode=f"w:{kind}").read_bytes()
    damaged, refused = tmp_path / f"damaged.tar.{kind}", 0
    for at in range(0, len(whole), len(whole) // 12):
        for content in (whole[:at], whole[:at] + b"\xff\0\xff\0" + whole[at + 4 :]):
            damaged.write_bytes(content)
            try:
                fetch.fetch(str(damaged), models)  # which checks the files: the damage was elsewhere
            except FetchError as err:
                assert re.search("damaged|lacks", str(err))
                refused += 1
    assert refused > 12
    assert left_in(models) == [] or len(left_in(models)) == len(artifacts.FILES)


@contextlib.contextmanager
def answering(reply: bytes) -> Iterator[str]:
    """A server that answers everything so, and hangs up."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            self.request.recv(65536)
            self.request.sendall(reply)

    with socketserver.TCPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


@pytest.mark.parametrize(
    ("reply", "told"),
    [
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1000\r\nabc", "cut off"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nabc", "ended 97 bytes early"),
        (b"SSH-2.0-OpenSSH_9.6\r\n", "no HTTP"),
        (b"", "closed connection without response"),
        (b"HTTP/1.1 302 Found\r\nLocation: /x.tar\r\n\r\n", "infinite loop"),
    ],
)
def test_server_that_stops_or_is_another(
    models: Path, capsys: pytest.CaptureFixture[str], reply: bytes, told: str
) -> None:
    with answering(reply) as site:
        assert fetch.main([f"{site}/x.tar", "--to", str(models)]) == 1
    said = capsys.readouterr().err
    assert told in said
    assert said.count("\n") == 1
    assert list(models.iterdir()) == []


@pytest.mark.parametrize("url", ["http://127.0.0.1:9/a b.tar", "http://127.0.0.1:x/a.tar", "http://[::1/a.tar"])
def test_address_that_is_none(models: Path, url: str) -> None:
    with pytest.raises(FetchError, match="is no address"):
        fetch.fetch(url, models)


@pytest.mark.parametrize("address", ["http://xavier:s3cret@127.0.0.1:9/a.tar", "http://xavier:a@s3cret@[::1/a.tar"])
def test_no_password_is_repeated(models: Path, address: str) -> None:
    with pytest.raises(FetchError) as failed:
        fetch.fetch(address, models)
    assert "xavier" not in str(failed.value)
    assert "s3cret" not in str(failed.value)


@pytest.mark.parametrize(("scheme", "package"), [("s3", "s3fs"), ("gs", "gcsfs"), ("abfs", "adlfs")])
def test_store_without_its_package_says_what_to_install(
    models: Path, scheme: str, package: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    if importlib.util.find_spec(package) is not None:
        pytest.skip(f"{package} is here")
    address = f"{scheme}://bucket/model/1"
    with pytest.raises(FetchError, match=f"(?i)install.*{package}"):
        fetch.fetch(address, models)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    with pytest.raises(FetchError, match=f"pip install fsspec {package}`"):
        fetch.fetch(address, models)
    elsewhere = " ".join((ROOT / "docs" / "scaling.md").read_text().split())
    assert f"| `{scheme}://` | `{package}` |" in elsewhere


def test_store_without_fsspec_says_what_to_install(models: Path) -> None:
    """In a process of its own, in which fsspec cannot be imported."""
    script = "import sys; sys.modules['fsspec'] = None; from serving import fetch; sys.exit(fetch.main(sys.argv[1:]))"
    done = subprocess.run(
        [sys.executable, "-c", script, "s3://bucket/model/1", "--to", str(models)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1
    assert "pip install fsspec s3fs" in done.stderr
