"""The plan: every row exactly once, equal steps, padding at the end only, for any shards, world and batch size."""

from __future__ import annotations

import time
import tracemalloc
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparton.data.plan import EpochPlan, Position, plan_epoch
from sparton.errors import UsageError

SHARDS = st.lists(st.integers(0, 40), min_size=0, max_size=12)
WORLDS = st.integers(1, 16)
BATCHES = st.integers(1, 50)


def batch_of(plan: EpochPlan, rank: int, step: int) -> list[tuple[int, int]]:
    shards, rows = plan.rows(rank, step)
    return list(zip(shards.tolist(), rows.tolist(), strict=True))


def rows_of(plan: EpochPlan, rank: int) -> list[tuple[int, int]]:
    return [row for step in range(plan.steps) for row in batch_of(plan, rank, step)]


@given(SHARDS, WORLDS, BATCHES, st.integers(-5, 2**40), st.integers(0, 100), st.booleans())
@settings(deadline=None)
def test_every_row_once_over_all_ranks(
    shards: list[int], world: int, batch: int, seed: int, epoch: int, shuffle: bool
) -> None:
    plan = plan_epoch(shards, world, batch, seed, epoch, shuffle)
    found = Counter(row for rank in range(world) for row in rows_of(plan, rank))
    expected = Counter((shard, row) for shard, rows in enumerate(shards) for row in range(rows))
    assert found == expected
    assert plan.total == sum(shards)


@given(SHARDS, WORLDS, BATCHES)
@settings(deadline=None)
def test_ranks_have_equal_steps_and_pad_at_the_end_only(shards: list[int], world: int, batch: int) -> None:
    plan = plan_epoch(shards, world, batch, 1, 2)
    counts = [plan.row_count(rank) for rank in range(world)]
    assert max(counts) - min(counts) <= 1
    assert plan.steps == -(-max(counts) // batch)
    for rank in range(world):
        sizes = [plan.rows(rank, step)[0].size for step in range(plan.steps)]
        full, rest = divmod(counts[rank], batch)
        expected = [batch] * full + [rest] * (rest > 0)
        assert sizes == expected + [0] * (plan.steps - len(expected))


@given(SHARDS, WORLDS, BATCHES, st.data())
@settings(deadline=None)
def test_segments_give_what_remains_of_the_rows(shards: list[int], world: int, batch: int, data: st.DataObject) -> None:
    plan = plan_epoch(shards, world, batch, 3, 4)
    rank = data.draw(st.integers(0, world - 1))
    start = data.draw(st.integers(0, plan.steps))
    segments = list(plan.segments(rank, start))
    assert plan.shards(rank, start).tolist() == [segment.shard for segment in segments]
    assert all(segment.rows.size for segment in segments)
    found = [(segment.shard, row) for segment in segments for row in segment.rows.tolist()]
    assert found == rows_of(plan, rank)[start * batch :]


def test_slices_are_contiguous_so_that_only_their_ends_share_a_shard() -> None:
    plan = plan_epoch([100] * 40, 8, 32, 0, 0)
    readers = Counter(shard for rank in range(8) for shard in plan.shards(rank).tolist())
    assert sum(count > 1 for count in readers.values()) <= 7


def test_ranks_share_a_shard_where_there_are_fewer_shards_than_ranks() -> None:
    plan = plan_epoch([10], 4, 2, 0, 0)
    assert [plan.row_count(rank) for rank in range(4)] == [2, 3, 2, 3]
    assert plan.steps == 2
    assert plan.rows(0, 1)[0].size == 0


def test_same_arguments_give_the_same_plan_and_epochs_differ() -> None:
    shards = [50, 50, 50, 20]
    first, again = (rows_of(plan_epoch(shards, 2, 8, 9, 1), 0) for _ in range(2))
    assert first == again
    assert first != rows_of(plan_epoch(shards, 2, 8, 9, 2), 0)
    assert first != rows_of(plan_epoch(shards, 2, 8, 8, 1), 0)
    assert set(first) != set(rows_of(plan_epoch(shards, 2, 8, 9, 2), 0))


def test_order_is_even_over_the_epoch() -> None:
    # The mean position of a shard's rows over many epochs is the middle.
    positions = [np.flatnonzero(plan_epoch([1] * 10, 1, 1, 0, epoch).order == 3)[0] for epoch in range(500)]
    assert abs(np.mean(positions) - 4.5) < 5 * 2.87 / np.sqrt(500)


def test_without_shuffle_the_order_is_that_of_the_files() -> None:
    plan = plan_epoch([3, 0, 2], 1, 4, 5, 6, shuffle=False)
    assert rows_of(plan, 0) == [(0, 0), (0, 1), (0, 2), (2, 0), (2, 1)]


def test_no_rows_give_no_steps() -> None:
    assert plan_epoch([], 3, 4, 0, 0).steps == 0
    assert plan_epoch([0, 0], 3, 4, 0, 0).steps == 0
    assert list(plan_epoch([0], 2, 4, 0, 0).segments(1)) == []


def test_a_billion_rows_cost_what_is_asked_for() -> None:
    tracemalloc.start()
    started = time.perf_counter()
    plan = plan_epoch([10_000] * 100_000, 16, 512, 1, 2)
    shards, rows = plan.rows(15, plan.steps - 1)
    first = next(plan.segments(7, 60_000))
    seconds, peak = time.perf_counter() - started, tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert plan.total == 10**9
    assert shards.size == rows.size == plan.row_count(15) - (plan.steps - 1) * 512
    assert first.rows.size <= 10_000
    assert seconds < 5
    assert peak < 50e6


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [(([1], 0, 4), "at least one rank"), (([1], 1, 0), "at least one rank"), (([3, -1], 1, 1), "shard 1 has -1 rows")],
)
def test_impossible_plans_are_refused(arguments: tuple[list[int], int, int], reason: str) -> None:
    with pytest.raises(UsageError, match=reason):
        plan_epoch(*arguments, seed=0, epoch=0)


