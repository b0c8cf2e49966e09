"""The two clients, one that waits and one for asyncio. They send what `protocol` describes, again where that helps."""

import asyncio
import ipaddress
import ssl
import time
from collections.abc import Sequence
from typing import Any, Generic, Self, TypeVar, Unpack

import httpx

from serving.client import protocol
from serving.client.protocol import Answer, Attempts, Call, Options, Result

T = TypeVar("T")
Http = TypeVar("Http", httpx.Client, httpx.AsyncClient)


CONNECTIONS = 100  # at most, of one client; further requests wait for one


class _Base(Generic[Http]):
    """Of both clients.

    `url` is where the service is, with the path prefix of a proxy if there is one. A request is sent again after a
    connection error up to `retries` times, and after a 503 when its `Retry-After` tells, as long as these waits are no
    longer than `patience` seconds in all. A connection without any progress for `timeout` seconds has failed.

    `cacert` names a file of certificates (PEM) to trust in place of the usual ones. Proxies are those that the
    environment names, but none for this machine itself.

    Each failure is an exception of its own: that of serving.errors whose `code` the service names, or a NoAnswer.
    """

    _kind: type[Http]
    _http: Http

    def __init__(
        self,
        url: str,
        *,
        api_key: str | None = None,
        retries: int = 4,
        patience: float = 60.0,
        timeout: float = 30.0,
        cacert: str | None = None,
    ):
        if not url.lower().startswith(("http://", "https://")):
            raise ValueError(f"the address must begin with http:// or https://, got {url!r}")
        if api_key and not (api_key.isascii() and api_key.isprintable()):  # httpx would repeat it in its message
            raise ValueError("the key holds what no header can carry, as a line break; it is not repeated here")
        self.url, self._retries, self._patience = url, retries, patience
        headers = {"authorization": f"Bearer {api_key}"} if api_key else {}
        try:
            self._http = self._kind(
                base_url=url,
                headers=headers,
                timeout=httpx.Timeout(timeout, pool=None),  # as long as it takes until one of the connections is free
                limits=httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS),
                verify=_trusted(cacert) if cacert else True,
                trust_env=not _is_this_machine(url),
            )
        except ImportError as err:  # httpx without its extra for SOCKS
            raise ValueError(
                "a SOCKS proxy is in the environment: pip install 'httpx[socks]', or set NO_PROXY"
            ) from err
        except httpx.InvalidURL as err:
            raise ValueError(f"{url!r} is no address: {err}") from err

    def _attempts(self) -> Attempts:
        return Attempts(self.url, self._retries, self._patience)


class Client(_Base[httpx.Client]):
    """Asks and waits; threads may share one. Close it, or use it as a context manager."""

    _kind = httpx.Client

    def classify(self, picture: bytes, **options: Unpack[Options]) -> Answer:
        return self._ask(protocol.one(picture, options))

    def classify_batch(self, pictures: Sequence[bytes], **options: Unpack[Options]) -> list[Result]:
        """In one request; the answer or the failure of each picture, in order."""
        return self._ask(protocol.several(pictures, options))

    def models(self) -> dict[str, Any]:
        """What GET /models answers."""
        return self._ask(protocol.models())

    def _ask(self, call: Call[T]) -> T:
        attempts = self._attempts()
        outcome: httpx.Response | httpx.RequestError
        while True:
            try:
                outcome = self._http.request(**call.request)
            except httpx.RequestError as err:
                outcome = err
            decided = attempts.after(outcome)
            if isinstance(decided, httpx.Response):
                return call.answer(decided)
            time.sleep(decided)

    def close(self) -> None:
        self._http.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class AsyncClient(_Base[httpx.AsyncClient]):
    """The same for asyncio; tasks may share one."""

    _kind = httpx.AsyncClient

    async def classify(self, picture: bytes, **options: Unpack[Options]) -> Answer:
        return await self._ask(protocol.one(picture, options))

    async def classify_batch(self, pictures: Sequence[bytes], **options: Unpack[Options]) -> list[Result]:
        return await self._ask(protocol.several(pictures, options))

    async def models(self) -> dict[str, Any]:
        return await self._ask(protocol.models())

    async def _ask(self, call: Call[T]) -> T:
        attempts = self._attempts()
        outcome: httpx.Response | httpx.RequestError
        while True:
            try:
                outcome = await self._http.request(**call.request)
            except httpx.RequestError as err:
                outcome = err
            decided = attempts.after(outcome)
            if isinstance(decided, httpx.Response):
                return call.answer(decided)
            await asyncio.sleep(decided)

    async def close(self) -> None:
        await self._http.aclose()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()


def _trusted(cacert: str) -> ssl.SSLContext:
    """Raises ValueError naming the file."""
    try:
        return ssl.create_default_context(cafile=cacert)
    except OSError as err:  # ssl.SSLError is one
        raise ValueError(f"{cacert}: no certificates can be read from it ({err.strerror or err})") from err


def _is_this_machine(url: str) -> bool:
    """A proxy is elsewhere, and would ask its own machine."""
    host = httpx.URL(url).host
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")
