"""Several ranks as threads of one process, with exact collectives: what a test needs to compare N ranks with one.

Ranks pass messages through TensorFlow queues, whose operations wait without holding a thread of TensorFlow's pool;
Python callbacks inside a graph would block it as soon as there are more ranks than cores. Sums are taken in the order
of ranks, so results are reproducible to the bit.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from sparton.distributed.fused import FusedCollectives
from sparton.distributed.world import Connection, World
from sparton.errors import TrainingError

ResultT = TypeVar("ResultT")

JOIN_S = 0.25
"""Seconds of waiting that are counted at once."""

ENDING_S = 30.0
"""Seconds that ranks which are given up have to come to their next collective."""

QUEUE_CAPACITY = 1 << 20  # messages; a rank can only be ahead of another by the collectives of one graph


def simulate(n: int, fn: Callable[[Connection], ResultT], timeout_s: float = 120.0) -> list[ResultT]:
    """Run ``fn(connection)`` on ``n`` ranks at once, each a thread of this process.

    Every rank traces its own ``tf.function``s. Global random state (``tf.random.set_seed``, unseeded Keras
    initialisers) is shared by the threads and therefore not reproducible: seed explicitly.

    Parameters
    ----------
    n
        Number of ranks.
    fn
        What every rank runs.
    timeout_s
        Seconds after which ranks that still wait for each other are given up, those left out in which the process
        was stopped.

    Returns
    -------
    list
        The results in the order of ranks.

    Raises
    ------
    TrainingError
        If a rank raised (with its number; the original error is the cause), if ranks called different collectives, or
        if they did not end in time.
    """
    if n < 1:
        raise ValueError(f"expected 1 rank or more. Received: n={n}")
    run = _Run(_Fabric(n))
    threads = [threading.Thread(target=run.rank, args=(rank, fn), daemon=True) for rank in range(n)]
    for thread in threads:
        thread.start()
    _join(threads, timeout_s)
    late = [rank for rank, thread in enumerate(threads) if thread.is_alive()]
    stuck = late and not run.failures
    if late:
        run.give_up(threads)
    if stuck:
        raise TrainingError(f"ranks {late} of {n} did not end within {timeout_s:g} s")
    run.raise_failure()
    return [run.results[rank] for rank in range(n)]


def _join(threads: Sequence[threading.Thread], seconds: float) -> None:
    """Wait for threads to end; time in which this process was stopped or hardly ran does not count."""
    for thread in threads:
        while thread.is_alive() and seconds > 0:
            started = time.monotonic()
            thread.join(min(seconds, JOIN_S))
            seconds -= min(time.monotonic() - started, JOIN_S)


class _Fabric:
    """One queue for each ordered pair of ranks."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._queues = [[_queue() for _ in range(size)] for _ in range(size)]

    def outgoing(self, rank: int) -> list[tf.queue.FIFOQueue]:
        return self._queues[rank]

    def incoming(self, rank: int) -> list[tf.queue.FIFOQueue]:
        return [row[rank] for row in self._queues]

    def leave(self, rank: int) -> None:
        """End a rank's messages: whoever waits for one that was never sent gets an error instead of waiting on."""
        for queue in self.outgoing(rank):
            with contextlib.suppress(tf.errors.CancelledError):  # closed already, by a run that was given up
                queue.close()


def _queue() -> tf.queue.FIFOQueue:
    return tf.queue.FIFOQueue(QUEUE_CAPACITY, [tf.string, tf.uint8])


@dataclass
class _Run:
    """The state that the ranks' threads share."""

    fabric: _Fabric
    results: dict[int, Any] = field(default_factory=dict)
    failures: list[tuple[int, Exception]] = field(default_factory=list)

    def rank(self, rank: int, fn: Callable[[Connection], Any]) -> None:
        """Run one rank; a failure is recorded before the others can notice it."""
        connection = Connection(World(rank, self.fabric.size, rank), SimulatedCollectives(rank, self.fabric))
        try:
            self.results[rank] = fn(connection)
        except Exception as error:
            self.failures.append((rank, error))
        finally:
            self.fabric.leave(rank)

    def give_up(self, threads: Sequence[threading.Thread]) -> None:
        """End all messages, and wait for the ranks to notice at their next collective.

        A thread that is inside TensorFlow when the interpreter ends may crash it.
        """
        for rank in range(self.fabric.size):
            self.fabric.leave(rank)
        _join(threads, ENDING_S)

    def raise_failure(self) -> None:
        """Raise the first failure, the one that made the others fail."""
        if not self.failures:
            return
        rank, error = self.failures[0]
        ended = f" (ranks {sorted(self.results)} had ended)" if isinstance(error, tf.errors.OutOfRangeError) else ""
        raise TrainingError(f"rank {rank} of {self.fabric.size}: {type(error).__name__}: {error}{ended}") from error


class SimulatedCollectives(FusedCollectives):
    """Collectives among threads of one process."""

    def __init__(self, rank: int, fabric: _Fabric) -> None:
        super().__init__(rank, fabric.size)
        self._outgoing = fabric.outgoing(rank)
        self._incoming = fabric.incoming(rank)

    def _sum_vector(self, vector: tf.Tensor, name: str) -> tf.Tensor:
        messages = self._exchange(f"{name}{vector.shape}", tf.bitcast(vector, tf.uint8))
        total = tf.zeros_like(vector)
        for message in messages:
            total += tf.ensure_shape(tf.bitcast(message, vector.dtype), vector.shape)
        return total

    def _gather_rows(self, rows: NDArray[Any]) -> NDArray[Any]:
        width = rows.shape[1]
        data = np.frombuffer(rows.tobytes(), np.uint8)
        messages = self._exchange(f"allgather {rows.dtype}[:, {width}]", tf.constant(data))
        parts = [np.frombuffer(message.numpy().tobytes(), rows.dtype).reshape(-1, width) for message in messages]
        return np.concatenate(parts)

    def _broadcast_bytes(self, data: NDArray[Any], root: int) -> NDArray[Any]:
        sent = data if self._rank == root else np.zeros(0, np.uint8)
        messages = self._exchange(f"broadcast of {data.size} bytes from rank {root}", tf.constant(sent))
        return np.asarray(messages[root])

    def _exchange(self, label: str, payload: tf.Tensor) -> list[tf.Tensor]:
        """Send a payload to every rank and return what they sent, in the order of ranks."""
        for queue in self._outgoing:
            queue.enqueue([label, payload])
        return [self._receive(queue, label, source) for source, queue in enumerate(self._incoming)]

    def _receive(self, queue: tf.queue.FIFOQueue, label: str, source: int) -> tf.Tensor:
        other, payload = queue.dequeue()
        found = ["ranks called different collectives:", f"rank {source} called", other, f"rank {self._rank}", label]
        check = tf.debugging.Assert(tf.equal(other, label), found)
        with tf.control_dependencies([check] if check is not None else []):
            return tf.identity(payload)
