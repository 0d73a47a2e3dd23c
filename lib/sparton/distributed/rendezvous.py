"""Where the processes of a world leave their addresses for each other, before Gloo connects them.

Horovod's server answers anybody. This one listens on the workers' network alone, hears the workers' hosts alone, and
lets nobody overwrite what another one has written.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Collection, Iterator
from typing import Any

from horovod.runner.common.util.hosts import SlotInfo
from horovod.runner.http.http_server import RendezvousHandler, RendezvousHTTPServer

from sparton.distributed.places import Place

FORBIDDEN = 403


class Handler(RendezvousHandler):
    """Answers one request, if it comes from a host of the world."""

    def parse_request(self) -> bool:
        """Read a request's head and refuse strangers."""
        if not super().parse_request():
            return False
        if self.client_address[0] in self.server.hosts:
            return True
        self.send_status_code(FORBIDDEN)
        return False

    def _put_value(self, scope: str, key: str, value: bytes) -> None:
        with self.server.cache_lock:
            taken = key in self.server.cache.get(scope, {})
        if not taken:
            super()._put_value(scope, key, value)


class Server(RendezvousHTTPServer):
    """A key-value store over HTTP for one world."""

    daemon_threads = True

    def __init__(self, address: str) -> None:
        super().__init__((address, 0), Handler, verbose=0)
        self.hosts: frozenset[str] = frozenset()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return int(self.server_address[1])

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
def serving(address: str) -> Iterator[Server]:
    """Serve a world that is still to be named with :meth:`Server.open_to`, on a local address."""
    with Server(address) as server:
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
