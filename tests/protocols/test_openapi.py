import json
import re
from dataclasses import replace

from serving.errors import ClassifyError
from serving.protocols import openapi
from serving.settings import Settings
from tests.fixtures.server import ROOT

DOCUMENT = openapi.document(Settings(), ["a-b"])


def test_every_reference_is_defined() -> None:
    for name in re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT)):
        assert name in DOCUMENT["components"]["schemas"]


def test_every_documented_route_exists_and_every_api_route_is_documented() -> None:
    others = ("/", "/docs", "/docs.json", "/static/{name}", "/healthz", "/schema.json", "/favicon.ico")
    pages = {("GET", path) for path in others}
    protocols = "".join(file.read_text() for file in (ROOT / "serving" / "protocols").glob("*.py"))
    served = set(re.findall(r'Route\("(\w+)", "([^"]+)"', protocols))
    documented = {(method.upper(), path) for path, methods in DOCUMENT["paths"].items() for method in methods}
    assert documented == served - pages


def test_every_failure_is_a_status_that_some_error_has() -> None:
    statuses = {str(c.status) for c in [ClassifyError, *ClassifyError.__subclasses__()]}
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            assert set(operation["responses"]) - {"200"} <= statuses


def test_limits_and_keys_of_this_process_are_in_it() -> None:
    assert "33,554,432 bytes" in json.dumps(DOCUMENT)
    assert "security" not in DOCUMENT
    guarded = openapi.document(replace(Settings(), api_keys=("0" * 64,)), ["a-b"])
    assert guarded["security"] == [{"key": []}]
    assert guarded["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
