"""Settings and models -> the edge of one process, with all that answers requests there. Knows no BentoML.

`serving.service` runs it in each worker, and a test in its own process.
"""

from collections.abc import Callable
from typing import Any

from serving.edge import front, uploads, worker
from serving.edge.http1 import Request
from serving.edge.router import Router
from serving.platforms import Platform
from serving.protocols import doors, openapi, pages
from serving.repository.models import Repository
from serving.settings import Settings


def assemble(
    settings: Settings,
    platform: Platform,
    opened: list[str],
    workers: int,
    repository: Callable[[], Repository],
    schema: Callable[[], Any],
) -> worker.Edge:
    """The edge of one of `workers`, with the doors that are `opened`.

    `repository` gives the models, or raises Unavailable while they are being loaded; `schema` gives what BentoML's
    clients ask for.
    """

    def ready() -> None:
        pages.not_ready(repository().computes, edge.draining)

    def document() -> dict[str, Any]:
        return openapi.document(router.routes, router.protocols, list(repository().models), bool(settings.api_keys))

    def prefix(request: Request) -> str:
        return "" if edge.front is None else edge.front.prefix(request)

    house = doors.House(repository, ready, settings, platform, workers)
    # The doors last, since a platform may want one of the pages' paths for its own question.
    routes = [*pages.Pages(ready, document, schema, prefix).routes(), *doors.routes(opened, house)]
    router = Router(routes, settings.api_keys)
    largest = max(settings.max_body_bytes, settings.max_batch_body_bytes)
    edge = worker.Edge(
        router=router,
        front=front.of(router, settings.root_path, bool(settings.trust_forwarded_prefix), settings.cors_origins),
        limits=worker.Limits(
            header_bytes=settings.max_header_bytes,
            head_seconds=settings.head_seconds,
            body_seconds=settings.body_seconds,
            idle_seconds=settings.idle_seconds,
            connections=settings.max_connections,
            body_rate=settings.min_body_rate,
        ),
        bodies=uploads.Budget(settings.max_bodies_bytes or worker.default_limit(workers, largest)),
    )
    return edge
