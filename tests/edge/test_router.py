"""Paths -> routes, and whose shape a failure has."""

import json

import pytest

from serving.edge import http1
from serving.edge.http1 import Request, Response
from serving.edge.router import Protocol, Route, Router, failed
from serving.errors import ClassifyError, MethodNotAllowed, NotFound, Unauthorized


def other_failure(err: ClassifyError) -> Response:
    return Response(err.status, json.dumps({"error": f"other: {err}"}).encode())


OTHER = Protocol("other", other_failure, prefixes=("/v2/", "/v1/"))


def nothing(request: Request) -> None:
    return None


ROUTES = [
    Route("GET", "/models", nothing),
    Route("GET", "/models/{name}", nothing),
    Route("GET", "/models/{name}", nothing, open=True, page=True),
    Route("GET", "/v2/models/{name}", nothing, protocol=OTHER),
    Route("POST", "/v2/models/{name}/infer", nothing, protocol=OTHER),
    Route("POST", "/v2/models/{name}/versions/{version}/infer", nothing, protocol=OTHER),
    Route("POST", "/v1/models/{name}:predict", nothing, protocol=OTHER, any_case=True),
    Route("POST", "/from/the/environment", nothing, protocol=OTHER),
]


def request(method: str, path: str, *headers: str) -> Request:
    data = "\r\n".join([f"{method} {path} HTTP/1.1", "Host: a", *headers, "", ""]).encode()
    return http1.parse_head(data[: data.index(http1.END) + len(http1.END)])


@pytest.mark.parametrize(
    ("method", "path", "route", "parameters"),
    [
        ("GET", "/models", "/models", {}),
        ("GET", "/m%6fdels", "/models", {}),
        ("GET", "/models/a%20b", "/models/{name}", {"name": "a b"}),
        ("GET", "/models/a%2Fb", "/models/{name}", {"name": "a/b"}),
        ("GET", "/models/a%252Fb", "/models/{name}", {"name": "a%2Fb"}),
        ("GET", "/models/caf%C3%A9", "/models/{name}", {"name": "café"}),
        ("HEAD", "/v2/models/x", "/v2/models/{name}", {"name": "x"}),
        ("POST", "/v2/models/x/infer", "/v2/models/{name}/infer", {"name": "x"}),
        (
            "POST",
            "/v2/models/x/versions/12/infer",
            "/v2/models/{name}/versions/{version}/infer",
            {"name": "x", "version": "12"},
        ),
        ("POST", "/v1/models/x:predict", "/v1/models/{name}:predict", {"name": "x"}),
        ("POST", "/v1/models/x%3Apredict", "/v1/models/{name}:predict", {"name": "x"}),
        ("POST", "/V1/Models/x%3apredict", "/v1/models/{name}:predict", {"name": "x"}),
        ("POST", "/v1/models/X:PREDICT", "/v1/models/{name}:predict", {"name": "X"}),
        ("POST", "/from/the/environment", "/from/the/environment", {}),
    ],
)
def test_path_finds_its_route(method: str, path: str, route: str, parameters: dict[str, str]) -> None:
    for _ in range(2):  # the second time it is remembered
        asked = request(method, path)
        router = Router(ROUTES)
        assert router.accept(asked).path == route
        assert (asked.parameters, asked.label) == (parameters, route)


@pytest.mark.parametrize(
    "path",
    ["/V2/models/x", "/v2/models/", "/v2/models/x/y", "/v2/models/x/infer/", "/v2/models//infer", "/v1/models/x"],
)
def test_other_paths_are_no_route(path: str) -> None:
    with pytest.raises(NotFound):
        Router(ROUTES).accept(request("GET", path))


@pytest.mark.parametrize(
    ("method", "path", "status", "ours"),
    [
        ("GET", "/v2/nothing", 404, False),
        ("GET", "/v1/models/x", 404, False),
        ("GET", "/v2/models/x/infer", 405, False),
        ("GET", "/from/the/environment", 405, False),
        ("GET", "/nothing", 404, True),
        ("POST", "/models", 405, True),
    ],
)
def test_failure_has_its_protocols_shape(method: str, path: str, status: int, ours: bool) -> None:
    asked = request(method, path)
    with pytest.raises(ClassifyError) as raised:
        Router(ROUTES).accept(asked)
    response = failed(asked, raised.value)
    assert response.status == status
    assert ("code" in json.loads(response.body)) == ours


def test_what_nobody_thought_of_shows_nothing_of_the_inside() -> None:
    asked = request("GET", "/v2/models/x")
    Router(ROUTES).accept(asked)
    response = failed(asked, ValueError("secret"))
    assert response.status == 500
    assert json.loads(response.body)["error"].startswith("other: internal error")
    assert b"secret" not in response.body


def test_browser_gets_the_page_without_a_key() -> None:
    router = Router(ROUTES, ("0" * 64,))
    assert router.accept(request("GET", "/models/x", "Accept: text/html,*/*")).page
    with pytest.raises(Unauthorized):
        router.accept(request("GET", "/models/x"))
    with pytest.raises(Unauthorized):
        router.accept(request("GET", "/nothing"))


def test_methods_that_there_are_are_named() -> None:
    with pytest.raises(MethodNotAllowed, match="takes GET, HEAD"):
        Router(ROUTES).accept(request("DELETE", "/models/x"))


def test_of_two_routes_the_later_counts() -> None:
    later = Route("GET", "/models", nothing, protocol=OTHER)
    assert Router([*ROUTES, later]).accept(request("GET", "/models")) is later


def test_labels_are_fixed_and_name_the_protocol() -> None:
    labels = Router(ROUTES).labels
    assert labels["/models/{name}"] == labels["unknown"] == "native"
    assert labels["/v2/models/{name}"] == labels["/v2/*"] == labels["/from/the/environment"] == "other"
    asked = request("GET", "/v2/nothing")
    with pytest.raises(NotFound):
        Router(ROUTES).accept(asked)
    assert asked.label == "/v2/*"


def test_clients_cannot_fill_the_memory_with_paths() -> None:
    router = Router(ROUTES)
    for number in range(5000):
        router.accept(request("GET", f"/models/{number}"))
        router.accept(request("GET", f"/models/{'m' * 300}{number}"))
    assert router._find_again_and_again.cache_info().currsize <= 1024
