"""TLS files that are renewed while the service runs: the next handshake uses the new ones, no connection is lost.

Certificates live for weeks, services for longer; certbot and Kubernetes put new files in place of the old ones. Knows
files and the ssl module only.
"""

import logging
import os
import ssl
from collections.abc import Sequence
from pathlib import Path

log = logging.getLogger("shortcut")


class Certificate:
    """The certificate and key of `context`, which were loaded from these files a moment ago."""

    def __init__(self, context: ssl.SSLContext, certificate: str, key: str | None, password: str | None = None):
        self._context = context
        self._files = (certificate, key, password)
        self._seen = self._look()

    def _look(self) -> Sequence[tuple[int, int, int]]:
        """What changes with the files' contents; a link counts as what it leads to."""
        certificate, key, _ = self._files
        files = [os.stat(name) for name in (certificate, key) if name is not None]  # noqa: PTH116 (no Path a second)
        return [(file.st_mtime_ns, file.st_size, file.st_ino) for file in files]

    def take_up(self) -> bool:
        """Load the files if they have changed since they were last looked at; whether they were loaded. Files that do
        not fit together (only one of them is there yet) change nothing, and are tried again once they change."""
        certificate, key, password = self._files
        try:
            now = self._look()
            if now == self._seen:
                return False
            self._seen = now
            # Tried on a context that nobody uses: one that is given a key of another certificate is left with half.
            ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(certificate, key, password)
            self._context.load_cert_chain(certificate, key, password)
        except OSError as err:  # ssl.SSLError is one
            log.warning("the TLS files have changed and cannot be loaded, the old ones stay: %s", err)
            return False
        log.info("the renewed TLS certificate %s is in use", Path(certificate).name)
        return True
