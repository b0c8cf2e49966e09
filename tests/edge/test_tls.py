"""The service over TLS with BentoML's options and a certificate made here: answers, refusals, plain HTTP."""

import contextlib
import http.client
import logging
import shutil
import socket
import ssl
import subprocess
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from serving.edge.certificates import Certificate
from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import Answer, Client, assert_failure, running

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is needed to make a certificate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    return made(tmp_path_factory.mktemp("certificate"))


def made(folder: Path) -> tuple[Path, Path]:
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", *names]
    subprocess.run([*make, "-keyout", str(key), "-out", str(certificate)], check=True, capture_output=True)
    return certificate, key


class TlsClient(Client):
    """As Client, over TLS, trusting `certificate` only."""

    def __init__(self, port: int, certificate: Path):
        super().__init__(port)
        self.trust = ssl.create_default_context(cafile=str(certificate))

    def connection(self) -> http.client.HTTPConnection:
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=60, context=self.trust)


@pytest.fixture(scope="module")
def secure(tmp_path_factory: pytest.TempPathFactory, certificate: tuple[Path, Path]) -> Iterator[TlsClient]:
    folder = tmp_path_factory.mktemp("secure")
    toy.write_artifact(folder / "models")
    settings = {"models": str(folder / "models"), "default_model": "toy-colours", "max_body_bytes": "100000"}
    settings |= {"workers": "1", "head_seconds": "1", "max_header_bytes": "4096"}
    options = ["--ssl-certfile", str(certificate[0]), "--ssl-keyfile", str(certificate[1])]

    def client(port: int) -> TlsClient:
        return TlsClient(port, certificate[0])

    with running(folder / "log", *options, client=client, **settings) as answering:
        assert isinstance(answering, TlsClient)
        yield answering
    assert "Traceback" not in (folder / "log").read_text()


def raw(client: TlsClient, sent: bytes) -> Answer:
    """What comes back for `sent` until the service closes."""
    plain = socket.create_connection(("127.0.0.1", client.port), timeout=60)
    with client.trust.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(sent)
        response = http.client.HTTPResponse(connection)
        response.begin()
        return Answer(response.status, {k.lower(): v for k, v in response.getheaders()}, response.read())


def test_a_picture_is_answered(secure: TlsClient) -> None:
    answer = secure.post("/classify", encode(colours()))
    assert (answer.status, answer.json()["model"]) == (200, "toy-colours")


def test_refusals_have_the_one_shape(secure: TlsClient) -> None:
    assert_failure(secure.post("/classify", b"\0" * 100_001), 413, "body_too_large")
    assert_failure(secure.post("/classify", b"no picture"), 400, "invalid_image")
    assert_failure(secure.get("/nope"), 404, "not_found")


@pytest.mark.parametrize(
    ("sent", "status", "code"),
    [
        (b"GET /livez HTTP/1.1\r\nX: " + b"a" * 5000 + b"\r\n\r\n", 431, "headers_too_large"),
        (b"GET / HTTP/9.9\r\n\r\n", 400, "invalid_request"),
        (b"POST /classify HTTP/1.1\r\nHost: t\r\n", 408, "request_timeout"),
        (b"POST /classify HTTP/1.1\r\nHost: t\r\nContent-Length: 1000000000\r\n\r\n", 413, "body_too_large"),
    ],
)
def test_connections_are_guarded_as_without_tls(secure: TlsClient, sent: bytes, status: int, code: str) -> None:
    assert_failure(raw(secure, sent), status, code)


def test_plain_http_gets_no_answer(secure: TlsClient) -> None:
    plain = Client(secure.port)
    with pytest.raises((http.client.HTTPException, ConnectionError)):
        plain.get("/livez")
    assert secure.get("/livez").status == 200


def test_old_protocols_are_refused(secure: TlsClient) -> None:
    old = ssl.create_default_context()
    old.check_hostname, old.verify_mode = False, ssl.CERT_NONE
    old.set_ciphers("ALL:@SECLEVEL=0")
    with pytest.warns(DeprecationWarning, match="TLSv1"):
        old.minimum_version = old.maximum_version = ssl.TLSVersion.TLSv1_1
    with (
        closing(socket.create_connection(("127.0.0.1", secure.port), timeout=60)) as connection,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(connection, server_hostname="localhost")


def test_a_half_closed_client_is_not_left_waiting(secure: TlsClient) -> None:
    """TLS closes both sides: there is no answer, but an end."""
    plain = socket.create_connection(("127.0.0.1", secure.port), timeout=60)
    with secure.trust.wrap_socket(plain, server_hostname="localhost") as connection:
        connection.sendall(b"GET /metrics HTTP/1.1\r\nHost: t\r\n\r\n")
        connection.shutdown(socket.SHUT_WR)
        with contextlib.suppress(OSError):
            while connection.recv(65536):
                pass
    assert secure.get("/livez").status == 200


# Renewed files


def fingerprint(port: int) -> bytes:
    """Of the certificate that a new connection is shown."""
    return ssl.PEM_cert_to_DER_cert(ssl.get_server_certificate(("127.0.0.1", port), timeout=60))


def replace(old: Path, new: Path) -> None:
    """In one step, as certbot and Kubernetes do."""
    shutil.copy(new, old.with_suffix(".new"))
    old.with_suffix(".new").replace(old)


def test_renewed_files_are_taken_up_and_halves_are_not(
    certificate: tuple[Path, Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "new").mkdir()
    newer = made(tmp_path / "new")
    mine = [Path(shutil.copy(file, tmp_path)) for file in certificate]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*mine)
    watched = Certificate(context, str(mine[0]), str(mine[1]))
    assert not watched.take_up()
    replace(mine[0], newer[0])
    with caplog.at_level(logging.INFO, "shortcut"):
        assert not watched.take_up()  # the key is the old one yet
        assert "the old ones stay" in caplog.text
        caplog.clear()
        assert not watched.take_up()  # and is told once
        assert not caplog.records
        replace(mine[1], newer[1])
        assert watched.take_up()
    assert "is in use" in caplog.text
    mine[1].unlink()
    assert not watched.take_up()


def test_a_new_connection_is_shown_the_renewed_certificate(
    secure: TlsClient, certificate: tuple[Path, Path], tmp_path: Path
) -> None:
    kept = secure.connection()
    kept.request("GET", "/livez")
    assert kept.getresponse().read()
    before = fingerprint(secure.port)
    for old, new in zip(certificate, made(tmp_path), strict=True):
        replace(old, new)
    deadline = time.monotonic() + 60
    while fingerprint(secure.port) == before:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    kept.request("GET", "/livez")  # no connection was lost
    assert kept.getresponse().status == 200
    kept.close()
    secure.trust.load_verify_locations(certificate[0])
    assert secure.get("/livez").status == 200
