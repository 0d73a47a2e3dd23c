"""Sums straight from rank to rank, for vectors on which Horovod's agreement would cost more than the sum.

Horovod is made for tensors that become ready in an order of each rank's own: its thread asks all ranks, cycle by cycle,
what is ready everywhere. Here every rank calls the same sums in the same order, so nothing is left to agree on. A rank
gathers the vectors of all others over connections of its own, in ceil(log2 N) rounds (the concatenation of Bruck et
al. 1997, IEEE Trans. Parallel Distrib. Syst. 8, 1143), and adds them in the order of ranks: all get the same bits.
"""

from __future__ import annotations

import os
import re
import select
import socket
import struct
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton.errors import TrainingError

DIRECT_SUM_BYTES = 8 << 20
"""What the vectors of all ranks together may measure by default; of more, a ring moves less through each rank."""

GONE = "direct sums: no more connection to rank"
"""Begins the error of a rank that another one has left."""

APART = "all ranks must call the same sums in the same order"
"""Ends the error of ranks that are at different sums."""

HIDDEN = re.compile(rf"(?P<kind>TrainingError|ConnectionError): (?P<text>.*{APART}|{GONE}.*)")
"""An error of a sum in the text of TensorFlow's."""

WATCH_S = 2e-3
"""How long a rank looks again and again whether the others' vectors have come before it sleeps until they have. To be
woken takes longer than most ranks are apart; others that want the core are let go first."""

HEADER = struct.Struct("<QQ")  # number of the sum, bytes of each vector in it


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
            found = bytearray(header)  # until another one comes
            out = [memoryview(header), _bytes(blocks[:count])]
            into = [memoryview(found), _bytes(blocks[known : known + count])]
            try:
                swap(target, out, source, into)
            except OSError as error:
                # Of two ranks at different sums the one that waits for less ends first, and the other one is left.
                self._check(HEADER.unpack(found), vector.nbytes, number)
                raise ConnectionError(f"{GONE} {self._peers(number)}: {error}") from error
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
                f"{(self._rank + 2**number) % self._size} at sum {found[0]}, of {found[1]}: {APART}"
            )

    def _peers(self, number: int) -> str:
        distance = 2**number
        return " or ".join(
            str(peer) for peer in sorted({(self._rank + sign * distance) % self._size for sign in (1, -1)})
        )


def shown(error: BaseException) -> BaseException:
    """Return the error of a sum that TensorFlow has put into one of its own, as it does in graphs; else ``error``."""
    hidden = HIDDEN.search(str(error))
    if hidden is None or isinstance(error, TrainingError | ConnectionError):
        return error
    return (TrainingError if hidden["kind"] == "TrainingError" else ConnectionError)(hidden["text"])


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
