"""Pictures -> what is sent to the service, and what it answers -> typed answers or exceptions. Sends nothing itself."""

import json
import secrets
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import Any, Generic, Literal, TypedDict, TypeVar

import httpx

from serving.errors import ClassifyError, Unavailable

T = TypeVar("T")
_FAILURES = {failure.code: failure for failure in ClassifyError.__subclasses__()}
FIRST_WAIT = 0.2  # seconds after the first connection error, and twice as many after each further one
BUSY_WAIT = 1.0  # seconds after a 503 that does not say when to come again
BAD_GATEWAY = 502  # of a proxy whose service is away: as good as a connection error
LEAST_WAIT = 0.1  # seconds after one that says "at once"


class NoAnswer(Unavailable):
    """The base of what fails outside the service."""


class Unreachable(NoAnswer):
    """Nobody answers at the address, or the connection broke each time."""

    code = "unreachable"


class NotTheService(NoAnswer):
    """Something else answers there: a proxy's page, another program, a redirection."""

    code = "not_the_service"


@dataclass(frozen=True, slots=True)
class Prediction:
    label: str
    index: int
    probability: float


@dataclass(frozen=True, slots=True)
class Answer:
    """`predictions` are the most probable classes, best first. `unsure` says why not to rely on them, if so."""

    model: str
    version: int
    predictions: tuple[Prediction, ...]
    unsure: str | None = None


Result = Answer | ClassifyError


class Options(TypedDict, total=False):
    """What is left out is the service's choice: its default model, the latest version, three classes, no threshold."""

    model: str
    version: int
    top_k: int
    min_probability: float | Literal["card"]


class Call(Generic[T]):
    """A request as httpx's `request` takes it, and how its answer is read."""

    def __init__(self, read: Callable[[Any], T], **request: Any):
        self._read, self.request = read, request

    def answer(self, response: httpx.Response) -> T:
        """Raises the failure that the service names, or NotTheService."""
        try:
            content = json.loads(response.content)
            if response.is_success:
                return self._read(content)
            failure = _failure(content)
        except (ValueError, LookupError, TypeError, RecursionError) as err:
            kind = response.headers.get("content-type", "no content type")
            raise NotTheService(f"{response.url} answers {response.status_code}, {kind}: not this service") from err
        failure.status = response.status_code
        raise failure


def _failure(content: Mapping[str, str]) -> ClassifyError:
    failure = _FAILURES.get(content["code"], ClassifyError)(content["error"])
    failure.code = content["code"]  # a newer service may have codes that are not known here
    return failure


def _answer(content: Mapping[str, Any], model: str, version: int) -> Answer:
    predictions = tuple([Prediction(p["label"], p["index"], p["probability"]) for p in content["predictions"]])
    return Answer(model, version, predictions, content.get("unsure"))


def one(picture: bytes, options: Options) -> Call[Answer]:
    def read(content: Any) -> Answer:
        return _answer(content, content["model"], content["version"])

    headers = {"content-type": "application/octet-stream"}
    return Call(read, method="POST", url="classify", params=options, headers=headers, content=picture)


def several(pictures: Sequence[bytes], options: Options) -> Call[list[Result]]:
    """One form. It is written here in one piece: httpx would send each field by itself. The answers come in order, so
    the names of files, which may be anything, stay at home."""

    def read(content: Any) -> list[Result]:
        model, version, results = content["model"], content["version"], content["results"]
        if len(results) != len(pictures):
            raise ValueError(f"{len(results)} results for {len(pictures)} pictures")
        return [_answer(r, model, version) if "predictions" in r else _failure(r) for r in results]

    boundary = secrets.token_hex(16)
    head = f'--{boundary}\r\nContent-Disposition: form-data; name="image"; filename="picture"\r\n\r\n'.encode()
    fields = [part for picture in pictures for part in (head, picture, b"\r\n")]
    body = b"".join([*fields, f"--{boundary}--\r\n".encode()])
    headers = {"content-type": f"multipart/form-data; boundary={boundary}"}
    return Call(read, method="POST", url="classify/batch", params=options, headers=headers, content=body)


def models() -> Call[dict[str, Any]]:
    return Call(dict, method="GET", url="models")


class Attempts:
    """Whether one request is sent again, and when: after a connection error up to `retries` times, and after a 503 as
    long as all waits for those are no longer than `patience` seconds."""

    def __init__(self, url: str, retries: int, patience: float):
        self._url, self._errors, self._retries, self._patience = url, 0, retries, patience

    def after(self, outcome: httpx.Response | httpx.RequestError) -> httpx.Response | float:
        """The response to read, or seconds to wait before the request is sent again. Raises Unreachable."""
        if isinstance(outcome, httpx.Response) and outcome.status_code != BAD_GATEWAY:
            if outcome.status_code != 503 or (wait := _retry_after(outcome)) > self._patience:
                return outcome
            self._patience -= wait
            return wait
        self._errors += 1
        if isinstance(outcome, httpx.Response):
            if self._errors > self._retries:
                raise Unreachable(f"{self._url}: a proxy answers 502, which does not reach the service behind it")
        elif why := _certificate(outcome):
            raise Unreachable(f"{self._url}: {why}; --cacert (`cacert`) names certificates to trust") from outcome
        elif self._errors > self._retries:
            raise Unreachable(f"{self._url}: {str(outcome) or type(outcome).__name__}") from outcome
        return FIRST_WAIT * 2.0 ** (self._errors - 1)


def _certificate(error: BaseException | None) -> str:
    """What is wrong with the server's certificate, if that is why: it would be the same another time."""
    while error is not None:
        if isinstance(error, ssl.SSLCertVerificationError):
            return f"its certificate is not trusted ({error.verify_message})"
        error = error.__cause__ or error.__context__
    return ""


def _retry_after(response: httpx.Response) -> float:
    """Seconds, from a number or a date (RFC 9110, section 10.2.3)."""
    text = response.headers.get("retry-after", "")
    try:
        wait = float(text) if text.isdecimal() else (parsedate_to_datetime(text) - datetime.now(UTC)).total_seconds()
    except (ValueError, TypeError):  # there is none, it is no date, or one without a time zone
        wait = BUSY_WAIT
    return max(wait, LEAST_WAIT)
