"""Who may have one of a worker's connections, and who gives his up when all are taken.

A connection is unproductive while it waits for its client: idle, or with a request that does not go on arriving. When
all places are taken, the peer with the most unproductive connections loses the one that is so for the longest. If there
is none, the new one gets a spare place, on which only probes are answered. Knows addresses and counts, no bytes.
"""

import ipaddress
from dataclasses import dataclass, field
from typing import Any, Protocol

SPARE_PLACES = 128  # for probes, beside the limit: more than connections are accepted in one turn of the event loop
GRACE_SECONDS = 1.0  # a connection that waits for less may have a request under way


class Holder(Protocol):
    """A connection that may have to give up its place."""

    @property
    def waits_since(self) -> float: ...
    def give_up_place(self) -> None: ...
    def refuse_full(self) -> None: ...


@dataclass
class _Peer:
    key: str
    connections: int = 0
    waiting: dict[Holder, None] = field(default_factory=dict)  # the unproductive ones, the longest so first


class Places:
    """`limit` connections, and SPARE_PLACES for probes. Times are the event loop's."""

    def __init__(self, limit: int):
        self.limit = limit
        self._taken: dict[Holder, _Peer] = {}
        self._peers: dict[str, _Peer] = {}
        self._spare: dict[Holder, None] = {}

    def __len__(self) -> int:
        """Connections that hold a regular place."""
        return len(self._taken)

    def enter(self, holder: Holder, key: str, now: float) -> dict[Holder, None] | None:
        """A place for a new connection of the peer `key`. Returns the peer's unproductive ones, among which the
        connection keeps itself; None if only a spare place was left."""
        if len(self._taken) < self.limit or self._make_room(now):
            peer = self._peers.get(key)
            if peer is None:
                peer = self._peers[key] = _Peer(key)
            peer.connections += 1
            self._taken[holder] = peer
            return peer.waiting
        self._spare[holder] = None
        if len(self._spare) > SPARE_PLACES:
            next(iter(self._spare)).refuse_full()
        return None

    def leave(self, holder: Holder) -> None:
        """The connection is closed, or about to be; called again it does nothing."""
        self._spare.pop(holder, None)
        peer = self._taken.pop(holder, None)
        if peer is not None:
            peer.waiting.pop(holder, None)
            peer.connections -= 1
            if not peer.connections:
                del self._peers[peer.key]

    def _make_room(self, now: float) -> bool:
        latest = now - GRACE_SECONDS
        most, loses = 0, None
        for peer in self._peers.values():
            if len(peer.waiting) > most:
                longest = next(iter(peer.waiting))
                if longest.waits_since <= latest:
                    most, loses = len(peer.waiting), longest
        if loses is None:
            return False
        loses.give_up_place()
        self.leave(loses)
        return True


def peer_of(transport: Any) -> str:
    """Whose connection it is: the IPv4 address, or the IPv6 network of 64 bits, which is what one customer gets. Empty
    for a Unix socket."""
    name = transport.get_extra_info("peername")
    if not isinstance(name, tuple) or not name:
        return ""
    host = str(name[0])
    if ":" not in host:
        return host
    try:
        address = ipaddress.IPv6Address(host.partition("%")[0])
    except ValueError:
        return host
    return str(address.ipv4_mapped or ipaddress.IPv6Network((int(address) >> 64 << 64, 64)))
