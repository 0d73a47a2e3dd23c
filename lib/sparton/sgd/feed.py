"""Where rows come from: the shards of a table set, or arrays in memory; either way by the same plan."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparton.data.batches import array_batches
from sparton.data.blocks import PADDING_ID
from sparton.data.hashing import hash64, salt_of
from sparton.data.manifest import TableManifest
from sparton.data.plan import EpochPlan, Position, plan_epoch
from sparton.distributed.world import World
from sparton.errors import DataError
from sparton.sgd.arrays import as_rows, as_weight, check_finite
from sparton.sgd.batch import Batch

Array = NDArray[Any]

COLUMNS = ("features", "id")
"""What is read of a set, beside the weight: never the target."""

SAMPLE = 4  # what a salt is drawn for

PASS_ROWS = 16_384
"""Rows of a batch where nothing depends on it."""


class Feed(Protocol):
    """One rank's rows, in batches."""

    @property
    def total(self) -> int:
        """Rows of all ranks in an epoch."""

    @property
    def steps(self) -> int:
        """Steps of an epoch, the same on all ranks."""

    @property
    def batch_size(self) -> int:
        """Rows of this rank in one step."""

    @property
    def lanes(self) -> int | None:
        """Lanes of the plan; None is one for each rank."""

    def left(self, position: Position) -> int:
        """Return the rows of all ranks that an epoch has left at a position."""

    def nothing(self) -> Batch:
        """Return a batch without rows."""

    def epoch(self, position: Position) -> Iterator[Batch]:
        """Yield the batches of an epoch from a position on."""

    def once(self) -> Iterator[Batch]:
        """Yield all rows of this rank once, without padding."""

    def sample(self, rows: int) -> Iterator[Batch]:
        """Yield this rank's share of a random sample, without padding; ranks in their order have all of it.

        The sample is the same on any number of ranks. Where there are fewer rows all are taken.
        """


@dataclass(frozen=True)
class SetFeed:
    """Rows of a split of a table set.

    Attributes
    ----------
    world
        This rank's place.
    folder, manifest, split
        The set.
    batch_size, seed
        Rows of this rank in one step, and the seed of their order.
    lanes
        Lanes of the plan; None is one for each rank.
    """

    world: World
    folder: str
    manifest: TableManifest
    split: str
    batch_size: int
    seed: int
    lanes: int | None = None

    @property
    def total(self) -> int:
        """Rows of all ranks in an epoch."""
        return self.manifest.rows(self.split)

    @cached_property
    def steps(self) -> int:
        """Steps of an epoch, the same on all ranks."""
        return self._plan(Position.start(self.world.size, self.batch_size)).steps

    def left(self, position: Position) -> int:
        """Return the rows of all ranks that an epoch has left at a position."""
        return self._plan(position).left(position.step)

    def nothing(self) -> Batch:
        """Return a batch without rows."""
        return Batch.nothing(len(self.manifest.feature_names))

    def epoch(self, position: Position) -> Iterator[Batch]:
        """Yield the batches of an epoch from a position on."""
        return self._read(self.manifest, self._plan(position), position.step)

    def once(self) -> Iterator[Batch]:
        """Yield all rows of this rank once, without padding."""
        return self._pass(self.manifest, self.total)

    def sample(self, rows: int) -> Iterator[Batch]:
        """Yield this rank's share of the first rows of the set, which was shuffled when it was written."""
        shards = self.manifest.shards(self.split)
        needed = int(np.searchsorted(np.cumsum([shard.rows for shard in shards]), rows)) + 1
        return self._pass(self.manifest.model_copy(update={"splits": {self.split: shards[:needed]}}), rows)

    def _pass(self, part: TableManifest, wanted: int) -> Iterator[Batch]:
        """Yield this rank's share of the first ``wanted`` rows of ``part``."""
        plan = plan_epoch(part.shard_rows(self.split), self.world.size, PASS_ROWS, 0, 0, shuffle=False)
        low, high = plan.bounds(self.world.rank)
        left = min(high, wanted) - low
        for batch in self._read(part, plan):
            if left <= 0:
                return
            yield Batch(*(column[:left] for column in batch))
            left -= len(batch.rows)

    def _plan(self, position: Position) -> EpochPlan:
        return position.plan(self.manifest.shard_rows(self.split), self.seed, self.lanes)

    def _read(self, manifest: TableManifest, plan: EpochPlan, start_step: int = 0) -> Iterator[Batch]:
        for batch in array_batches(self.folder, manifest, self.split, plan, self.world.rank, start_step, COLUMNS):
            yield Batch(batch["features"], batch["weight"], batch["id"])


