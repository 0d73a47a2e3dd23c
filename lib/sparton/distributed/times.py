"""Where the time of a training goes: reading, computing, exchanging with other ranks, and the rest."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

import numpy as np

from sparton.distributed.collectives import Collectives
from sparton.distributed.world import Connection

ItemT = TypeVar("ItemT")


@dataclass
class Times:
    """Seconds of one rank, or sums and means of such.

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

    @classmethod
    def added(cls, parts: Iterable[tuple[int, Times]]) -> Times:
        """Return the sum of times, each so many times."""
        rows = list(parts)
        return cls(**{each.name: sum(n * getattr(times, each.name) for n, times in rows) for each in fields(cls)})

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
    """What the workers of a training have spent, in each of the worlds that have worked at it one after another.

    Attributes
    ----------
    worlds
        Workers of each world, and the times of one of them: while it trains those of this rank, at the end their
        average. The last world is at work.
    """

    worlds: tuple[tuple[int, Times], ...]

    @classmethod
    def start(cls, workers: int) -> WorkerTimes:
        """Return those of a world that has spent nothing yet."""
        return cls(((workers, Times()),))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> WorkerTimes:
        """Return what :func:`dataclasses.asdict` made plain, or JSON of it."""
        return cls(tuple((workers, Times(**times)) for workers, times in values["worlds"]))

    @property
    def own(self) -> Times:
        """Those of this rank in the world at work, into which a :class:`Stopwatch` books."""
        return self.worlds[-1][1]

    @property
    def workers(self) -> int:
        """Workers of the world at work, N."""
        return self.worlds[-1][0]

    def taken_over(self, workers: int) -> WorkerTimes:
        """Return those with which a world of so many workers goes on."""
        return self if workers == self.workers else WorkerTimes((*self.worlds, *self.start(workers).worlds))

    def gathered(self, connection: Connection) -> WorkerTimes:
        """Return them with the average over all ranks of the world at work, each of which calls this."""
        values = np.array([[getattr(self.own, field.name) for field in fields(Times)]])
        rows = connection.collectives.allgather(values)
        return WorkerTimes((*self.worlds[:-1], (self.workers, Times(*rows.mean(axis=0).tolist()))))

    @property
    def mean(self) -> Times:
        """Average training time of a worker, part by part: of all worlds what the clock says, sum of T_i."""
        return Times.added((1, times) for _, times in self.worlds)

    @property
    def total(self) -> Times:
        """Training time of all workers, part by part: what a cluster is billed for, sum of N_i T_i.

        With N GPUs and training time T this is "actual average single-GPU training time" (Lu et al. 2020) as
        algorithms.md a.1 reads it, N T.
        """
        return Times.added(self.worlds)

    @property
    def efficiency(self) -> float:
        """Share of the steps' time (input, compute, exchange) of all workers that is not spent in the exchange.

        Of a training whose batch for each worker does not depend on N this estimates the scaling efficiency: what else
        a worker does in a step it would do alone, too. Building and validating are left out, which would make a short
        training look better than it is. Workers that share memory or cores also slow each other's computing, which
        only a run of one worker can tell (:func:`scaling_efficiency`).
        """
        total = self.total
        return 1.0 - total.exchange / total.in_steps if total.in_steps else 1.0

    def figures(self) -> dict[str, float]:
        """Return what a report says, with units in the names; shares are of the time of all workers."""
        total = self.total
        return {
            "mean_training_s": self.mean.total,
            "worker_s": total.total,
            "efficiency_corrected_worker_s": total.total * self.efficiency,
            "efficiency_outside_exchange": self.efficiency,
            **{f"{name}_share": share for name, share in total.shares().items()},
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


class Stopwatch:
    """Books the time since the last look to one of the parts, and what of a step went into collectives to the exchange.

    Parameters
    ----------
    collectives
        Those of this rank, which know how long it has waited in them.
    times
        Into which it books.
    """

    def __init__(self, collectives: Collectives, times: Times) -> None:
        self.times = times
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
