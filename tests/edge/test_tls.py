"""The service over TLS with BentoML's options and a certificate made here: answers, refusals, plain HTTP."""

import http.client
import shutil
import socket
import ssl
import subprocess
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from tests.fixtures import toy
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import Answer, Client, assert_failure, running

pytestmark = pytest.mark.skipif(shutil.which("openssl") is None, reason="openssl is needed to make a certificate")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A self-signed certificate for localhost, and its key."""
    folder = tmp_path_factory.mktemp("certificate")
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
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=30, context=self.trust)


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
    plain = socket.create_connection(("127.0.0.1", client.port), timeout=15)
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
        closing(socket.create_connection(("127.0.0.1", secure.port), timeout=15)) as connection,
        pytest.raises((ssl.SSLError, ConnectionError)),
    ):
        old.wrap_socket(connection, server_hostname="localhost")
