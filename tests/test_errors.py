import json

import pytest

from serving import errors
from serving.edge.http1 import JSON, failure
from serving.errors import ClassifyError

# DESIGN's table: what clients rely on.
TABLE = {
    (400, "invalid_image"),
    (400, "invalid_request"),
    (401, "unauthorized"),
    (408, "request_timeout"),
    (431, "headers_too_large"),
    (404, "unknown_model"),
    (404, "not_found"),
    (405, "method_not_allowed"),
    (413, "body_too_large"),
    (413, "image_too_large"),
    (415, "unsupported_format"),
    (422, "invalid_parameter"),
    (500, "internal_error"),
    (503, "overloaded"),
    (503, "unavailable"),
    (504, "deadline_exceeded"),
}


def test_each_failure_has_its_own_code_and_documented_status() -> None:
    classes = [c for c in vars(errors).values() if isinstance(c, type) and issubclass(c, ClassifyError)]
    assert {(c.status, c.code) for c in classes} == TABLE
    assert len({c.code for c in classes}) == len(classes)


def test_every_class_says_when_it_is_raised() -> None:
    assert all(c.__doc__ for c in [*ClassifyError.__subclasses__(), errors.StartError])


def written(err: ClassifyError) -> tuple[int, dict[str, str], dict[str, str]]:
    response = failure(err)
    return response.status, json.loads(response.body), dict(response.headers)


def test_body_is_the_one_shape() -> None:
    status, content, headers = written(errors.InvalidImage("it is empty"))
    assert (status, content) == (400, {"error": "it is empty", "code": "invalid_image"})
    assert headers == dict(JSON)


@pytest.mark.parametrize(
    ("err", "header"),
    [
        (errors.Unauthorized("no key"), ("www-authenticate", "Bearer")),
        (errors.MethodNotAllowed("this route takes GET, HEAD", "GET, HEAD"), ("allow", "GET, HEAD")),
        (errors.Overloaded("64 wait"), ("retry-after", "1")),
        (errors.Unavailable("not loaded", retry_after=7), ("retry-after", "7")),
    ],
)
def test_http_says_more_of_some(err: ClassifyError, header: tuple[str, str]) -> None:
    assert written(err)[2] == dict([*JSON, header])


def test_unknown_wait_has_no_retry_after() -> None:
    assert written(errors.Unavailable("it cannot be computed"))[2] == dict(JSON)
