"""Sums straight from rank to rank, for vectors on which Horovod's agreement would cost more than the sum.

Horovod is made for tensors that become ready in an order of each rank's own: its thread asks all ranks, cycle by cycle,
what is ready everywhere. Here every rank calls the same sums in the same order, so nothing is left to agree on. A rank
gathers the vectors of all others over connections of its own, in ceil(log2 N) rounds (the concatenation of Bruck et
al. 1997, IEEE Trans. Parallel Distrib. Syst. 8, 1143), and adds them in the order of ranks: all get the same bits.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import select
import socket
import struct
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton.distributed import networks, wire
from sparton.errors import TrainingError, WorkerError

DIRECT_SUM_BYTES = 8 << 20
"""What the vectors of all ranks together may measure by default; of more, a ring moves less through each rank."""

GONE = "direct sums: no more connection to rank"
"""Begins the error of a rank that another one has left."""

CONNECT_TIMEOUT_S = 60.0
HELLO_TIMEOUT_S = 5.0
"""How long a stranger that says nothing can hold up the others."""

WATCH_S = 2e-3
"""How long a rank looks again and again whether the others' vectors have come before it sleeps until they have. To be
woken takes longer than most ranks are apart; others that want the core are let go first."""

HEADER = struct.Struct("<QQ")  # number of the sum, bytes of each vector in it
ADDRESS_BYTES = 64

logger = logging.getLogger(__name__)


class DirectSums:
    """One rank's connections, over which it sums with all others.

    Parameters
    ----------
    rank, size
        Its place.
    targets, sources
        A connection to rank ``rank - 2^r`` and one from rank ``rank + 2^r``, modulo the size, for each round r.
    """

    def __init__(
        self, rank: int, size: int, targets: Sequence[socket.socket], sources: Sequence[socket.socket]
    ) -> None:
        self._rank = rank
        self._size = size
        self._targets = targets
        self._sources = sources
        self._number = 0

    def sum(self, vector: NDArray[Any]) -> NDArray[Any]:
        """Return a vector [n] summed over ranks, one after the other, in its own type.

        Raises
        ------
        ConnectionError
            If a rank is gone.
        TrainingError
            If a rank is at another sum.
        """
        blocks = self._gathered(vector)
        total = blocks[-self._rank % self._size].copy()
        with np.errstate(over="ignore", invalid="ignore"):
            for rank in range(1, self._size):
                total += blocks[(rank - self._rank) % self._size]
        return total

    def gather(self, vector: NDArray[Any]) -> NDArray[Any]:
        """Return the vectors [size, n] of all ranks, which have one length and type; errors as of :meth:`sum`."""
        return np.roll(self._gathered(vector), self._rank, axis=0)

    def _gathered(self, vector: NDArray[Any]) -> NDArray[Any]:
        """Return the vectors of all ranks, from this one on in their order."""
        blocks = np.empty((self._size, vector.size), vector.dtype)
        blocks[0] = vector
        self._number += 1
        header = HEADER.pack(self._number, vector.nbytes)
        known = 1
        for number, (target, source) in enumerate(zip(self._targets, self._sources, strict=True)):
            count = min(known, self._size - known)
            found = bytearray(HEADER.size)
            out = [memoryview(header), _bytes(blocks[:count])]
            into = [memoryview(found), _bytes(blocks[known : known + count])]
            try:
                swap(target, out, source, into)
            except OSError as error:
                raise ConnectionError(f"{GONE} {self._peers(number)}: {error}") from error
            # Of two ranks at different sums, the one that waits for less sees it, and ends.
            self._check(HEADER.unpack(found), vector.nbytes, number)
            known += count
        return blocks

    def close(self) -> None:
        """Close the connections."""
        for connection in (*self._targets, *self._sources):
            connection.close()

    def _check(self, found: tuple[int, int], size: int, number: int) -> None:
        if found != (self._number, size):
            raise TrainingError(
                f"rank {self._rank} is at sum {self._number}, of {size} bytes, and rank "
                f"{(self._rank + 2**number) % self._size} at sum {found[0]}, of {found[1]}: all ranks must call the "
                "same sums in the same order"
            )

    def _peers(self, number: int) -> str:
        distance = 2**number
        return " or ".join(
            str(peer) for peer in sorted({(self._rank + sign * distance) % self._size for sign in (1, -1)})
        )


def swap(target: socket.socket, out: list[memoryview], source: socket.socket, into: list[memoryview]) -> None:
    """Send ``out`` and fill ``into`` at once, so that ranks that send more than systems buffer do not block each other.

    Raises
    ------
    OSError
        If a connection is broken.
    """
    out = _sent(target, out)
    if out:
        waiting = select.poll()
        waiting.register(target, select.POLLOUT)
        waiting.register(source, select.POLLIN)
        while out:
            ready = {number for number, _ in waiting.poll()}
            if target.fileno() in ready:
                out = _sent(target, out)
            if into and source.fileno() in ready:
                into = _received(source, into, socket.MSG_DONTWAIT)
                if not into:
                    waiting.unregister(source)
    watched = time.perf_counter() + WATCH_S
    while into:
        if time.perf_counter() >= watched:
            into = _received(source, into, socket.MSG_WAITALL)
            continue
        try:
            into = _received(source, into, socket.MSG_DONTWAIT)
        except BlockingIOError:
            os.sched_yield()


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
    with contextlib.ExitStack() as stack:
        port = 0
        if address:
            server = stack.enter_context(socket.create_server((address, 0), backlog=2 * size))
            port = server.getsockname()[1]
        rows = gather(_row(f"{address} {port}", os.urandom(32)))
        places = [bytes(row[:ADDRESS_BYTES]).rstrip(b"\0").decode().split(" ") for row in rows]
        if not all(place[0] for place in places):
            logger.debug("no direct sums: %s", places)
            return None
        secret = hashlib.sha256(rows[:, ADDRESS_BYTES:].tobytes()).digest()
        deadline = time.monotonic() + timeout_s
        steps = [2**number for number in range((size - 1).bit_length())]
        targets = []
        for number, step in enumerate(steps):
            host, at = places[(rank - step) % size]
            targets.append(stack.enter_context(_dial((rank - step) % size, host, int(at), timeout_s)))
            targets[-1].sendall(wire.seal(secret, {"rank": rank, "round": number}))
        sources = _accept(server, secret, [(rank + step) % size for step in steps], deadline, stack)
        for number, (target, step) in enumerate(zip(targets, steps, strict=True)):
            _check_answer(target, secret, (rank - step) % size, number, deadline)
        for connection in (*targets, *sources):
            connection.settimeout(None)
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            wire.keep_alive(connection)
        server.close()
        stack.pop_all()
        return DirectSums(rank, size, targets, sources)


def _row(address: str, secret: bytes) -> NDArray[np.uint8]:
    text = address.encode().ljust(ADDRESS_BYTES, b"\0")
    return np.frombuffer(text + secret, np.uint8).reshape(1, -1)


def _dial(rank: int, host: str, port: int, timeout_s: float) -> socket.socket:
    try:
        return socket.create_connection((host, port), timeout_s)
    except OSError as error:
        raise WorkerError(
            f"cannot connect to rank {rank} at {host}:{port}: {error.strerror or error}; the workers' hosts must let "
            "each other's connections through, or launch.direct_sum_bytes: 0 leaves all sums to Horovod"
        ) from error


def _accept(
    server: socket.socket, secret: bytes, expected: Sequence[int], deadline: float, stack: contextlib.ExitStack
) -> list[socket.socket]:
    """Return the connection of each expected rank, in the order of rounds; strangers are passed over."""
    found: dict[tuple[int, int], socket.socket] = {}
    wanted = [(rank, number) for number, rank in enumerate(expected)]
    while len(found) < len(wanted):
        server.settimeout(max(0.0, deadline - time.monotonic()) or 1e-3)
        try:
            connection, _ = server.accept()
        except TimeoutError as error:
            missing = sorted({rank for rank, number in wanted if (rank, number) not in found})
            raise WorkerError(f"ranks {missing} have not connected for direct sums in time") from error
        with contextlib.ExitStack() as guard:
            guard.enter_context(connection)
            hello = _message(connection, secret, min(deadline, time.monotonic() + HELLO_TIMEOUT_S))
            key = (hello.get("rank"), hello.get("round")) if hello else None
            if key not in wanted or key in found:
                continue
            connection.sendall(wire.seal(secret, {"heard": list(key)}))
            stack.push(guard.pop_all())
            found[key] = connection
    return [found[key] for key in wanted]


def _check_answer(connection: socket.socket, secret: bytes, rank: int, number: int, deadline: float) -> None:
    answer = _message(connection, secret, deadline)
    if answer is None or (answer.get("heard") or [None, None])[1] != number:
        raise WorkerError(f"rank {rank} has not answered as expected when direct sums were to be set up")


def _message(connection: socket.socket, secret: bytes, deadline: float) -> dict[str, Any] | None:
    """Return the first line if it is authentic, and nothing after it; else None."""
    line = b""
    try:
        while not line.endswith(b"\n") and len(line) < wire.MAX_LINE:
            connection.settimeout(max(1e-3, deadline - time.monotonic()))
            byte = connection.recv(1)
            if not byte:
                return None
            line += byte
        return wire.unseal(secret, line)
    except (OSError, ValueError):
        return None


def _bytes(rows: NDArray[Any]) -> memoryview:
    return rows.reshape(-1).view(np.uint8).data


def _sent(target: socket.socket, parts: list[memoryview]) -> list[memoryview]:
    """Send what goes without waiting, and return what is left."""
    try:
        return _after(target.sendmsg(parts, [], socket.MSG_DONTWAIT), parts)
    except BlockingIOError:
        return parts


def _received(source: socket.socket, parts: list[memoryview], flags: int) -> list[memoryview]:
    """Fill what has come, and return what is left to fill."""
    count = source.recvmsg_into(parts, 0, flags)[0]
    if not count:
        raise ConnectionResetError("it was closed")
    return _after(count, parts)


def _after(count: int, parts: list[memoryview]) -> list[memoryview]:
    """Return what follows so many bytes."""
    left = []
    for part in parts:
        taken = min(count, len(part))
        count -= taken
        if taken < len(part):
            left.append(part[taken:])
    return left
