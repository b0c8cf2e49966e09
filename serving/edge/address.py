"""The address that the service is about to listen on: whether that can be, and who can reach it."""

import errno
import ipaddress
import socket
from typing import NamedTuple

from serving.errors import StartError

_WHY = {
    errno.EADDRINUSE: "another program listens there; choose another with --port or PORT",
    errno.EACCES: "ports below 1024 need more rights; choose a higher one with --port or PORT",
    errno.EADDRNOTAVAIL: "this machine has no such address (--host)",
}


class Address(NamedTuple):
    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def reachable(self) -> bool:
        """Whether other machines may reach it."""
        try:
            return not ipaddress.ip_address(self.host).is_loopback
        except ValueError:
            return self.host != "localhost"

    def check(self) -> None:
        """Raises StartError if nothing can listen there."""
        if not 0 <= self.port <= 65535:
            raise StartError(f"--port {self.port}: a port is a number from 0 to 65535")
        try:
            addresses = socket.getaddrinfo(self.host, self.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
            family, kind, protocol, _, where = addresses[0]
            with socket.socket(family, kind, protocol) as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the service's own does
                probe.bind(where)
        except OSError as err:
            raise StartError(f"cannot listen on {self}: {_WHY.get(err.errno or 0, err.strerror or err)}") from err