def test_ranks_and_steps_outside_the_plan_are_refused() -> None:
    plan = plan_epoch([8], 2, 2, 0, 0)
    with pytest.raises(UsageError, match="rank 2"):
        plan.rows(2, 0)
    with pytest.raises(UsageError, match="step 2"):
        plan.rows(0, 2)


@given(SHARDS, st.integers(1, 12), st.integers(1, 9), st.integers(0, 2**40), st.booleans())
@settings(deadline=None)
def test_global_batches_are_the_same_for_every_number_of_ranks_that_divides_the_lanes(
    shards: list[int], lanes: int, lane_rows: int, seed: int, shuffle: bool
) -> None:
    """They are those of as many ranks as lanes with one lane each: rows, their order, and where padding is."""
    each = plan_epoch(shards, lanes, lane_rows, seed, 3, shuffle)
    everything = Counter((shard, row) for shard, rows in enumerate(shards) for row in range(rows))
    for world in (number for number in range(1, lanes + 1) if lanes % number == 0):
        plan = plan_epoch(shards, world, lanes * lane_rows // world, seed, 3, shuffle, lanes)
        assert plan.steps == each.steps
        assert [lane for rank in range(world) for lane in plan.lanes_of(rank)] == list(range(lanes))
        assert sum(plan.row_count(rank) for rank in range(world)) == plan.total == sum(shards)
        found: Counter[tuple[int, int]] = Counter()
        for step in range(plan.steps):
            taken = [row for rank in range(world) for row in batch_of(plan, rank, step)]
            assert taken == [row for lane in range(lanes) for row in batch_of(each, lane, step)]
            assert plan.left(step) == plan.total - found.total()
            found.update(taken)
        assert found == everything
        for lane in range(lanes):
            assert plan.shards(lane, 1).tolist() == each.shards(lane, 1).tolist()
            parts = zip(plan.segments(lane, 1), each.segments(lane, 1), strict=True)
            assert all(np.array_equal(one.rows, other.rows) for one, other in parts)


def test_without_lanes_global_batches_depend_on_the_number_of_ranks() -> None:
    one, two = plan_epoch([50, 50], 1, 10, 1, 1), plan_epoch([50, 50], 2, 5, 1, 1)
    first = [set(batch_of(one, 0, step)) for step in range(10)]
    assert first != [set(batch_of(two, 0, step)) | set(batch_of(two, 1, step)) for step in range(10)]
    assert (one.lanes, two.lanes) == (1, 2)


@pytest.mark.parametrize(
    ("lanes", "world", "batch", "reason"),
    [
        (
            12,
            5,
            12,
            r"^lanes: 12 lanes cannot be shared equally by 5 workers; set lanes to a multiple of 5, or to null",
        ),
        (2, 4, 12, "2 lanes cannot be shared equally by 4 workers"),
        (0, 1, 12, "0 lanes cannot be shared equally by 1 workers"),
        (12, 3, 10, r"the 4 lanes of each worker \(12 lanes, 3 workers\).*batch_size 10 .*multiple of 4, such as 12,"),
    ],
)
def test_lanes_that_do_not_fit_the_world_or_the_batch_are_refused(
    lanes: int, world: int, batch: int, reason: str
) -> None:
    with pytest.raises(UsageError, match=reason):
        plan_epoch([99], world, batch, 0, 0, lanes=lanes)


BATCHES_OF_LANES = st.sampled_from([12, 24, 36])


@given(
    SHARDS,
    st.lists(st.tuples(WORLDS, BATCHES, st.integers(0, 6)), min_size=1, max_size=4)
    | st.lists(
        st.tuples(st.sampled_from([1, 2, 3, 4, 6, 12]), BATCHES_OF_LANES, st.integers(0, 3)), min_size=1, max_size=4
    ),
    st.data(),
)
@settings(deadline=None)
def test_worlds_that_take_over_within_an_epoch_read_every_row_once(
    shards: list[int], worlds: list[tuple[int, int, int]], data: st.DataObject
) -> None:
    """Each world makes some steps; the last one those that remain. Both ways of reading a plan give the same rows."""
    fitting = all(12 % world == 0 and batch % 12 == 0 for world, batch, _ in worlds)
    lanes = data.draw(st.sampled_from([None, 12])) if fitting else None
    position = Position.start(*worlds[0][:2], epoch=3)
    found: Counter[tuple[int, int]] = Counter()
    for number, (world, batch, steps) in enumerate(worlds):
        position = position.taken_over(world, batch, lanes)
        plan = position.plan(shards, 5, lanes)
        assert (plan.world_size, plan.batch_size, plan.lanes) == (world, batch, lanes or world)
        assert plan.left(position.step) == sum(shards) - found.total()
        last = plan.steps if number == len(worlds) - 1 else min(position.step + steps, plan.steps)
        for lane in range(plan.lanes):
            segments = list(plan.segments(lane, position.step))
            assert plan.shards(lane, position.step).tolist() == [segment.shard for segment in segments]
        for rank in range(world):
            own = plan.lanes_of(rank)
            segments = [segment for lane in own for segment in plan.segments(lane, position.step)]
            ahead = [(segment.shard, row) for segment in segments for row in segment.rows.tolist()]
            rows = [batch_of(plan, rank, step) for step in range(position.step, plan.steps)]
            flat = [row for taken in rows for row in taken]
            assert (ahead == flat) if len(own) == 1 else (sorted(ahead) == sorted(flat))
            found.update(row for taken in rows[: last - position.step] for row in taken)
        while position.step < last:
            position = position.advanced()
    assert found == Counter((shard, row) for shard, rows in enumerate(shards) for row in range(rows))


def test_a_world_of_the_same_size_goes_on_in_its_own_plan() -> None:
    position = Position.start(2, 6).advanced()
    assert position.taken_over(2, 6) == position
    assert position.taken_over(3, 6).parts == ((2, 6, 1), (3, 6, 0))
    assert position.taken_over(3, 4).parts == ((2, 6, 1), (3, 4, 0))
    assert position.taken_over(3, 6).taken_over(4, 6).parts == ((2, 6, 1), (4, 6, 0))
    assert Position.start(2, 6).taken_over(3, 6) == Position.start(3, 6)
    assert position.taken_over(3, 6).taken_over(2, 6).parts == ((2, 6, 1), (2, 6, 0))
    assert position.at_start is False
    assert position.taken_over(3, 6).at_start is False
    assert Position.start(2, 6).taken_over(3, 6).at_start is True
    assert position.next_epoch() == Position.start(2, 6, 1)


def test_a_world_with_the_same_lanes_and_global_batch_goes_on_at_the_same_step() -> None:
    position = Position.start(2, 6).advanced().taken_over(1, 6, 6).advanced().advanced()
    assert position.parts == ((2, 6, 1), (1, 6, 2))
    taken = position.taken_over(3, 2, 6)
    assert taken.parts == ((2, 6, 1), (3, 2, 2))
    before, after = (each.plan([40, 17], 5, 6) for each in (position, taken))
    assert (before.world_size, after.world_size) == (1, 3)
    for step in range(before.steps):
        assert batch_of(before, 0, step) == [row for rank in range(3) for row in batch_of(after, rank, step)]
    assert position.taken_over(3, 4, 6).parts == ((2, 6, 1), (1, 6, 2), (3, 4, 0))
