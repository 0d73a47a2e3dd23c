"""How the ranks of a world connect for direct sums, on a network on which strangers may knock too.

Everybody is heard at once: a rank that waits for others, for their answers and for strangers to say something waits for
all of them together, so that those who say nothing hold up nobody.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import selectors
import socket
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton.distributed import networks, wire
from sparton.distributed.direct import DirectSums
from sparton.errors import WorkerError

CONNECT_TIMEOUT_S = 60.0
HELLO_TIMEOUT_S = 5.0
"""How long somebody who has connected may take to say who it is."""
HELLO_BYTES = 256
"""Of what a rank says; who says more is none."""
UNHEARD = 128
"""How many that have not said who they are are listened to. Of more the one who came first has to go: a rank says it as
it comes, and would come again."""
COME_AGAIN_S = 0.1
ADDRESS_BYTES = 64

logger = logging.getLogger(__name__)


def connect(
    rank: int,
    size: int,
    gather: Callable[[NDArray[np.uint8]], NDArray[np.uint8]],
    usable: bool = True,
    environment: Mapping[str, str] | None = None,
    timeout_s: float = CONNECT_TIMEOUT_S,
) -> DirectSums | None:
    """Connect this rank with others on the network interface that Horovod uses; all ranks call it.

    Each connection begins with messages that are authenticated by a secret, which travels over Horovod's connections.

    Parameters
    ----------
    rank, size
        The place of this rank.
    gather
        Returns the rows uint8 ``[n, m]`` of all ranks in their order.
    usable
        Whether this rank wants to; if one does not, none does.
    environment
        Names the interface (``HOROVOD_GLOO_IFACE``); that of the process by default. Without it there are no sums.
    timeout_s
        Seconds for all of it.

    Returns
    -------
    DirectSums or None
        None on all ranks if one of them cannot or does not want to.

    Raises
    ------
    WorkerError
        If a rank cannot be reached in time.
    """
    name = (os.environ if environment is None else environment).get("HOROVOD_GLOO_IFACE", "")
    address = next(iter(networks.interfaces().get(name, ())), "") if usable else ""
    with contextlib.ExitStack() as held:
        port = 0
        if address:
            server = held.enter_context(socket.create_server((address, 0), backlog=socket.SOMAXCONN))
            port = server.getsockname()[1]
        rows = gather(_row(f"{address} {port}", os.urandom(32)))
        places = [bytes(row[:ADDRESS_BYTES]).rstrip(b"\0").decode().split(" ") for row in rows]
        if not all(place[0] for place in places):
            logger.debug("no direct sums: %s", places)
            return None
        secret = hashlib.sha256(rows[:, ADDRESS_BYTES:].tobytes()).digest()
        deadline = time.monotonic() + timeout_s
        addresses = [(host, int(at)) for host, at in places]
        meeting = held.enter_context(contextlib.closing(_Meeting(rank, addresses, server, secret, deadline)))
        return DirectSums(rank, size, *meeting.meet())


@dataclass(eq=False)
class _Line:
    """What has come of the first line on a connection.

    Attributes
    ----------
    connection
        It does not block.
    until
        When this rank stops to wait for the rest.
    number
        Round of the rank that this one has dialled; None of somebody who has connected.
    text
        What has come.
    """

    connection: socket.socket
    until: float
    number: int | None = None
    text: bytes = b""

    def read(self, secret: bytes) -> dict[str, Any] | None:
        """Take what has come, and return the message when it is whole.

        Raises
        ------
        OSError
            If the other end has closed it.
        ValueError
            If this is not one authentic line, and nothing after it.
        """
        piece = self.connection.recv(HELLO_BYTES + 1 - len(self.text))
        if not piece:
            raise ConnectionResetError("it was closed")
        self.text += piece
        end = self.text.find(b"\n") + 1
        if end == len(self.text):
            return wire.unseal(secret, self.text)
        if end or len(self.text) > HELLO_BYTES:
            raise ValueError("more than one line, or a longer one than any rank's")
        return None


class _Meeting:
    """One rank's connections in the making.

    It has dialled the rank ``rank - 2^r`` for each round r, which answers, and is dialled by ``rank + 2^r``.
    """

    def __init__(
        self,
        rank: int,
        addresses: Sequence[tuple[str, int]],
        server: socket.socket,
        secret: bytes,
        deadline: float,
    ) -> None:
        size = len(addresses)
        steps = [2**number for number in range((size - 1).bit_length())]
        self._rank = rank
        self._addresses = addresses
        self._server = server
        self._secret = secret
        self._deadline = deadline
        self._dialled = [(rank - step) % size for step in steps]
        self._callers = [((rank + step) % size, number) for number, step in enumerate(steps)]
        self._targets: dict[int, socket.socket] = {}
        self._sources: dict[int, socket.socket] = {}
        self._unheard: list[_Line] = []
        self._selector = selectors.DefaultSelector()

    def meet(self) -> tuple[list[socket.socket], list[socket.socket]]:
        """Return the connections to targets and from sources, round by round, which are the caller's from then on.

        Raises
        ------
        WorkerError
            Naming ranks that cannot be reached or do not come in time.
        """
        self._server.setblocking(False)
        self._selector.register(self._server, selectors.EVENT_READ)
        for number in range(len(self._dialled)):
            self._dial(number)
        while missing := self._missing():
            now = time.monotonic()
            if now >= self._deadline:
                raise WorkerError(f"ranks {missing} have not connected for direct sums in time")
            for line in [line for line in self._unheard if line.until <= now]:
                self._drop(line)
            wake = min([self._deadline, *(line.until for line in self._unheard)])
            ready = [key.data for key, _ in self._selector.select(wake - now)]
            for line in filter(None, ready):
                self._hear(line)
            if None in ready:  # after the others: who has said who it is need not go for somebody new
                self._accept()
        targets, sources = ([part[number] for number in sorted(part)] for part in (self._targets, self._sources))
        for connection in (*targets, *sources):
            connection.setblocking(True)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.keep_alive(connection)
        self._targets, self._sources = {}, {}
        return targets, sources

    def close(self) -> None:
        """Close everything that has not been handed over."""
        lines = [key.data for key in self._selector.get_map().values() if key.data]
        self._selector.close()
        for connection in (*(line.connection for line in lines), *self._targets.values(), *self._sources.values()):
            connection.close()

    def _missing(self) -> list[int]:
        """Return the ranks that have not come, or not answered."""
        away = {rank for number, rank in enumerate(self._dialled) if number not in self._targets}
        return sorted(away | {rank for rank, number in self._callers if number not in self._sources})

    def _dial(self, number: int) -> None:
        rank = self._dialled[number]
        host, port = self._addresses[rank]
        try:
            connection = socket.create_connection((host, port), max(self._deadline - time.monotonic(), COME_AGAIN_S))
        except OSError as error:
            raise WorkerError(
                f"cannot connect to rank {rank} at {host}:{port}: {error.strerror or error}; the workers' hosts must "
                "let each other's connections through, or launch.direct_sum_bytes: 0 leaves all sums to Horovod"
            ) from error
        connection.setblocking(False)
        line = _Line(connection, self._deadline, number)
        self._selector.register(connection, selectors.EVENT_READ, line)
        with contextlib.suppress(OSError):  # a connection that is closed is read as one
            connection.send(wire.seal(self._secret, {"rank": self._rank, "round": number}))

    def _accept(self) -> None:
        with contextlib.suppress(OSError):  # who has left meanwhile
            connection, _ = self._server.accept()
            connection.setblocking(False)
            line = _Line(connection, time.monotonic() + HELLO_TIMEOUT_S)
            self._selector.register(connection, selectors.EVENT_READ, line)
            self._unheard.append(line)
            if len(self._unheard) > UNHEARD:
                self._drop(self._unheard[0])

    def _hear(self, line: _Line) -> None:
        """Take what has come on a connection, and act if that was all."""
        try:
            message = line.read(self._secret)
        except BlockingIOError:
            return
        except OSError:
            self._drop(line)
            if line.number is not None:  # by a rank that had too many strangers to listen to
                time.sleep(COME_AGAIN_S)
                self._dial(line.number)
            return
        except ValueError:
            message = {}
        if message is None:
            return
        if line.number is None:
            self._greet(line, message)
        else:
            self._check_answer(line, line.number, message)

    def _greet(self, line: _Line, hello: dict[str, Any]) -> None:
        """Answer a rank that is expected, and hang up on anybody else."""
        caller = hello.get("rank"), hello.get("round")
        if caller in self._callers and caller[1] not in self._sources:
            with contextlib.suppress(OSError):
                line.connection.send(wire.seal(self._secret, {"heard": caller}))
                self._sources[caller[1]] = line.connection
                self._selector.unregister(line.connection)
                self._unheard.remove(line)
                return
        self._drop(line)

    def _check_answer(self, line: _Line, number: int, answer: dict[str, Any]) -> None:
        if answer != {"heard": [self._rank, number]}:
            rank = self._dialled[number]
            raise WorkerError(f"rank {rank} has not answered as expected when direct sums were to be set up")
        self._targets[number] = line.connection
        self._selector.unregister(line.connection)

    def _drop(self, line: _Line) -> None:
        self._selector.unregister(line.connection)
        if line.number is None:
            self._unheard.remove(line)
        line.connection.close()


def _row(address: str, secret: bytes) -> NDArray[np.uint8]:
    text = address.encode().ljust(ADDRESS_BYTES, b"\0")
    return np.frombuffer(text + secret, np.uint8).reshape(1, -1)
