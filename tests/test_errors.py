from serving import errors
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


def test_body_is_the_one_shape() -> None:
    assert errors.InvalidImage("it is empty").body() == {"error": "it is empty", "code": "invalid_image"}
