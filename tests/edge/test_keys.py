"""With keys set, nothing but health and the page's static files answers without one."""

import socket
from collections.abc import Iterator

import pytest

from serving import keys as command
from serving.edge import keys
from tests.fixtures import toy
from tests.fixtures.inside import running_inside
from tests.fixtures.pictures import colours, encode
from tests.fixtures.server import Answer, Client

FIRST, SECOND = keys.make(), keys.make()
BENTOML = ["/schema.json", "/docs.json", "/metrics", "/static_content/index.css", "/nope", "/models/x/y"]


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    folder = tmp_path_factory.mktemp("guarded")
    toy.write_artifact(folder / "models")
    settings = {"models": str(folder / "models"), "default_model": "toy-colours"}
    with running_inside(folder / "log", **settings, api_keys=f"{FIRST[1]},{SECOND[1]}") as client:
        yield client
    log = (folder / "log").read_text()
    assert FIRST[0] not in log
    assert FIRST[1] not in log


def ask(client: Client, method: str, path: str, authorization: str | None) -> Answer:
    headers = {} if authorization is None else {"Authorization": authorization}
    return client.request(method, path, encode(colours()) if method == "POST" else None, headers)


WRONG = {
    "absent": None,
    "empty": "",
    "scheme": "Bearer",
    "scheme and space": "Bearer ",
    "guess": "Bearer wrong",
    "other scheme": f"Basic {FIRST[0]}",
    "hash": f"Bearer {FIRST[1]}",
    "longer": f"Bearer {FIRST[0]}x",
}


@pytest.mark.parametrize("authorization", WRONG.values(), ids=WRONG)  # a random key is no name of a test
def test_every_route_refuses_a_missing_or_wrong_key(guarded: Client, authorization: str | None) -> None:
    good = guarded.request("GET", "/docs.json", headers={"Authorization": f"Bearer {FIRST[0]}"}).json()
    documented = {
        (m.upper(), p.replace("{name}", "toy-colours").replace("{version}", "1")): operation
        for p, methods in good["paths"].items()
        for m, operation in methods.items()
    }
    closed = [where for where, operation in documented.items() if operation.get("security") != []]
    assert all("live" in path or "ready" in path for _, path in documented.keys() - set(closed))
    assert ("POST", "/classify") in closed
    assert good["security"] == [{"key": []}]
    for method, path in [*closed, *(("GET", path) for path in BENTOML), ("DELETE", "/classify")]:
        answer = ask(guarded, method, path, authorization)
        assert answer.status == 401, path
        assert "asks for a key" in answer.json()["error"]
        assert answer.json().get("code", "unauthorized") == "unauthorized"  # other doors' failures have no code
        assert answer.headers["www-authenticate"] == "Bearer"


@pytest.mark.parametrize("key", [FIRST[0], SECOND[0]], ids=["first", "second"])
def test_each_key_comes_in(guarded: Client, key: str) -> None:
    for scheme in ("Bearer", "bearer"):
        answer = guarded.request("POST", "/classify", encode(colours()), {"Authorization": f"{scheme} {key}"})
        assert answer.status == 200
    assert guarded.request("GET", "/schema.json", headers={"Authorization": f"Bearer {key}"}).status == 200


def test_a_key_is_asked_for_whichever_way_a_body_is_framed(guarded: Client) -> None:
    picture = encode(colours())
    length, chunks = [f"Content-Length: {len(picture)}"], ["Transfer-Encoding: chunked"]
    framed = ((length, picture), (chunks, b"%x\r\n%s\r\n0\r\n\r\n" % (len(picture), picture)))
    cases = (([], b"401"), ([f"Authorization: Bearer {FIRST[0]}"], b"200"), (["Authorization: x"], b"401"))
    for framing, body in framed:
        for headers, status in cases:
            head = "\r\n".join(["POST /classify HTTP/1.1", "Host: t", *framing, *headers, "", ""])
            with socket.create_connection(("127.0.0.1", guarded.port), timeout=60) as connection:
                connection.sendall(head.encode() + body)
                assert connection.makefile("rb").readline().split()[1] == status


def test_health_and_static_files_need_no_key(guarded: Client) -> None:
    for path in ("/livez", "/readyz", "/healthz", "/", "/docs", "/static/page.js", "/static/swagger-ui.css"):
        assert guarded.get(path).status == 200, path


def test_pages_forbid_what_they_do_not_need(guarded: Client) -> None:
    policy = guarded.get("/").headers["content-security-policy"]
    assert "default-src 'self'" in policy
    assert "frame-ancestors 'none'" in policy
    assert guarded.get("/readyz").status == 200


def test_cors_is_off(guarded: Client) -> None:
    answer = guarded.request("OPTIONS", "/", headers={"Origin": "http://evil", "Access-Control-Request-Method": "POST"})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_the_command_prints_a_key_that_its_hash_admits(capsys: pytest.CaptureFixture[str]) -> None:
    assert command.main([]) == 0
    printed = capsys.readouterr().out.split()
    hashed = next(word for word in printed if word.startswith("SHORTCUT_API_KEYS=")).partition("=")[2]
    assert any(keys.admits((hashed.removeprefix("sha256:"),), f"Bearer {word}") for word in printed)
