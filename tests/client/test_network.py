"""Between the client and the service: proxies in the environment, certificates."""

import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving.client import Client, Unreachable
from serving.client.__main__ import main
from tests.fixtures import server, toy
from tests.fixtures.inside import running_inside
from tests.fixtures.pictures import digit, encode
from tests.fixtures.server import free_port

SEVEN = encode(digit("7"))
NAMES = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY")


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in NAMES:
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
@pytest.mark.parametrize("proxy", ["socks5://127.0.0.1:9", "http://127.0.0.1:9"])
def test_this_machine_is_asked_without_a_proxy(
    service: server.Client, monkeypatch: pytest.MonkeyPatch, host: str, proxy: str
) -> None:
    for name in ("HTTP_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
        monkeypatch.setenv(name, proxy)
    with Client(f"http://{host}:{service.port}", retries=0) as client:
        assert client.classify(SEVEN).predictions[0].label == "7"


def test_proxy_is_asked_for_another_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    port = free_port()
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{port}")
    with Client("http://example.invalid", retries=0) as client:
        assert [str(pattern.pattern) for pattern in client._http._mounts] == ["http://"]
        with pytest.raises(Unreachable):
            client.models()


def test_socks_proxy_that_httpx_cannot_use_is_told(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("all_proxy", "socks5://127.0.0.1:9")
    try:
        httpx.Client().close()
    except ImportError:
        (tmp_path / "7.png").write_bytes(SEVEN)
        assert main(["classify", str(tmp_path / "7.png"), "--url", "http://example.invalid"]) == 1
        assert "httpx[socks]" in capsys.readouterr().err
    else:
        pytest.skip("socksio is installed")


@pytest.mark.parametrize("url", ["http://[::1", "http://a:b", "ftp://a"])
def test_address_that_is_none_is_told(url: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["classify", "7.png", "--url", url]) == 1
    assert capsys.readouterr().err.startswith("error: ")


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[server.Client, Path]]:
    """A service behind TLS, and its certificate, which nobody has signed."""
    folder = tmp_path_factory.mktemp("secure")
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1,DNS:localhost"]
    files = ["-keyout", str(folder / "key.pem"), "-out", str(folder / "certificate.pem")]
    made = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names, *files]
    subprocess.run(made, check=True, capture_output=True)
    toy.write_artifact(folder / "models")
    settings = {"models": str(folder / "models"), "default_model": "toy-colours"}

    certificate = folder / "certificate.pem", folder / "key.pem"
    with running_inside(folder / "log", certificate=certificate, **settings) as client:
        yield client, folder / "certificate.pem"


def test_own_certificate_is_trusted_where_it_is_named(
    secure: tuple[server.Client, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    service, certificate = secure
    url = f"https://127.0.0.1:{service.port}"
    (tmp_path / "7.png").write_bytes(SEVEN)
    waits: list[float] = []
    monkeypatch.setattr(time, "sleep", waits.append)
    assert main(["classify", str(tmp_path / "7.png"), "--url", url]) == 1
    said = capsys.readouterr()
    assert "its certificate is not trusted" in said.out + said.err
    assert "--cacert" in said.out + said.err
    assert waits == []  # it would be the same another time
    assert main(["classify", str(tmp_path / "7.png"), "--url", url, "--cacert", str(certificate)]) == 0
    assert main(["classify", str(tmp_path / "7.png"), "--url", url, "--cacert", "nowhere.pem"]) == 1
    assert "nowhere.pem" in capsys.readouterr().err