@dataclass(frozen=True)
class ArrayFeed:
    """Rows in memory, which all ranks hold; each takes those that the plan gives to it.

    Attributes
    ----------
    world
        This rank's place.
    rows
        float32 or float64 [n, d], finite.
    batch_size, seed
        Rows of this rank in one step, and the seed of their order.
    weight
        float32 or float64 [n], from 0.
    lanes
        Lanes of the plan; None is one for each rank.
    """

    world: World
    rows: Array
    batch_size: int
    seed: int
    weight: Array
    lanes: int | None = None

    @classmethod
    def of(
        cls,
        world: World,
        rows: ArrayLike,
        batch_size: int,
        seed: int,
        weight: ArrayLike | None = None,
        lanes: int | None = None,
    ) -> Self:
        """Return a feed of what a caller gives, once it has been checked; weights are 1 by default.

        Raises
        ------
        DataError
            If there are no rows, they are no numbers or not finite, or weights are negative or all 0.
        """
        found = as_rows(rows)
        if not len(found):
            raise DataError("rows: there are none; expected rows to cluster")
        check_finite(found)
        return cls(world, found, batch_size, seed, as_weight(weight, len(found)), lanes)

    @property
    def total(self) -> int:
        """Rows of all ranks in an epoch."""
        return len(self.rows)

    @cached_property
    def steps(self) -> int:
        """Steps of an epoch, the same on all ranks."""
        return self._plan(Position.start(self.world.size, self.batch_size)).steps

    def left(self, position: Position) -> int:
        """Return the rows of all ranks that an epoch has left at a position."""
        return self._plan(position).left(position.step)

    def nothing(self) -> Batch:
        """Return a batch without rows."""
        return Batch(self.rows[:0], self.weight[:0], np.zeros(0, np.int64))

    def epoch(self, position: Position) -> Iterator[Batch]:
        """Yield the batches of an epoch from a position on."""
        plan = self._plan(position)
        own = plan.lanes_of(self.world.rank)
        chosen = np.full((len(own), plan.steps * plan.lane_rows), PADDING_ID, np.int64)
        for places, lane in zip(chosen, own, strict=True):
            rows = [segment.rows for segment in plan.segments(lane)]
            order = np.concatenate(rows) if rows else np.zeros(0, np.int64)
            places[: len(order)] = order
        by_lane = chosen.reshape(len(own), plan.steps, plan.lane_rows)
        steps = by_lane.transpose(1, 0, 2).reshape(plan.steps, self.batch_size)
        padded = (steps == PADDING_ID).any(axis=1)
        for step in range(position.step, plan.steps):
            yield self._taken(steps[step], padded[step])

    def once(self) -> Iterator[Batch]:
        """Yield all rows of this rank once, without padding."""
        low, high = self._plan(Position.start(self.world.size, self.batch_size)).bounds(self.world.rank)
        for first in range(low, high, PASS_ROWS):
            part = slice(first, min(first + PASS_ROWS, high))
            yield Batch(self.rows[part], self.weight[part], np.arange(part.start, part.stop))

    def sample(self, rows: int) -> Iterator[Batch]:
        """Yield this rank's share of a random sample."""
        hashes = hash64(np.arange(self.total), salt_of(SAMPLE, self.seed))
        lowest = np.argpartition(hashes, rows)[:rows] if rows < self.total else np.arange(self.total)
        chosen = lowest[np.argsort(hashes[lowest])]
        low, high = plan_epoch([len(chosen)], self.world.size, 1, 0, 0).bounds(self.world.rank)
        own = chosen[low:high]
        yield Batch(self.rows[own], self.weight[own], own)

    def _plan(self, position: Position) -> EpochPlan:
        return position.plan([len(self.rows)], self.seed, self.lanes)

    def _taken(self, chosen: NDArray[np.int64], padded: bool) -> Batch:
        """Return chosen rows as a batch, with rows of zeros for padding so that shapes do not change."""
        # Four times as fast as indexing by an array; padding takes any row, here the last one.
        rows, weight = self.rows.take(chosen, axis=0), self.weight.take(chosen)
        if padded:
            padding = chosen == PADDING_ID
            rows[padding], weight[padding] = 0, 0
        return Batch(rows, weight, chosen)
