"""Who reads which rows of an epoch: a pure function of the shards, the world, the batch size, the seed and the epoch.

The epoch has one global order: the shards permuted, and each with a permutation of its rows. Rank ``r`` of ``N`` owns
the slice ``[r T / N, (r + 1) T / N)`` of its ``T`` rows. So every row belongs to exactly one rank, ranks differ by at
most one row, only the ends of slices share a shard, and shards come to other ranks in other epochs.

A world of another size can take over in the middle of an epoch: what the ranks before it have left is the global order
that remains, and is sliced in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

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
        Position in the global order at which the shard ``order[i]`` starts, int64[S + 1]; the last entry is its length.
    spans
        Limits of the positions in the global order that the plan covers, int64[n, 2]: all, or what others have left.
    """

    world_size: int
    batch_size: int
    seed: int
    epoch: int
    shuffle: bool
    order: Indices
    starts: Indices
    spans: Indices

    @property
    def total(self) -> int:
        """Rows that the plan covers, over all ranks."""
        return int((self.spans[:, 1] - self.spans[:, 0]).sum())

    @property
    def steps(self) -> int:
        """Steps of every rank; the last ones may be completed with padding."""
        longest = -(-self.total // self.world_size)
        return -(-longest // self.batch_size)

    def rest(self, steps: int, world_size: int) -> EpochPlan:
        """Return the plan by which ``world_size`` ranks read what is left after ``steps`` steps of this one."""
        left: list[tuple[int, int]] = []
        for rank in range(self.world_size):
            left.extend(self._positions(*self._from(rank, steps)))
        return dataclasses.replace(self, world_size=world_size, spans=np.array(left, np.int64).reshape(-1, 2))

    def bounds(self, rank: int) -> tuple[int, int]:
        """Return the limits of a rank's slice of the rows that the plan covers, in their order.

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
        first, high = self._from(rank, step)
        found = list(self._segments(first, min(first + self.batch_size, high)))
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        shards = np.concatenate([np.full(segment.rows.size, segment.shard, np.int64) for segment in found])
        return shards, np.concatenate([segment.rows for segment in found])

    def segments(self, rank: int, start_step: int = 0) -> Iterator[Segment]:
        """Yield a rank's rows from ``start_step`` on, shard by shard in the order in which they are used."""
        return self._segments(*self._from(rank, start_step))

    def shards(self, rank: int, start_step: int = 0) -> Indices:
        """Return the shard numbers that :meth:`segments` visits, int64[k], without computing any row order."""
        visited = [self._visited(*span) for span in self._positions(*self._from(rank, start_step))]
        return self.order[np.concatenate(visited)] if visited else self.order[:0]

    def _from(self, rank: int, step: int) -> tuple[int, int]:
        """Return the limits of a rank's slice that are left at ``step``."""
        low, high = self.bounds(rank)
        return min(low + step * self.batch_size, high), high

    def _positions(self, low: int, high: int) -> Iterator[tuple[int, int]]:
        """Yield the limits in the global order of the covered rows ``low .. high - 1``."""
        ends = np.cumsum(self.spans[:, 1] - self.spans[:, 0])
        first = int(np.searchsorted(ends, low, side="right"))
        for (start, end), after in zip(self.spans[first:].tolist(), ends[first:].tolist(), strict=True):
            before = after - (end - start)
            if before >= high:
                return
            limits = start + max(low - before, 0), start + min(high, after) - before
            if limits[0] < limits[1]:
                yield limits

    def _visited(self, low: int, high: int) -> Indices:
        """Return the indices into ``order`` of the shards that hold positions ``low .. high - 1``, at least one."""
        first = int(np.searchsorted(self.starts, low, side="right")) - 1
        last = int(np.searchsorted(self.starts, high, side="left"))
        visited = np.arange(first, last)
        return visited[np.diff(self.starts)[first:last] > 0]

    def _segments(self, low: int, high: int) -> Iterator[Segment]:
        for span in self._positions(low, high):
            for index in self._visited(*span).tolist():
                start, end = int(self.starts[index]), int(self.starts[index + 1])
                inside = slice(max(span[0] - start, 0), min(span[1], end) - start)
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
    return EpochPlan(world_size, batch_size, seed, epoch, shuffle, shards, starts, np.array([[0, starts[-1]]]))


@dataclass(frozen=True)
class Position:
    """How far a training is in its data: what a checkpoint holds of it.

    Attributes
    ----------
    epoch
        The epoch, from 0.
    parts
        Size of the world and steps made, for each world that has read of the epoch; the last one is at work.
    """

    epoch: int
    parts: tuple[tuple[int, int], ...]

    @classmethod
    def start(cls, world_size: int, epoch: int = 0) -> Position:
        """Return the beginning of an epoch."""
        return cls(epoch, ((world_size, 0),))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Position:
        """Return what :func:`dataclasses.asdict` made plain, or JSON of it."""
        return cls(values["epoch"], tuple((world_size, steps) for world_size, steps in values["parts"]))

    @property
    def step(self) -> int:
        """The next step of the world at work, in its plan."""
        return self.parts[-1][1]

    @property
    def world_size(self) -> int:
        """Ranks of the world at work."""
        return self.parts[-1][0]

    @property
    def at_start(self) -> bool:
        """Whether nobody has made a step in this epoch."""
        return not any(steps for _, steps in self.parts)

    def advanced(self) -> Position:
        """Return the position one step later."""
        return Position(self.epoch, (*self.parts[:-1], (self.world_size, self.step + 1)))

    def taken_over(self, world_size: int) -> Position:
        """Return the position at which a world of this size goes on."""
        if world_size == self.world_size:
            return self
        worked = self.parts if self.step else self.parts[:-1]
        return Position(self.epoch, (*worked, (world_size, 0)))

    def plan(self, shard_rows: Sequence[int], batch_size: int, seed: int) -> EpochPlan:
        """Return the plan of the world at work: of what the worlds before it have left of the epoch."""
        plan = plan_epoch(shard_rows, self.parts[0][0], batch_size, seed, self.epoch)
        for (_, steps), (world_size, _) in zip(self.parts, self.parts[1:], strict=False):
            plan = plan.rest(steps, world_size)
        return plan


@lru_cache(maxsize=CACHED_PERMUTATIONS)
def _shuffled_rows(seed: int, epoch: int, shard: int, rows: int) -> Indices:
    order = permutation(rows, salt_of(ROW_ORDER, seed, epoch, shard))
    order.flags.writeable = False  # the cache hands out one array
    return order
