"""Where the processes of a world leave their addresses for each other, before Gloo connects them.

Horovod's server answers anybody. This one listens on the workers' network alone, hears the workers' hosts alone, and
lets nobody overwrite what another one has written.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Collection, Iterator
from typing import Any

from horovod.runner.common.util.hosts import SlotInfo
from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

from sparton.distributed import wire
from sparton.distributed.places import Place

FORBIDDEN = 403
MEETING = "sparton"
"""Scope of what processes leave that do not know each other's hosts."""


class Handler(RendezvousHandler):
    """Answers one request, if it comes from a host of the world."""

    def parse_request(self) -> bool:
        """Read a request's head and refuse strangers."""
        if not super().parse_request():
            return False
        if self.client_address[0] in self.server.hosts or self._is_for_all():
            return True
        self.send_status_code(FORBIDDEN)
        return False

    def _is_for_all(self) -> bool:
        """Tell whether strangers may ask this; they must, where nobody knows the hosts of the world yet."""
        if not (self.server.accepted and self.path.startswith(f"/{MEETING}/")):
            return False
        return int(self.headers.get("Content-Length", 0)) <= wire.MAX_LINE

    def _put_value(self, scope: str, key: str, value: bytes) -> None:
        if scope == MEETING:
            if not (self.server.accepted and self.server.accepted(value)):
                return
            self.server.hosts |= {self.client_address[0]}
        self.server.keep(scope, key, value)


class Server(RendezvousHTTPServer):
    """A key-value store over HTTP for one world."""

    daemon_threads = True

    def __init__(self, address: str, port: int = 0, accepted: Callable[[bytes], bool] | None = None) -> None:
        super().__init__((address, port), Handler, verbose=0)
        self.hosts: frozenset[str] = frozenset()
        self.accepted = accepted

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

    def value(self, scope: str, key: str) -> bytes | None:
        """Return what was left under a key, if anything was."""
        with self.cache_lock:
            found: bytes | None = self.cache.get(scope, {}).get(key)
        return found

    def keep(self, scope: str, key: str, value: bytes) -> None:
        """Keep the first value of a key."""
        with self.cache_lock:
            self.cache.setdefault(scope, {}).setdefault(key, value)

    def open_to(self, places: Collection[Place], hosts: Collection[str]) -> None:
        """Hear the hosts of a world from now on.

        Parameters
        ----------
        places
            All of the world.
        hosts
            Addresses of its hosts.
        """
        self.init([_slot(place) for place in places])
        self.hosts = frozenset(hosts)


@contextlib.contextmanager
def serving(address: str, port: int = 0, accepted: Callable[[bytes], bool] | None = None) -> Iterator[Server]:
    """Serve a world that is still to be named with :meth:`Server.open_to`.

    Parameters
    ----------
    address, port
        Where to listen; 0 takes any free port.
    accepted
        Tells which values anybody may leave for all to read in the scope :data:`MEETING`; who has left
        one is heard from then on. Without it nobody may.

    Raises
    ------
    OSError
        If it cannot listen there.
    """
    with Server(address, port, accepted) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="sparton-rendezvous", daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
            thread.join()


def _slot(place: Place) -> Any:
    return SlotInfo(
        hostname=place.host,
        rank=place.rank,
        local_rank=place.local_rank,
        cross_rank=place.cross_rank,
        size=place.size,
        local_size=place.local_size,
        cross_size=place.cross_size,
    )
