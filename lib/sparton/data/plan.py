"""Who reads which rows of an epoch: a pure function of the shards, the world, the batch size, the seed and the epoch.

The epoch has one global order: the shards permuted, and each with a permutation of its rows. Rank ``r`` of ``N`` owns
the slice ``[r T / N, (r + 1) T / N)`` of its ``T`` rows. So every row belongs to exactly one rank, ranks differ by at
most one row, only the ends of slices share a shard, and shards come to other ranks in other epochs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from sparton.data.hashing import permutation, salt_of
from sparton.errors import UsageError

Indices = NDArray[np.int64]

SHARD_ORDER, ROW_ORDER = 1, 2  # what a salt is drawn for
CACHED_PERMUTATIONS = 4


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of a rank that lie in one shard: ``rows`` int64[k] of shard number ``shard``, in plan order."""

    shard: int
    rows: Indices


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """The plan of one epoch, made by :func:`plan_epoch`; row orders are computed shard by shard when asked for.

    Attributes
    ----------
    world_size, batch_size
        Ranks, and rows of one rank in one step.
    seed, epoch, shuffle
        What the order was drawn from; without ``shuffle`` it is the order of the files.
    order
        Shard numbers in the epoch's order, int64[S].
    starts
        Position in the global order at which the shard ``order[i]`` starts, int64[S + 1]; the last entry is the total.
    """

    world_size: int
    batch_size: int
    seed: int
    epoch: int
    shuffle: bool
    order: Indices
    starts: Indices

    @property
    def total(self) -> int:
        """Rows in the epoch over all ranks."""
        return int(self.starts[-1])

    @property
    def steps(self) -> int:
        """Steps of every rank; the last ones may be completed with padding."""
        longest = -(-self.total // self.world_size)
        return -(-longest // self.batch_size)

    def bounds(self, rank: int) -> tuple[int, int]:
        """Return the limits of a rank's slice of the global order.

        Raises
        ------
        UsageError
            If there is no such rank.
        """
        if not 0 <= rank < self.world_size:
            raise UsageError(f"rank {rank} is not in the plan's world of {self.world_size} ranks")
        return rank * self.total // self.world_size, (rank + 1) * self.total // self.world_size

    def row_count(self, rank: int) -> int:
        """Return the number of rows that a rank owns."""
        low, high = self.bounds(rank)
        return high - low

    def rows(self, rank: int, step: int) -> tuple[Indices, Indices]:
        """Return shard numbers and rows within them, int64[k] each, of one batch.

        ``k`` is the batch size, or less at the end of the rank's rows: what is missing is padding.
        """
        if not 0 <= step < self.steps:
            raise UsageError(f"step {step} is not in the plan's {self.steps} steps")
        low, high = self.bounds(rank)
        first = min(low + step * self.batch_size, high)
        found = list(self._segments(first, min(first + self.batch_size, high)))
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        shards = np.concatenate([np.full(segment.rows.size, segment.shard, np.int64) for segment in found])
        return shards, np.concatenate([segment.rows for segment in found])

    def segments(self, rank: int, start_step: int = 0) -> Iterator[Segment]:
        """Yield a rank's rows from ``start_step`` on, shard by shard in the order in which they are used."""
        low, high = self.bounds(rank)
        return self._segments(min(low + start_step * self.batch_size, high), high)

    def shards(self, rank: int, start_step: int = 0) -> Indices:
        """Return the shard numbers that :meth:`segments` visits, int64[k], without computing any row order."""
        low, high = self.bounds(rank)
        low = min(low + start_step * self.batch_size, high)
        return self.order[self._visited(low, high)]

    def _visited(self, low: int, high: int) -> Indices:
        """Return the indices into ``order`` of the shards that hold positions ``low .. high - 1``."""
        first = int(np.searchsorted(self.starts, low, side="right")) - 1
        last = int(np.searchsorted(self.starts, high, side="left"))
        visited = np.arange(first, last)
        return visited[np.diff(self.starts)[first:last] > 0] if high > low else visited[:0]

    def _segments(self, low: int, high: int) -> Iterator[Segment]:
        for index in self._visited(low, high).tolist():
            start, end = int(self.starts[index]), int(self.starts[index + 1])
            inside = slice(max(low - start, 0), min(high, end) - start)
            shard = int(self.order[index])
            yield Segment(shard, self._row_order(shard, end - start)[inside])

    def _row_order(self, shard: int, rows: int) -> Indices:
        if not self.shuffle:
            return np.arange(rows)
        return _shuffled_rows(self.seed, self.epoch, shard, rows)


def plan_epoch(
    shard_rows: Sequence[int], world_size: int, batch_size: int, seed: int, epoch: int, shuffle: bool = True
) -> EpochPlan:
    """Plan one epoch over shards with these numbers of rows.

    Parameters
    ----------
    shard_rows
        Rows of each shard, in the order of the manifest.
    world_size
        Number of ranks.
    batch_size
        Rows of one rank in one step.
    seed, epoch
        What the order is drawn from; it differs from epoch to epoch.
    shuffle
        False keeps the order of the files.

    Raises
    ------
    UsageError
        If there is no rank, no room in a batch, or a negative number of rows.
    """
    counts = np.asarray(shard_rows, np.int64).reshape(-1)
    if world_size < 1 or batch_size < 1:
        raise UsageError(f"a plan needs at least one rank and one row a batch, found {world_size} and {batch_size}")
    if np.any(counts < 0):
        raise UsageError(f"shard {int(np.argmin(counts))} has {int(counts.min())} rows, expected 0 or more")
    shards = permutation(counts.size, salt_of(SHARD_ORDER, seed, epoch)) if shuffle else np.arange(counts.size)
    starts = np.concatenate([[0], np.cumsum(counts[shards])]).astype(np.int64)
    return EpochPlan(world_size, batch_size, seed, epoch, shuffle, shards, starts)


@lru_cache(maxsize=CACHED_PERMUTATIONS)
def _shuffled_rows(seed: int, epoch: int, shard: int, rows: int) -> Indices:
    order = permutation(rows, salt_of(ROW_ORDER, seed, epoch, shard))
    order.flags.writeable = False  # the cache hands out one array
    return order
