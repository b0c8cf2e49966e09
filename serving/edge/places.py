"""Who may have one of a worker's connections, and who gives it up when all are taken.

A connection is unproductive while it waits for its client: idle, or with a request that does not go on arriving. When
all places are taken, the peer with the most unproductive connections loses the one that is so for the longest. If there
is none, the new one gets a spare place, on which only probes are answered; any other request waits there for a place.
Knows addresses and counts, no bytes.
"""

import ipaddress
from dataclasses import dataclass, field
from typing import Any, Protocol

from serving.errors import Overloaded

SPARE_PLACES = 128  # for probes, beside the limit: more than connections are accepted in one turn of the event loop
GRACE_SECONDS = 1.0  # a connection that waits for less may have a request under way


class Holder(Protocol):
    """A connection that may have to give up its place."""

    def give_up_place(self) -> None: ...
    def refuse_full(self) -> None: ...


@dataclass
class _Peer:
    key: str
    connections: int = 0
    waiting: "dict[Place, None]" = field(default_factory=dict)  # the unproductive ones, the longest so first


class _Nobody:
    """Holds a place that was left."""

    def give_up_place(self) -> None:
        pass

    def refuse_full(self) -> None:
        pass


_NOBODY: Holder = _Nobody()


class Place:
    """One connection's."""

    def __init__(self, places: "Places", holder: Holder):
        self.holder = holder
        self.spare = True  # for a probe only, until a peer has it
        self.since = 0.0  # when it became unproductive
        self._places = places
        self._peer: _Peer | None = None
        self._waiting: dict[Place, None] = {}

    def belong_to(self, peer: _Peer) -> None:
        self.spare, self._peer, self._waiting = False, peer, peer.waiting

    def wait(self, now: float) -> None:
        """The connection is unproductive from now on, until more arrives."""
        self.since = now
        self._waiting.pop(self, None)
        self._waiting[self] = None

    def work(self) -> None:
        """A request has arrived, and its answer is due."""
        self._waiting.pop(self, None)

    def leave(self) -> None:
        """The connection is closed, or about to be; called again it does nothing."""
        self._places.leave(self, self._peer)
        self._waiting, self._peer = {}, None
        self.holder = _NOBODY  # what is in no cycle needs no garbage collector


class Places:
    """`limit` connections, and SPARE_PLACES for probes. Times are the event loop's."""

    def __init__(self, limit: int):
        self.limit = limit
        self.taken = 0
        self._peers: dict[str, _Peer] = {}
        self._spare: dict[Place, None] = {}

    def enter(self, holder: Holder, key: str, now: float) -> Place:
        """A place for a new connection of the peer `key`: a spare one if no other was left."""
        place = Place(self, holder)
        if not self.give(place, key, now):
            self._spare[place] = None
            if len(self._spare) > SPARE_PLACES:
                next(iter(self._spare)).holder.refuse_full()
        return place

    def give(self, place: Place, key: str, now: float) -> bool:
        """Make a place that is new or spare one of the peer `key`. False if there is none to be had."""
        if self.taken >= self.limit and not self._make_room(now):
            return False
        self._spare.pop(place, None)
        peer = self._peers.get(key)
        if peer is None:
            peer = self._peers[key] = _Peer(key)
        peer.connections += 1
        self.taken += 1
        place.belong_to(peer)
        return True

    def full(self) -> Overloaded:
        """What a request on a spare place gets."""
        return Overloaded(f"{self.limit} connections are open, the limit of this worker, and none has been idle")

    def leave(self, place: Place, peer: _Peer | None) -> None:
        self._spare.pop(place, None)
        if peer is not None:
            self.taken -= 1
            peer.waiting.pop(place, None)
            peer.connections -= 1
            if not peer.connections:
                del self._peers[peer.key]

    def _make_room(self, now: float) -> bool:
        """Looks at one connection a peer: the one that has waited for the longest."""
        latest = now - GRACE_SECONDS
        most, loses = 0, None
        for peer in self._peers.values():
            if len(peer.waiting) > most:
                longest = next(iter(peer.waiting))
                if longest.since <= latest:
                    most, loses = len(peer.waiting), longest
        if loses is None:
            return False
        loses.holder.give_up_place()
        loses.leave()
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
