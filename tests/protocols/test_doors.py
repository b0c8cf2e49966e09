import pytest

from serving.errors import StartError
from serving.protocols import doors
from serving.protocols.doors import DOORS, Door, opened
from serving.repository.models import Repository
from serving.settings import Settings


@pytest.fixture(autouse=True)
def _two_doors(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(DOORS, "cloud", Door(lambda repository, settings: [], lambda env: "CLOUD_PORT" in env))


def test_cloud_platform_opens_by_its_environment() -> None:
    assert "native" in opened("", {})
    assert "cloud" not in opened("", {})
    assert "cloud" in opened("", {"CLOUD_PORT": "8080"})


def test_doors_are_named() -> None:
    assert opened("all", {}) == list(DOORS)
    assert opened(" cloud ,native, cloud", {}) == ["cloud", "native"]
    with pytest.raises(StartError, match=r"SHORTCUT_PROTOCOLS=grpc: 'grpc' is none of native, .*all"):
        opened("grpc", {})


def test_routes_are_those_of_open_doors() -> None:
    def repository() -> Repository:
        raise NotImplementedError

    def paths(names: str) -> set[str]:
        return {route.path for route in doors.routes(repository, Settings(protocols=names), {})}

    assert "/classify" in paths("")
    assert paths("cloud") == set()
