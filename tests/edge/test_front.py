"""The root path of a proxy, and which other sites' pages may ask: routing, answers, refusals, preflights."""

import pytest

from serving.edge import front, keys
from serving.edge.http1 import Request, Response, parse_head
from serving.edge.router import Route, Router
from serving.edge.uploads import Budget
from serving.edge.worker import Edge
from tests.fixtures.wire import LIMITS, Wire, on_a_loop

SITE = "https://site.example"
KEY, HASH = keys.make()
PREFLIGHT = {"Origin": SITE, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "content-type"}


def where(request: Request) -> Response:
    return Response(200, f"{request.path.decode()} {request.label}".encode(), (("vary", "accept"),))


def ask(
    method: str,
    path: str,
    headers: dict[str, str] | None = None,
    root: str = "",
    trusts: bool = False,
    origins: tuple[str, ...] = (),
    key: str = "",
) -> tuple[int, dict[str, str], bytes]:
    """The status, headers and body of an answer."""
    paths = (("GET", "/"), ("POST", "/classify"), ("GET", "/m/{name}"))
    routes = [Route(known, of, where, max_bytes=10 * (known == "POST")) for known, of in paths]
    router = Router(routes, (key.removeprefix("sha256:"),) if key else ())
    before = front.of(router, root, trusts, origins)

    def run() -> bytes:
        wire = Wire(edge=Edge(router, LIMITS, Budget(1000), front=before))
        lines = "".join(f"{name}: {value}\r\n" for name, value in (headers or {}).items())
        wire.send(f"{method} {path} HTTP/1.1\r\nHost: a\r\n{lines}\r\n".encode())
        return wire.transport.written

    head, _, body = on_a_loop(run).partition(b"\r\n\r\n")
    status, *fields = head.decode().split("\r\n")
    found: dict[str, str] = {}
    for line in fields:
        name, _, value = line.partition(": ")
        found[name] = f"{found[name]}, {value}" if name in found else value
    return int(status.split()[1]), found, body


# The root path


@pytest.mark.parametrize("path", ["/shown/m/a", "/m/a"])  # a proxy may take it off, or not
def test_a_path_is_found_with_the_root_path_and_without(path: str) -> None:
    assert ask("GET", path, root="/shown")[::2] == (200, b"/m/a /m/{name}")


def test_the_root_path_without_a_slash_leads_to_the_page() -> None:
    status, headers, _ = ask("GET", "/shown?x=1", root="/shown")
    assert (status, headers["location"]) == (308, "/shown/")
    assert ask("GET", "/shown/", root="/shown")[::2] == (200, b"/ /")


@pytest.mark.parametrize("path", ["/shownm/a", "/other/m/a", "/shown/shown/m/a"])
def test_another_path_is_not_below_the_root_path(path: str) -> None:
    assert ask("GET", path, root="/shown")[0] == 404


def test_a_forwarded_prefix_is_taken_only_where_it_is_trusted() -> None:
    given = {"X-Forwarded-Prefix": "/proxy/"}
    assert ask("GET", "/proxy/m/a", given)[0] == 404
    assert ask("GET", "/proxy/m/a", given, root="/shown")[0] == 404
    assert ask("GET", "/proxy/m/a", given, trusts=True)[0] == 200
    assert ask("GET", "/m/a", given, trusts=True)[0] == 200
    assert ask("GET", "/proxy", given, trusts=True)[1]["location"] == "/proxy/"


@pytest.mark.parametrize("given", ["//evil.example", "/a b", "https://evil", "/a\\b", "/a%0d", ""])
def test_a_forwarded_prefix_that_is_no_path_is_left_alone(given: str) -> None:
    request = parse_head(f"GET / HTTP/1.1\r\nHost: a\r\nX-Forwarded-Prefix: {given}\r\n\r\n".encode())
    before = front.of(Router([]), "/shown", True, ())
    assert before is not None
    assert before.prefix(request) == "/shown"


# CORS


def test_without_the_setting_nothing_stands_before_the_routes() -> None:
    assert front.of(Router([]), "", False, ()) is None
    status, headers, _ = ask("OPTIONS", "/classify", PREFLIGHT)
    assert status == 405
    assert not [name for name in headers if name.startswith("access-control")]


@pytest.mark.parametrize(("origins", "allowed"), [((SITE, "https://b"), SITE), (("*",), "*")])
def test_a_preflight_is_answered_without_a_key_for_every_path(origins: tuple[str, ...], allowed: str) -> None:
    for path in ("/classify", "/nothing"):
        status, headers, body = ask("OPTIONS", path, PREFLIGHT, origins=origins, key=HASH)
        assert (status, body) == (204, b"")
        assert headers["access-control-allow-origin"] == allowed
        assert "POST" in headers["access-control-allow-methods"]
        assert headers["access-control-allow-headers"] == "content-type"
        assert headers.get("vary") == (None if allowed == "*" else "origin")
        assert "content-length" not in headers  # RFC 9110, section 8.6: a 204 has none


def test_a_preflight_of_another_site_gets_no_leave() -> None:
    status, headers, _ = ask("OPTIONS", "/classify", PREFLIGHT | {"Origin": "https://evil"}, origins=(SITE,))
    assert status == 204
    assert [name for name in headers if name.startswith("access-control")] == []
    assert headers["vary"] == "origin"


@pytest.mark.parametrize(
    ("method", "path", "status"), [("GET", "/", 200), ("GET", "/nothing", 404), ("POST", "/classify", 401)]
)
def test_answers_and_failures_carry_the_leave(method: str, path: str, status: int) -> None:
    key = HASH if status == 401 else ""
    answered, headers, _ = ask(method, path, {"Origin": SITE}, origins=(SITE,), key=key)
    assert answered == status
    assert headers["access-control-allow-origin"] == SITE
    assert "x-request-id" in headers["access-control-expose-headers"]
    assert "origin" in headers["vary"]
    assert "access-control-allow-credentials" not in headers


@pytest.mark.parametrize("origin", ["https://evil", "https://site.example.evil", "null", None])
def test_other_origins_get_the_answer_without_leave(origin: str | None) -> None:
    status, headers, _ = ask("GET", "/", {"Origin": origin} if origin else {}, origins=(SITE,))
    assert status == 200
    assert "access-control-allow-origin" not in headers
    assert headers["vary"] == "accept, origin"  # a cache must not give this answer to the other site


def test_names_of_headers_that_are_none_are_not_repeated() -> None:
    odd = PREFLIGHT | {"Access-Control-Request-Headers": "x<y>"}
    headers = ask("OPTIONS", "/classify", odd, origins=("*",))[1]
    assert "authorization" in headers["access-control-allow-headers"]
