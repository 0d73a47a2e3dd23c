"""Where the time of a training goes: reading, computing, exchanging with other ranks, and the rest."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, fields
from typing import TypeVar

import numpy as np

from sparton.distributed.collectives import Collectives
from sparton.distributed.world import Connection

ItemT = TypeVar("ItemT")


@dataclass
class Times:
    """Seconds of one rank, or their mean over ranks.

    Attributes
    ----------
    input
        Waiting for the next batch.
    compute
        In training steps, without what follows.
    exchange
        In the collectives of training steps, waiting for slower ranks included.
    other
        Building and tracing the network, validation, first centroids, checkpoints, and waiting for a rank at these.
    """

    input: float = 0.0
    compute: float = 0.0
    exchange: float = 0.0
    other: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return self.input + self.compute + self.exchange + self.other

    @property
    def in_steps(self) -> float:
        """What training steps take: all but ``other``."""
        return self.input + self.compute + self.exchange

    def shares(self) -> dict[str, float]:
        """Return the share of each part."""
        return {name: value / self.total if self.total else 0.0 for name, value in asdict(self).items()}

    def described(self) -> str:
        """Return the shares as text."""
        return ", ".join(f"{name} {share:.1%}" for name, share in self.shares().items())


@dataclass(frozen=True)
class WorkerTimes:
    """What the workers of a training have spent.

    Attributes
    ----------
    workers
        Their number, N.
    mean
        Their average, part by part.
    """

    workers: int
    mean: Times

    @classmethod
    def gathered(cls, connection: Connection, own: Times) -> WorkerTimes:
        """Return the average over all ranks, each of which calls this with its own times."""
        values = np.array([[getattr(own, field.name) for field in fields(Times)]])
        rows = connection.collectives.allgather(values)
        return cls(connection.world.size, Times(*rows.mean(axis=0).tolist()))

    @property
    def worker_time(self) -> float:
        """N times the average training time of a worker (s): the time that a cluster is billed for.

        With N GPUs and training time T this is "actual average single-GPU training time" (Lu et al. 2020) as
        algorithms.md a.1 reads it, N T.
        """
        return self.workers * self.mean.total

    @property
    def efficiency(self) -> float:
        """Share of the steps' time (input, compute, exchange) that is not spent in the exchange.

        Of a training whose batch for each worker does not depend on N this estimates the scaling efficiency: what else
        a worker does in a step it would do alone, too. Building and validating are left out, which would make a short
        training look better than it is. Workers that share memory or cores also slow each other's computing, which
        only a run of one worker can tell (:func:`scaling_efficiency`).
        """
        return 1.0 - self.mean.exchange / self.mean.in_steps if self.mean.in_steps else 1.0

    def figures(self) -> dict[str, float]:
        """Return what a report says, with units in the names."""
        return {
            "mean_training_s": self.mean.total,
            "worker_s": self.worker_time,
            "efficiency_corrected_worker_s": gpu_time(self.mean.total, self.workers, self.efficiency),
            "efficiency_outside_exchange": self.efficiency,
            **{f"{name}_share": share for name, share in self.mean.shares().items()},
        }


def scaling_efficiency(throughputs: dict[int, float]) -> dict[int, float]:
    """Return ``throughput_N / (N throughput_1)`` for each number of workers N.

    Parameters
    ----------
    throughputs
        Samples a second of all workers together, by their number; all with the same batch for each worker.

    Raises
    ------
    ValueError
        If that of one worker is missing, or one is not positive.
    """
    if 1 not in throughputs or min(throughputs.values()) <= 0:
        raise ValueError(f"expected positive throughputs, that of 1 worker among them. Received: {throughputs}")
    return {workers: rate / (workers * throughputs[1]) for workers, rate in throughputs.items()}


def gpu_time(wall_s: float, workers: int, efficiency: float | None = None) -> float:
    """Return ``N T``, or with an efficiency ``e`` what one worker would have needed, ``N T e`` (algorithms.md a.1).

    Parameters
    ----------
    wall_s
        Time of the training, s.
    workers
        GPUs, or processes.
    efficiency
        Scaling efficiency at this number of workers.
    """
    return wall_s * workers * (1.0 if efficiency is None else efficiency)


class Stopwatch:
    """Books the time since the last look to one of the parts, and what of a step went into collectives to the exchange.

    Parameters
    ----------
    collectives
        Those of this rank, which know how long it has waited in them.
    times
        What has been booked before.
    """

    def __init__(self, collectives: Collectives, times: Times | None = None) -> None:
        self.times = times or Times()
        self._collectives = collectives
        self._last = time.perf_counter()
        self._waited = collectives.waited()

    def lap(self, part: str) -> None:
        """Book the time since the last call to ``input``, ``compute`` or ``other``.

        ``other`` keeps its collectives: a rank that waits while rank 0 looks for first centroids exchanges nothing.
        """
        now, waited = time.perf_counter(), self._collectives.waited()
        exchange = 0.0 if part == "other" else waited - self._waited
        self.times.exchange += exchange
        setattr(self.times, part, getattr(self.times, part) + max(0.0, now - self._last - exchange))
        self._last, self._waited = now, waited

    def reading(self, batches: Iterable[ItemT]) -> Iterator[ItemT]:
        """Yield the batches, booking to ``input`` what each was waited for; whoever uses one calls :meth:`lap`."""
        for batch in batches:
            self.lap("input")
            yield batch
        self.lap("input")
