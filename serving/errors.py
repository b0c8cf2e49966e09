"""Every way a request can fail, one class each, with its HTTP status and code word on the class.

A message says what was wrong, the limit and what was received. How a protocol writes a failure is not known here.
"""


class ClassifyError(Exception):
    """The base, and what nobody thought of."""

    status = 500
    code = "internal_error"
    retry_after: int | None = None  # seconds after which the same request may be answered, where that is known


class InvalidImage(ClassifyError):
    """Empty, truncated, not an image, zero-sized."""

    status, code = 400, "invalid_image"


class InvalidRequest(ClassifyError):
    """Malformed multipart or JSON, a missing field, an address where bytes belong."""

    status, code = 400, "invalid_request"


class Unauthorized(ClassifyError):
    """Keys are configured and none or a wrong one was sent."""

    status, code = 401, "unauthorized"


class UnknownModel(ClassifyError):
    """No such model or version; the message lists what there is."""

    status, code = 404, "unknown_model"


class NotFound(ClassifyError):
    """No such route."""

    status, code = 404, "not_found"


class MethodNotAllowed(ClassifyError):
    """The route exists, but not for this method: for those in `allowed`, separated by commas."""

    status, code = 405, "method_not_allowed"

    def __init__(self, message: str, allowed: str = ""):
        super().__init__(message)
        self.allowed = allowed


class RequestTimeout(ClassifyError):
    """The client was too slow to send its request."""

    status, code = 408, "request_timeout"


class HeadersTooLarge(ClassifyError):
    """The request line and headers are over their limit."""

    status, code = 431, "headers_too_large"


class BodyTooLarge(ClassifyError):
    """Over the byte limit."""

    status, code = 413, "body_too_large"


class ImageTooLarge(ClassifyError):
    """Over the pixel limit, known before decoding."""

    status, code = 413, "image_too_large"


class UnsupportedFormat(ClassifyError):
    """An image format that is not enabled, or a body type that no route takes."""

    status, code = 415, "unsupported_format"


class InvalidParameter(ClassifyError):
    """A query parameter outside its range."""

    status, code = 422, "invalid_parameter"


class Overloaded(ClassifyError):
    """The bounded queue is full."""

    status, code = 503, "overloaded"
    retry_after = 1


class Unavailable(ClassifyError):
    """No model can answer."""

    status, code = 503, "unavailable"

    def __init__(self, message: str, retry_after: int | None = None):
        super().__init__(message)
        self.retry_after = retry_after


class DeadlineExceeded(ClassifyError):
    """Not computed within the deadline; dropped before it cost compute."""

    status, code = 504, "deadline_exceeded"


class StartError(RuntimeError):
    """The service cannot start: a damaged artifact, a provider that is not to be had, a wrong setting.

    Not a request's failure: it ends the process with one line that names the file or the reason.
    """
