"""A watch over collectives that never end, because some rank does not take part.

Horovod has a stall inspector, but under Gloo it never acts: ``GlooController::DoInitialization`` (0.28.1) reserves its
list of ranks instead of resizing it, so the inspector sees a world without ranks.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import tensorflow as tf

POLL_S = 0.5


class Activity:
    """Counts and times the collectives that a rank has begun and ended, those inside graphs included.

    The time of one begins when its operand is there; on a GPU, when the work that makes it is queued.
    """

    def __init__(self) -> None:
        with tf.init_scope(), tf.device("/cpu:0"):
            self._begun = tf.Variable(0, dtype=tf.int64, trainable=False)
            self._ended = tf.Variable(0, dtype=tf.int64, trainable=False)
            self._seconds = tf.Variable(0.0, dtype=tf.float64, trainable=False)

    def around(self, operation: Callable[[tf.Tensor], tf.Tensor], value: tf.Tensor) -> tf.Tensor:
        """Return ``operation(value)``, counted as begun when ``value`` is there and as ended with the result."""
        with tf.control_dependencies([value]):
            begun, start = self._begun.assign_add(1), tf.timestamp()
        with tf.control_dependencies([begun, start]):
            result = operation(tf.identity(value))
        with tf.control_dependencies([result]):
            ended, end = self._ended.assign_add(1), tf.timestamp()
        spent = self._seconds.assign_add(end - start)
        with tf.control_dependencies([ended, spent]):
            return tf.identity(result)

    @contextlib.contextmanager
    def during(self) -> Iterator[None]:
        """Count and time what the block does, which is no graph, as one collective."""
        self._begun.assign_add(1)
        start = time.perf_counter()
        yield
        self._ended.assign_add(1)
        self._seconds.assign_add(time.perf_counter() - start)

    def counts(self) -> tuple[int, int]:
        """Return how many collectives have begun and ended so far; callable from any thread."""
        return int(self._begun.numpy()), int(self._ended.numpy())

    def seconds(self) -> float:
        """Return how long this rank has been in collectives so far."""
        return float(self._seconds.numpy())


@dataclass(frozen=True)
class Guard:
    """A thread that tells when this rank has waited in a collective for too long.

    Parameters
    ----------
    counts
        Returns the numbers of collectives begun and ended.
    check_s, shutdown_s
        Seconds after which ``notify`` and ``stop`` are called.
    notify
        Called once with ``"waiting"`` when a wait exceeds ``check_s``, and with ``"resumed"`` if it ends after all.
    stop
        Called with the seconds waited when they exceed ``shutdown_s``.
    """

    counts: Callable[[], tuple[int, int]]
    check_s: float
    shutdown_s: float
    notify: Callable[[str], Any]
    stop: Callable[[float], Any]

    def start(self) -> None:
        """Watch until the process ends."""
        threading.Thread(target=self._watch, name="sparton-stall-guard", daemon=True).start()

    def _watch(self) -> None:
        ended_before, since, notified = -1, time.monotonic(), False
        while True:
            time.sleep(POLL_S)
            begun, ended = self.counts()
            if begun == ended or ended != ended_before:
                ended_before, since = ended, time.monotonic()
                if notified:
                    self.notify("resumed")
                notified = False
                continue
            waited = time.monotonic() - since
            if waited > self.shutdown_s:
                self.stop(waited)
                return
            if waited > self.check_s and not notified:
                self.notify("waiting")
                notified = True
