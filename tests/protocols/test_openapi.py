import json
import re

from serving.edge.router import Route
from serving.errors import ClassifyError
from serving.platforms import Platform
from serving.protocols import doors, openapi
from serving.protocols.doors import DOORS, House
from serving.protocols.pages import Pages
from serving.repository.models import Repository
from serving.settings import Settings
from tests.edge.test_router import nothing


def no_repository() -> Repository:
    raise NotImplementedError


HOUSE = House(no_repository, lambda: None, Settings(), Platform(), 1)
ROUTES = [*Pages(lambda: None, dict, dict).routes(), *doors.routes(list(DOORS), HOUSE)]
PROTOCOLS = {route.protocol.name: route.protocol for route in ROUTES if route.protocol.schemas}.values()
DOCUMENT = openapi.document(ROUTES, PROTOCOLS, ["a-b"], False)


def test_every_reference_is_defined() -> None:
    references = re.findall(r'"#/components/schemas/(\w+)"', json.dumps(DOCUMENT))
    assert references
    for name in references:
        assert name in DOCUMENT["components"]["schemas"]


def test_only_pages_are_left_out() -> None:
    left_out = {route.path for route in ROUTES if route.operation is None and "{verb}" not in route.path}
    others = {"/", "/docs", "/docs.json", "/static/{name}", "/healthz", "/schema.json", "/favicon.ico"}
    assert left_out == others | {"/models/{name}"}  # the page of a model; its card is described
    assert set(DOCUMENT["paths"]) == {route.path for route in ROUTES if "{verb}" not in route.path} - others


def test_every_operation_has_a_name_of_its_own() -> None:
    operations = [operation for methods in DOCUMENT["paths"].values() for operation in methods.values()]
    names = [operation["operationId"] for operation in operations]
    assert len(set(names)) == len(names)


def test_every_failure_is_a_status_that_some_error_has() -> None:
    statuses = {str(c.status) for c in [ClassifyError, *ClassifyError.__subclasses__()]}
    for methods in DOCUMENT["paths"].values():
        for operation in methods.values():
            assert set(operation["responses"]) - {"200"} <= statuses


def test_limits_and_keys_of_this_process_are_in_it() -> None:
    assert "33,554,432 bytes" in json.dumps(DOCUMENT)
    assert "security" not in DOCUMENT
    guarded = openapi.document(ROUTES, PROTOCOLS, ["a-b"], True)
    assert guarded["security"] == [{"key": []}]
    assert guarded["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert guarded["paths"]["/livez"]["get"]["security"] == []
    assert "security" not in guarded["paths"]["/classify"]["post"]


def test_parameters_of_a_path_are_described() -> None:
    route = Route("GET", "/a/{name}/{version}", nothing, operation=lambda models: {"operationId": "a"})
    operation = openapi.document([route], [], [], False)["paths"]["/a/{name}/{version}"]["get"]
    assert [row["name"] for row in operation["parameters"]] == ["name", "version"]


def test_description_names_the_models_that_are_served() -> None:
    for path in ("/classify", "/classify/batch", "/models/{name}"):
        assert '"a-b"' in json.dumps(DOCUMENT["paths"][path])
