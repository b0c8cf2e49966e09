"""API keys: the service knows only SHA-256 hashes of them and compares in constant time."""

import hashlib
import hmac
import secrets

from serving.edge.http1 import Request
from serving.errors import Unauthorized

PREFIX = "sha256:"


def make() -> tuple[str, str]:
    """A new random key of 256 bits, and its hash as SHORTCUT_API_KEYS takes it."""
    key = secrets.token_urlsafe(32)
    return key, PREFIX + digest(key.encode())


def digest(key: bytes) -> str:
    """Plain SHA-256 is enough: a key is random and long, so there is nothing to guess from its hash."""
    return hashlib.sha256(key).hexdigest()


def admits(hashes: tuple[str, ...], authorization: str) -> bool:
    """Whether an Authorization header carries a key with one of `hashes` (hex); every hash is compared."""
    scheme, _, key = authorization.partition(" ")
    offered = digest(key.strip().encode("latin-1", "replace")) if scheme.lower() == "bearer" else ""
    admitted = False
    for known in hashes:
        admitted |= hmac.compare_digest(offered, known)
    return admitted


def require(hashes: tuple[str, ...], request: Request) -> None:
    """Raises Unauthorized unless the request holds exactly one Authorization, and that is admitted."""
    if b"authorization" in request.repeated or not admits(hashes, request.header(b"authorization")):
        raise Unauthorized("this service asks for a key: send Authorization: Bearer <key>")
