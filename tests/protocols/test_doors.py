"""Which front doors are open, by the setting and by the platform's environment."""

from pathlib import Path

import pytest

from serving.errors import StartError
from serving.platforms import Platform, detect
from serving.protocols import doors
from serving.protocols.doors import DOORS, House, opened
from serving.repository.models import Repository
from serving.settings import Settings

NOWHERE = Platform()


def test_cloud_platform_opens_by_its_environment(tmp_path: Path) -> None:
    assert opened("", NOWHERE) == [name for name in DOORS if name not in ("sagemaker", "vertex")]
    assert "sagemaker" in opened("", Platform(sagemaker=True))
    assert "vertex" in opened("", detect({"AIP_HTTP_PORT": "8080"}, tmp_path / "none"))


def test_doors_are_named() -> None:
    assert opened("all", NOWHERE) == list(DOORS)
    assert opened(" vertex ,native, vertex", NOWHERE) == ["vertex", "native"]
    with pytest.raises(StartError, match=r"SHORTCUT_PROTOCOLS=grpc: 'grpc' is none of native, .*all"):
        opened("grpc", NOWHERE)


def test_routes_are_those_of_open_doors() -> None:
    def repository() -> Repository:
        raise NotImplementedError

    def paths(names: str, platform: Platform = NOWHERE) -> set[str]:
        house = House(repository, lambda: None, Settings(), platform, 1)
        return {route.path for route in doors.routes(opened(names, platform), house)}

    assert {"/classify", "/v2", "/v1/models/{name}:predict", "/hf/{name}"} <= paths("")
    assert not {"/ping", "/invocations", "/health", "/predict"} & paths("")
    assert paths("bentoml_client") == set()
    here = Platform(vertex_health="/alive", vertex_predict="/v1/endpoints/7:predict")
    assert {"/alive", "/v1/endpoints/7:predict"} <= paths("", here)
