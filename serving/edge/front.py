"""What stands before the routes: the path below which a proxy shows the service, and leave for other sites' pages.

Neither is there by default, and then nothing here runs. Knows paths and headers; no route, no model.
"""

import re

from serving.edge.cors import Cors
from serving.edge.http1 import Headers, Request, Response
from serving.edge.router import Route, Router
from serving.operations import metrics

ROOT = re.compile(r"(/[A-Za-z0-9._~-]+)+")
PREFLIGHT, ROOT_ROUTE = "preflight", "root"  # the routes in metrics; the latter redirects to the page
LABELS = {PREFLIGHT: metrics.NATIVE, ROOT_ROUTE: metrics.NATIVE}


class Front:
    """`root` is the path below which a proxy shows the service, as `/classifier`: paths below it are taken with it and
    without it, since some proxies take it off. With `trusts_forwarded` X-Forwarded-Prefix says it for each request,
    which anybody can send where no proxy is in front."""

    def __init__(self, router: Router, root: str = "", trusts_forwarded: bool = False, cors: Cors | None = None):
        self._router = router
        self._root = root
        self._trusts_forwarded = trusts_forwarded
        self._cors = cors

    def prefix(self, request: Request) -> str:
        """What stands before the service's paths where the client sees them."""
        if self._trusts_forwarded:
            given = request.header(b"x-forwarded-prefix").rstrip("/")
            if ROOT.fullmatch(given):
                return given
        return self._root

    def accept(self, request: Request) -> Route:
        """As Router.accept."""
        prefix = self.prefix(request).encode()
        if prefix and request.path.startswith(prefix):
            below = request.path[len(prefix) :]
            if below.startswith(b"/"):
                request.path = below
            elif not below:  # links of the page are relative: without the slash they would lead beside it
                request.label = ROOT_ROUTE
                return _answering(Response(308, b"", (("location", f"{prefix.decode()}/"),)))
        if self._cors is not None:
            preflight = self._cors.preflight(request)
            if preflight is not None:
                request.label = PREFLIGHT
                return _answering(preflight)
        return self._router.accept(request)

    def headers(self, request: Request) -> Headers:
        """What goes with every answer."""
        return () if self._cors is None else self._cors.headers(request)


def _answering(response: Response) -> Route:
    return Route("*", "*", lambda request: response)


def of(router: Router, root: str, trusts_forwarded: bool, origins: tuple[str, ...]) -> Front | None:
    """None where the settings ask for nothing of it."""
    if not (root or trusts_forwarded or origins):
        return None
    return Front(router, root, trusts_forwarded, Cors(origins) if origins else None)
