"""Which pages of other sites may ask the service from a browser: CORS (the Fetch standard, section 3.2).

A browser asks before it sends what a form could not (a preflight). It shows a page the answer only where a header says
that it may. This is no protection of the service: other programs ask for no leave. Keys are. Knows headers only.
"""

import re

from serving.edge.http1 import Headers, Request, Response

ANY = "*"
_NAMES = re.compile(rb"[A-Za-z0-9!#$%&'*+.^_`|~ ,-]{1,1024}")  # a list of header names
METHODS = "GET, HEAD, POST, DELETE, OPTIONS"
REQUEST_HEADERS = "authorization, content-type, x-request-id, inference-header-content-length"
# What a page may read beside the few headers that it always may.
ANSWER_HEADERS = "x-request-id, retry-after, inference-header-content-length"
KEPT_SECONDS = "600"  # that a browser need not ask again; Chromium takes up to 7,200


class Cors:
    """`origins` may ask, as `scheme://host:port`, or ANY."""

    def __init__(self, origins: tuple[str, ...]):
        self._any = ANY in origins
        exposed = ("access-control-expose-headers", ANSWER_HEADERS)
        # An answer for one origin must not be kept by a cache for another one.
        vary: Headers = () if self._any else (("vary", "origin"),)
        self._others: Headers = (("access-control-allow-origin", ANY), exposed) if self._any else vary
        self._allowed: dict[bytes, Headers] = {
            origin.encode(): (("access-control-allow-origin", origin), exposed, *vary) for origin in origins
        }

    def headers(self, request: Request) -> Headers:
        """What goes with the answer, whatever it is."""
        origin = request.fields.get(b"origin")
        return self._others if self._any or origin is None else self._allowed.get(origin, self._others)

    def preflight(self, request: Request) -> Response | None:
        """The answer to a browser that asks whether it may ask; None for any other request. It holds no secret, and
        browsers send no key with it."""
        if request.method != b"OPTIONS" or b"access-control-request-method" not in request.fields:
            return None
        origin = request.fields.get(b"origin")
        if origin is None:
            return None
        if not self._any and origin not in self._allowed:
            return Response(204, b"")  # without leave: the browser tells the page
        names = request.fields.get(b"access-control-request-headers", b"")
        wanted = names.decode() if _NAMES.fullmatch(names) else REQUEST_HEADERS
        return Response(
            204,
            b"",
            (
                ("access-control-allow-methods", METHODS),
                ("access-control-allow-headers", wanted),
                ("access-control-max-age", KEPT_SECONDS),
            ),
        )
