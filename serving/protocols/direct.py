"""POST /classify, answered from the connection itself: no ASGI scope, task or response object.

Takes a request that arrived whole and holds one small picture, which is nearly every one; what is larger or slower to
decode is left to the route in `service`. Both say the same, since both take each step from the same modules.
"""

import functools
import time
from collections.abc import Callable

from serving.edge import keys, uploads
from serving.edge.exchange import Exchange, Headers
from serving.edge.router import internal_error, json_response
from serving.engine.batching import Job
from serving.errors import ClassifyError, InvalidImage
from serving.operations import metrics as telemetry
from serving.protocols import parameters
from serving.repository.models import Repository
from serving.repository.served import INLINE_BYTES, ServedModel, stages


class DirectClassify:
    """`connections` asks it for every POST to `path` of at most `limit` bytes; False sends the request on to ASGI."""

    path = b"/classify"

    def __init__(
        self, repository: Callable[[], Repository], max_bytes: int, max_parts: int, key_hashes: tuple[str, ...]
    ):
        self.limit = min(INLINE_BYTES + 1024, max_bytes)  # a form around the picture
        self._repository = repository
        self._max_parts = max_parts
        self._key_hashes = key_hashes

    def __call__(self, exchange: Exchange, body: bytes) -> bool:
        try:
            if self._key_hashes:
                keys.require(self._key_hashes, exchange.headers)
            asked = parameters.parse(exchange.url[len(self.path) + 1 :])
            served = self._repository().find(asked.model, asked.version)
            served.admit()
            content_type = exchange.fields.get(b"content-type", b"").decode("latin-1")
            started = time.perf_counter()
            try:
                image = served.decode_now(uploads.one_image(body, content_type, self._max_parts))
            except InvalidImage as err:
                if uploads.claims_an_image(body, content_type):
                    raise
                raise uploads.not_an_image(content_type) from err
            if image is None:
                return False
            exchange.job = served.submit(image, functools.partial(_answer, exchange, served, asked.top_k, started))
        except ClassifyError as err:
            _refuse(exchange, err)
        except Exception:  # the outermost edge, as in http.Front
            _refuse(exchange, internal_error("/classify", exchange.request_id))
        return True


def _answer(exchange: Exchange, served: ServedModel, top_k: int, started: float, job: Job) -> None:
    try:
        body = served.body(job.probabilities(), top_k)
    except ClassifyError as err:
        _refuse(exchange, err)
    except Exception:
        _refuse(exchange, internal_error("/classify", exchange.request_id))
    else:
        exchange.answer(body)
        details = stages(started, job) if telemetry.detailed else ()
        telemetry.finished("/classify", 200, exchange.started, exchange.request_id, details)


def _refuse(exchange: Exchange, err: ClassifyError) -> None:
    exchange.answer(*_written(err.status, err.headers, tuple(err.body().items())))
    telemetry.finished("/classify", err.status, exchange.started, exchange.request_id)


@functools.lru_cache(64)  # under overload thousands a second, in the same few words: what refusing costs is goodput
def _written(
    status: int, headers: tuple[tuple[str, str], ...], content: tuple[tuple[str, str], ...]
) -> tuple[bytes, int, Headers]:
    response = json_response(dict(content), status, dict(headers))
    return bytes(response.body), status, tuple(response.raw_headers)
