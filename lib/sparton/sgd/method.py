"""What the trainer asks of a method: sums over rows, and an update that reads nothing else.

Everything that is not linear in the rows comes after the sums of all ranks have been added up, so N ranks compute what
one would.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from sparton.distributed.world import Connection
from sparton.sgd.batch import Batch
from sparton.sgd.clusters import Clusters

Array = NDArray[Any]

StateT = TypeVar("StateT", bound=NamedTuple)
StatisticsT = TypeVar("StatisticsT", bound=NamedTuple)

Gather = Callable[[Array], Array]


class Figures(NamedTuple):
    """What is watched of a step: the objective over its rows, their weight, and a centroid's largest squared move."""

    objective: float
    weight: float
    shift: float


class Words(NamedTuple):
    """What a method calls its objective, and what is mended between steps, in the training curve."""

    objective: str
    mended: str


@dataclass(frozen=True)
class Outcome:
    """What a training has found.

    Attributes
    ----------
    clusters
        What assigns rows.
    counts
        float64 [k]: the weights that the centroids stand for; what a later training would go on from.
    sizes
        float64 [k]: how much of all rows each cluster has.
    objective
        Over all rows.
    figures
        Further numbers by name.
    """

    clusters: Clusters
    counts: NDArray[np.float64]
    sizes: NDArray[np.float64]
    objective: float
    figures: dict[str, float]


class Method(Protocol[StateT, StatisticsT]):
    """A method of this family. States and statistics are named tuples of float64 and int64 arrays."""

    words: Words

    def first_state(self, rows: Array, weight: Array) -> StateT:
        """Return where training starts, found on a sample of rows [n, d] of these weights [n]."""

    def steps_done(self, state: StateT) -> int:
        """Return how many steps a state has had."""

    def smallest_share(self, state: StateT) -> float:
        """Return the smallest cluster's share of all that the clusters stand for."""

    def empty_state(self) -> StateT:
        """Return a state of the same shapes, to be overwritten by that of rank 0."""

    def local_statistics(self, batch: Batch, state: StateT) -> StatisticsT:
        """Return sums over a rank's rows; those of several ranks add up."""

    def update(self, state: StateT, statistics: StatisticsT) -> tuple[StateT, Figures]:
        """Return the state after a step, from the sums over all ranks."""

    def repair(self, state: StateT, batch: Batch, gather: Gather) -> tuple[StateT, int]:
        """Mend what a step cannot, such as starved centroids; return the state and how many were mended.

        Whether there is something to mend must be told from the state alone, so that all ranks gather or none does.
        ``gather`` concatenates arrays of all ranks along their first axis.
        """

    def outcome(self, state: StateT, totals: StatisticsT) -> Outcome:
        """Return what was found, from the last state and the sums over all rows with it."""


def added(first: StatisticsT, second: StatisticsT) -> StatisticsT:
    """Return the sum of two statistics."""
    return type(first)(*(one + other for one, other in zip(first, second, strict=True)))


def add_up(connection: Connection, statistics: StatisticsT) -> StatisticsT:
    """Return statistics summed over all ranks: one exchange of one vector."""
    if connection.world.size == 1:
        return statistics
    import tensorflow as tf

    parts = [np.asarray(value, np.float64) for value in statistics]
    vector = np.concatenate([part.ravel() for part in parts])
    total = connection.collectives.allreduce_sum([tf.constant(vector)])[0].numpy()
    ends = np.cumsum([part.size for part in parts])
    values = [total[end - part.size : end].reshape(part.shape) for part, end in zip(parts, ends, strict=True)]
    return type(statistics)(*values)
