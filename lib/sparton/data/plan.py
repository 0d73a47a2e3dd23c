"""Who reads which rows of an epoch: a pure function of the shards, the world, the batch size, the seed and the epoch.

The epoch has one global order: the shards permuted, and each with a permutation of its rows. It is cut into ``L``
lanes: lane ``l`` is the slice ``[l T / L, (l + 1) T / L)`` of its ``T`` rows. Each of ``N`` ranks works ``L / N`` of
them, one after the other in rank 0, 1 and so on, and a step takes equally many rows of every lane. So every row
belongs to exactly one rank, only the ends of lanes share a shard, and shards come to other ranks in other epochs.

The rows of a global batch, their order and its padding depend on ``L`` and on its size alone: any ``N`` that divides
``L`` trains on the same batches. Without a number of lanes each rank has one.

Another world can take over in the middle of an epoch. With the same lanes and the same size of the global batch it goes
on at the same step. Else what the lanes have left is the global order that remains, and is cut in the same way.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparton.data.hashing import permutation, salt_of
from sparton.errors import UsageError

Indices = NDArray[np.int64]

SHARD_ORDER, ROW_ORDER = 1, 2  # what a salt is drawn for
CACHED_PERMUTATIONS = 4


@dataclass(frozen=True)
class Segment:
    """Consecutive rows of a lane that lie in one shard: ``rows`` int64[k] of shard number ``shard``, in plan order."""

    shard: int
    rows: Indices


@dataclass(frozen=True, eq=False)
class EpochPlan:
    """The plan of one epoch, made by :func:`plan_epoch`; row orders are computed shard by shard when asked for.

    Attributes
    ----------
    world_size, batch_size
        Ranks, and rows of one rank in one step.
    lanes
        Slices that the order is cut into; the ranks have equally many.
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
    lanes: int
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
    def lane_rows(self) -> int:
        """Rows of one lane in one step."""
        return self.batch_size * self.world_size // self.lanes

    @property
    def steps(self) -> int:
        """Steps of every rank; the last ones may be completed with padding."""
        longest = -(-self.total // self.lanes)
        return -(-longest // self.lane_rows)

    def rest(self, steps: int, world_size: int, batch_size: int, lanes: int | None = None) -> EpochPlan:
        """Return the plan by which another world reads what is left after ``steps`` steps of this one."""
        left: list[tuple[int, int]] = []
        for lane in range(self.lanes):
            left.extend(self._positions(*self._from(lane, steps)))
        spans = np.array(left, np.int64).reshape(-1, 2)
        lanes = checked_lanes(lanes, world_size, batch_size)
        return dataclasses.replace(self, world_size=world_size, batch_size=batch_size, lanes=lanes, spans=spans)

    def left(self, steps: int) -> int:
        """Return the rows of all ranks that are left after ``steps`` steps."""
        limits = np.arange(self.lanes + 1) * self.total // self.lanes
        return int(np.maximum(np.diff(limits) - steps * self.lane_rows, 0).sum())

    def lanes_of(self, rank: int) -> range:
        """Return the numbers of a rank's lanes, in the order of their rows in its batches.

        Raises
        ------
        UsageError
            If there is no such rank.
        """
        if not 0 <= rank < self.world_size:
            raise UsageError(f"rank {rank} is not in the plan's world of {self.world_size} ranks")
        share = self.lanes // self.world_size
        return range(rank * share, (rank + 1) * share)

    def bounds(self, rank: int) -> tuple[int, int]:
        """Return the limits of a rank's lanes in the rows that the plan covers, in their order."""
        own = self.lanes_of(rank)
        return own.start * self.total // self.lanes, own.stop * self.total // self.lanes

    def row_count(self, rank: int) -> int:
        """Return the number of rows that a rank owns."""
        low, high = self.bounds(rank)
        return high - low

    def rows(self, rank: int, step: int) -> tuple[Indices, Indices]:
        """Return shard numbers and rows within them, int64[k] each, of one batch, lane by lane.

        ``k`` is the batch size, or less at the end of the lanes: what is missing is padding, after each lane's rows.
        """
        if not 0 <= step < self.steps:
            raise UsageError(f"step {step} is not in the plan's {self.steps} steps")
        found: list[Segment] = []
        for lane in self.lanes_of(rank):
            first, high = self._from(lane, step)
            found.extend(self._segments(first, min(first + self.lane_rows, high)))
        if not found:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        shards = np.concatenate([np.full(segment.rows.size, segment.shard, np.int64) for segment in found])
        return shards, np.concatenate([segment.rows for segment in found])

    def segments(self, lane: int, start_step: int = 0) -> Iterator[Segment]:
        """Yield a lane's rows from ``start_step`` on, shard by shard in the order in which they are used."""
        return self._segments(*self._from(lane, start_step))

    def shards(self, lane: int, start_step: int = 0) -> Indices:
        """Return the shard numbers that :meth:`segments` visits, int64[k], without computing any row order."""
        visited = [self._visited(*span) for span in self._positions(*self._from(lane, start_step))]
        return self.order[np.concatenate(visited)] if visited else self.order[:0]

    def _from(self, lane: int, step: int) -> tuple[int, int]:
        """Return the limits of what a lane has left at ``step``."""
        low, high = lane * self.total // self.lanes, (lane + 1) * self.total // self.lanes
        return min(low + step * self.lane_rows, high), high

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
    shard_rows: Sequence[int],
    world_size: int,
    batch_size: int,
    seed: int,
    epoch: int,
    shuffle: bool = True,
    lanes: int | None = None,
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
    lanes
        Slices of the order; None takes one for each rank.

    Raises
    ------
    UsageError
        If there is no rank, no room in a batch, a negative number of rows, or ranks and lanes do not fit.
    """
    counts = np.asarray(shard_rows, np.int64).reshape(-1)
    if world_size < 1 or batch_size < 1:
        raise UsageError(f"a plan needs at least one rank and one row a batch, found {world_size} and {batch_size}")
    if np.any(counts < 0):
        raise UsageError(f"shard {int(np.argmin(counts))} has {int(counts.min())} rows, expected 0 or more")
    shards = permutation(counts.size, salt_of(SHARD_ORDER, seed, epoch)) if shuffle else np.arange(counts.size)
    starts = np.concatenate([[0], np.cumsum(counts[shards])]).astype(np.int64)
    lanes = checked_lanes(lanes, world_size, batch_size)
    return EpochPlan(world_size, batch_size, lanes, seed, epoch, shuffle, shards, starts, np.array([[0, starts[-1]]]))


def checked_lanes(lanes: int | None, world_size: int, batch_size: int, name: str = "lanes") -> int:
    """Return the number of lanes, one for each rank where none is given; ``name`` is that of the setting.

    Raises
    ------
    UsageError
        If ranks would have unequal numbers of lanes, or lanes unequal numbers of rows in a step.
    """
    if lanes is None:
        return world_size
    if lanes < 1 or lanes % world_size:
        raise UsageError(
            f"{name}: {lanes} lanes cannot be shared equally by {world_size} workers; set lanes to a multiple of "
            f"{world_size}, or to null (one for each worker), or take a number of workers that divides {lanes}"
        )
    share = lanes // world_size
    if batch_size % share:
        raise UsageError(
            f"{name}: the {share} lanes of each worker ({lanes} lanes, {world_size} workers) cannot have equally many "
            f"of its batch_size {batch_size} rows; set batch_size to a multiple of {share}, such as "
            f"{-(-batch_size // share) * share}, or other lanes"
        )
    return lanes


class Part(NamedTuple):
    """What a world has read of an epoch: its ranks, rows of one rank in one step, and steps made."""

    world_size: int
    batch_size: int
    steps: int

    @property
    def global_batch(self) -> int:
        """Rows of all ranks in one step."""
        return self.world_size * self.batch_size


@dataclass(frozen=True)
class Position:
    """How far a training is in its data: what a checkpoint holds of it.

    Attributes
    ----------
    epoch
        The epoch, from 0.
    parts
        What each world has read of the epoch; the last one is at work.
    """

    epoch: int
    parts: tuple[Part, ...]

    @classmethod
    def start(cls, world_size: int, batch_size: int, epoch: int = 0) -> Position:
        """Return the beginning of an epoch."""
        return cls(epoch, (Part(world_size, batch_size, 0),))

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> Position:
        """Return what :func:`dataclasses.asdict` made plain, or JSON of it."""
        return cls(values["epoch"], tuple(Part(*part) for part in values["parts"]))

    @property
    def at_work(self) -> Part:
        """What the world at work has read."""
        return self.parts[-1]

    @property
    def step(self) -> int:
        """The next step of the world at work, in its plan."""
        return self.at_work.steps

    @property
    def at_start(self) -> bool:
        """Whether nobody has made a step in this epoch."""
        return not any(part.steps for part in self.parts)

    def advanced(self) -> Position:
        """Return the position one step later."""
        return Position(self.epoch, (*self.parts[:-1], self.at_work._replace(steps=self.step + 1)))

    def next_epoch(self) -> Position:
        """Return the beginning of the next epoch, for the world at work."""
        return Position.start(self.at_work.world_size, self.at_work.batch_size, self.epoch + 1)

    def taken_over(self, world_size: int, batch_size: int, lanes: int | None = None) -> Position:
        """Return the position at which such a world goes on: with the same global batches at the same step."""
        new = Part(world_size, batch_size, 0)
        if self.keeps_batches(world_size, batch_size, lanes):
            return Position(self.epoch, (*self.parts[:-1], new._replace(steps=self.step)))
        worked = self.parts if self.step else self.parts[:-1]
        return Position(self.epoch, (*worked, new))

    def keeps_batches(self, world_size: int, batch_size: int, lanes: int | None = None) -> bool:
        """Return whether such a world takes the same global batches as the one at work."""
        same_lanes = lanes is not None or world_size == self.at_work.world_size
        return same_lanes and world_size * batch_size == self.at_work.global_batch

    def plan(self, shard_rows: Sequence[int], seed: int, lanes: int | None = None) -> EpochPlan:
        """Return the plan of the world at work: of what the worlds before it have left of the epoch."""
        first, *others = self.parts
        plan = plan_epoch(shard_rows, first.world_size, first.batch_size, seed, self.epoch, lanes=lanes)
        for before, after in zip(self.parts, others, strict=False):
            plan = plan.rest(before.steps, after.world_size, after.batch_size, lanes)
        return plan


@lru_cache(maxsize=CACHED_PERMUTATIONS)
def _shuffled_rows(seed: int, epoch: int, shard: int, rows: int) -> Indices:
    order = permutation(rows, salt_of(ROW_ORDER, seed, epoch, shard))
    order.flags.writeable = False  # the cache hands out one array
    return order
