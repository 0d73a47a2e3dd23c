"""The trainer: N ranks are one, a resumed run is one that was never interrupted, bad input is named."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_iris

from sparton.data.plan import Part, Position
from sparton.distributed import checkpoint
from sparton.distributed.resumption import Checkpoints
from sparton.distributed.simulate import simulate
from sparton.distributed.world import Connection, World
from sparton.errors import DataError, TrainingError
from sparton.sgd.batch import Batch
from sparton.sgd.coordinates import Coordinates
from sparton.sgd.feed import ArrayFeed
from sparton.sgd.kmeans import KMeans
from sparton.sgd.method import Method
from sparton.sgd.possibilistic import PossibilisticCMeans
from sparton.sgd.settings import ClusterSettings, KMeansSettings, PossibilisticSettings
from sparton.sgd.stopping import Rule
from sparton.sgd.train import Fit, fit
from sparton.sgd.trainer import Schedule, Trained, Trainer
from tests.unit.test_sgd_kmeans import blobs

Array = NDArray[Any]

ROWS, D, K = 210, 3, 4
SETTINGS: ClusterSettings = KMeansSettings(
    n_clusters=K, scaling="none", epochs=3, batch_size=16, decay=0.95, precision="float64"
)


POSSIBILISTIC: list[ClusterSettings] = [
    PossibilisticSettings(
        n_clusters=7, scaling="none", epochs=3, batch_size=16, coincidence=0.9, precision="float64", **changes
    )
    for changes in (
        {"gamma_factor": 1.0, "decay": 0.9},
        {"gamma_factor": 4.0, "step": "polynomial", "step_size": 1.0},
    )
]


@dataclass(frozen=True)
class CutFeed:
    """Global batches of the same rows on any number of ranks; rank r has those between the r-th and next cut."""

    rows: Array
    weight: Array
    cuts: tuple[int, ...]
    rank: int
    batch: int = 30

    @property
    def total(self) -> int:
        return len(self.rows)

    @property
    def steps(self) -> int:
        return -(-self.total // self.batch)

    def nothing(self) -> Batch:
        return self._taken(np.arange(0))

    @property
    def batch_size(self) -> int:
        return self.batch

    @property
    def lanes(self) -> None:
        return None

    def left(self, position: Position) -> int:
        return max(0, self.total - position.step * self.batch)

    def epoch(self, position: Position) -> Iterator[Batch]:
        order = np.random.default_rng(position.epoch).permutation(self.total)
        for step in range(position.step, self.steps):
            yield self._share(order[step * self.batch : (step + 1) * self.batch])

    def once(self) -> Iterator[Batch]:
        yield self._share(np.arange(self.total))

    def sample(self, rows: int) -> Iterator[Batch]:
        yield self._share(np.arange(min(rows, self.total)))

    def _share(self, chosen: Array) -> Batch:
        return self._taken(np.split(chosen, self.cuts)[self.rank])

    def _taken(self, chosen: Array) -> Batch:
        return Batch(self.rows[chosen], self.weight[chosen], chosen)


def method_of(settings: ClusterSettings, rows: Array, steps: int, global_batch: int) -> Method[Any, Any]:
    coordinates = Coordinates.of(rows.mean(axis=0).tolist())
    if isinstance(settings, KMeansSettings):
        return KMeans(settings, coordinates, 3 * steps, global_batch)
    return PossibilisticCMeans(settings, coordinates, steps)


def trained_on(
    connection: Connection, cuts: tuple[int, ...], dtype: str, settings: ClusterSettings
) -> Trained[Any, Any]:
    rng = np.random.default_rng(9)
    rows = blobs(ROWS, D, K, seed=4)[0].astype(dtype)
    feed = CutFeed(rows, rng.integers(0, 3, ROWS).astype(dtype), cuts, connection.world.rank)
    method = method_of(settings.model_copy(update={"precision": dtype}), rows, feed.steps, feed.batch)
    trainer: Trainer[Any, Any] = Trainer(connection, feed, method, Schedule(3, Rule(0.3, None, 0.0), 60))
    return trainer.run()


@pytest.mark.parametrize("settings", [SETTINGS.model_copy(update={"reseed_ratio": 0.7}), *POSSIBILISTIC])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
@pytest.mark.parametrize("cuts", [(11,), (0, 17), (3, 10, 10)])
def test_ranks_with_ragged_and_empty_shares_compute_what_one_does(
    cuts: tuple[int, ...], dtype: str, tolerance: float, settings: ClusterSettings
) -> None:
    alone = trained_on(Connection.local(), (), dtype, settings)
    assert sum(row.mended for row in alone.rows) > 0
    for together in simulate(len(cuts) + 1, lambda connection: trained_on(connection, cuts, dtype, settings)):
        scale = np.abs(alone.state.centroids).max()
        assert np.abs(together.state.centroids - alone.state.centroids).max() <= tolerance * scale
        assert np.allclose(together.state.counts, alone.state.counts, rtol=tolerance)
        for name, total in alone.totals._asdict().items():
            assert np.abs(getattr(together.totals, name) - total).max() <= 10 * tolerance * np.abs(total).max() + 1e-12
        assert together.rows[-1].train_objective == pytest.approx(alone.rows[-1].train_objective, rel=tolerance)


def gap(one: Fit, other: Fit) -> float:
    """Return the largest difference of two trainings' states and curves, each over the largest value of its kind."""
    pairs = [*zip(one.state, other.state, strict=True), (one.sizes, other.sizes)]
    for name in ("train_objective", "smoothed_objective", "largest_move"):
        pairs.append(([getattr(row, name) for row in one.curve], [getattr(row, name) for row in other.curve]))
    return max(float(np.abs(np.subtract(*pair)).max() / np.abs(pair[0]).max()) for pair in pairs)


@pytest.mark.parametrize("settings", [SETTINGS.model_copy(update={"reseed_ratio": 0.7}), *POSSIBILISTIC])
@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 1e-5)])
def test_whole_trainings_with_the_same_lanes_are_equal_on_1_to_4_ranks(
    dtype: str, tolerance: float, settings: ClusterSettings
) -> None:
    """24 rows a step in 12 lanes, with unequal ends: epochs, centroids from the start on, re-seeding or merging."""
    alone = trained_with(1, 12, dtype, settings)
    assert sum(row.mended for row in alone.curve) > 0
    for size in (2, 3, 4):
        together = trained_with(size, 12, dtype, settings)
        assert gap(alone, together) <= tolerance
        assert [row.mended for row in together.curve] == [row.mended for row in alone.curve]


def test_without_lanes_a_whole_training_is_another_one_on_two_ranks() -> None:
    assert gap(*(trained_with(size, None, "float64", SETTINGS) for size in (1, 2))) > 1e-3


def trained_with(size: int, lanes: int | None, dtype: str, settings: ClusterSettings) -> Fit:
    rows, weight = blobs(ROWS, D, K, seed=4)[0].astype(dtype), np.random.default_rng(9).integers(0, 3, ROWS)
    own = settings.model_copy(update={"precision": dtype, "batch_size": 24 // size, "lanes": lanes})
    return simulate(size, lambda connection: fit(rows, own, weight.astype(dtype), connection))[0]


def test_ranks_hold_the_same_bits_and_stop_together() -> None:
    rows = blobs(ROWS, D, K, seed=4)[0]
    settings = SETTINGS.model_copy(update={"epochs": 30, "patience": 4})
    fits: list[Fit] = simulate(3, lambda connection: fit(rows, settings, connection=connection))
    assert len(fits[0].curve) < 30
    for other in fits[1:]:
        assert np.array_equal(other.state.centroids, fits[0].state.centroids)
        assert np.array_equal(other.state.counts, fits[0].state.counts)
        assert other.sizes.sum() == ROWS
        assert len(other.curve) == len(fits[0].curve)


class Killed(Exception):  # noqa: N818
    """What ends a run in the middle."""


@dataclass(frozen=True)
class DyingFeed(ArrayFeed):
    """Raises before a step of an epoch."""

    last: tuple[int, int] = (99, 0)

    def epoch(self, position: Position) -> Iterator[Batch]:
        for step, batch in enumerate(super().epoch(position), position.step):
            if (position.epoch, step) == self.last:
                raise Killed
            yield batch


def run_with_checkpoints(
    folder: Path,
    connection: Connection,
    last: tuple[int, int] = (99, 0),
    identity: str = "one",
    settings: ClusterSettings = SETTINGS,
    batch: int | None = None,
    lanes: int | None = None,
) -> Trained[Any, Any]:
    rows = blobs(ROWS, D, K, seed=4)[0]
    sound = DyingFeed.of(connection.world, rows, batch or 16 // connection.world.size, 1, lanes=lanes)
    feed = replace(sound, last=last)
    checkpoints = Checkpoints(connection, str(folder), identity, seconds=0.0)
    schedule = Schedule(3, Rule(0.3, 40, 0.0), 60)
    method = method_of(settings, rows, feed.steps, 16)
    trainer: Trainer[Any, Any] = Trainer(connection, feed, method, schedule, checkpoints)
    return trainer.run()


@pytest.mark.parametrize("settings", [SETTINGS, POSSIBILISTIC[0]])
@pytest.mark.parametrize("last", [(0, 1), (1, 0), (1, 7), (2, 13)])
def test_a_run_killed_at_any_step_ends_with_the_same_bits(
    tmp_path: Path, last: tuple[int, int], settings: ClusterSettings, caplog: pytest.LogCaptureFixture
) -> None:
    whole = run_with_checkpoints(tmp_path / "whole", Connection.local(), settings=settings)
    with pytest.raises(Killed):
        run_with_checkpoints(tmp_path / "killed", Connection.local(), last, settings=settings)
    resumed = run_with_checkpoints(tmp_path / "killed", Connection.local(), settings=settings)
    for one, two in zip((*resumed.state, *resumed.totals), (*whole.state, *whole.totals), strict=True):
        assert np.array_equal(one, two)
    timeless = [[replace(row, seconds=0, rows_per_second=0) for row in run.rows] for run in (resumed, whole)]
    assert timeless[0] == timeless[1]
    # Nothing is left to do, so that another world changes nothing.
    with caplog.at_level("INFO"):
        again = simulate(2, lambda other: run_with_checkpoints(tmp_path / "whole", other, (0, 0), settings=settings))[0]
    assert np.array_equal(again.state.centroids, whole.state.centroids)
    assert not [message for message in caplog.messages if "world" in message or "resuming in epoch 4" in message]
    assert [workers for workers, _ in again.times.worlds] == [1, 2]


def test_speed_leaves_out_checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By a clock that jumps while one is written."""
    hours, save, clock = [0.0], Checkpoints.save, time.perf_counter

    def slowly(self: Checkpoints, *arguments: Any) -> None:
        hours[0] += 3600
        save(self, *arguments)

    monkeypatch.setattr(Checkpoints, "save", slowly)
    monkeypatch.setattr(time, "perf_counter", lambda: clock() + hours[0])
    found = run_with_checkpoints(tmp_path, Connection.local())
    assert hours[0] >= 3600 * found.rows[-1].step
    assert all(row.seconds < 3600 for row in found.rows)


def test_two_ranks_go_on_from_rank_0s_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match="Killed"):
        simulate(2, lambda connection: run_with_checkpoints(tmp_path / "a", connection, (1, 3)))
    resumed = simulate(2, lambda connection: run_with_checkpoints(tmp_path / "a", connection))
    whole = simulate(2, lambda connection: run_with_checkpoints(tmp_path / "b", connection))
    for one, two in zip(resumed, whole, strict=True):
        assert np.array_equal(one.state.centroids, two.state.centroids)
    assert len(checkpoint.steps(str(tmp_path / "a"))) == 2
    with pytest.raises(TrainingError, match="the checkpoint is of other settings or data"):
        run_with_checkpoints(tmp_path / "a", Connection.local(), identity="two")


def test_another_number_of_ranks_goes_on_and_counts_each_row_once_an_epoch(tmp_path: Path) -> None:
    """Counts of centroids that start from nothing and forget nothing are those of all rows, three times."""
    plain = {"start_count": 0.0, "reseed_ratio": 0.0, "decay": 1.0}
    settings = SETTINGS.model_copy(update=plain)

    def trained(size: int, last: tuple[int, int] = (99, 0)) -> Trained[Any, Any]:
        options = {"last": last, "settings": settings, "batch": 8}
        return simulate(size, lambda connection: run_with_checkpoints(tmp_path, connection, **options))[0]

    walls = []
    for size, last in ((1, (0, 5)), (3, (1, 2)), (2, (1, 9)), (1, None)):
        began = time.perf_counter()
        if last:
            with pytest.raises(TrainingError, match="Killed"):
                trained(size, last)
        else:
            found = trained(size)
        walls.append(time.perf_counter() - began)
    assert found.state.counts.sum() == 3 * ROWS
    assert found.totals.counts.sum() == ROWS
    # Each world's time counts with its own number of workers.
    worlds = found.times.worlds
    assert [workers for workers, _ in worlds] == [1, 3, 2, 1]
    assert all(0 < times.total <= wall for (_, times), wall in zip(worlds, walls, strict=True))
    assert found.times.figures()["worker_s"] == pytest.approx(sum(n * times.total for n, times in worlds))


def test_another_number_of_ranks_goes_on_with_the_same_batches_where_lanes_are_the_same(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Ranks come and go within epochs, and the end is that of one rank that was never interrupted."""
    settings = SETTINGS.model_copy(update={"reseed_ratio": 0.7})

    def trained(folder: str, size: int, last: tuple[int, int] = (99, 0)) -> Trained[Any, Any]:
        options: dict[str, Any] = {"last": last, "settings": settings, "batch": 24 // size, "lanes": 12}
        return simulate(size, lambda connection: run_with_checkpoints(tmp_path / folder, connection, **options))[0]

    whole = trained("whole", 1)
    for size, last in ((2, (0, 5)), (1, (0, 7)), (3, (1, 2))):
        with pytest.raises(TrainingError, match="Killed"):
            trained("parts", size, last)
    with caplog.at_level("INFO"):
        found = trained("parts", 4)
    assert (
        "the checkpoint is of a world of 3, this one has 4 workers: with the same 12 lanes and 24 rows" in caplog.text
    )
    assert not [record for record in caplog.records if record.levelname == "WARNING"]
    assert np.abs(found.state.centroids - whole.state.centroids).max() <= 1e-12 * np.abs(whole.state.centroids).max()
    assert np.allclose(found.state.counts, whole.state.counts, rtol=1e-12)
    assert [row.step for row in found.rows] == [row.step for row in whole.rows]


def test_with_lanes_another_global_batch_goes_on_with_what_is_left_and_other_settings_are_refused(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    settings = SETTINGS.model_copy(update={"start_count": 0.0, "reseed_ratio": 0.0, "decay": 1.0})

    def trained(size: int, batch: int, last: tuple[int, int] = (99, 0)) -> Trained[Any, Any]:
        options: dict[str, Any] = {"last": last, "settings": settings, "batch": batch, "lanes": 4}
        return simulate(size, lambda connection: run_with_checkpoints(tmp_path, connection, **options))[0]

    with pytest.raises(TrainingError, match="Killed"):
        trained(2, 8, (1, 3))
    with pytest.raises(
        TrainingError, match=r"of 2 workers with batch_size 8, .* of 4 with 16; .* set batch_size to 4,"
    ):
        trained(4, 16)
    found = trained(4, 8)
    assert "a step takes 32 rows instead of 16; an epoch has 7 steps instead of 14; rows come in another order" in (
        caplog.text
    )
    assert ". batch_size 4 would go on with the same batches" in caplog.text
    assert found.state.counts.sum() == 3 * ROWS


def test_ranks_are_fed_the_rows_of_their_lanes() -> None:
    """The global batches are those of as many ranks as lanes, row by row; padding is at the end of lanes."""
    rows = blobs(101, 2, 3)[0].astype(np.float32)
    position = Position.start(6, 3, epoch=4).advanced()
    each = [list(ArrayFeed.of(World(lane, 6), rows, 3, 5).epoch(position)) for lane in range(6)]
    for size in (1, 2, 3):
        feeds = [ArrayFeed.of(World(rank, size), rows, 18 // size, 5, lanes=6) for rank in range(size)]
        assert {feed.steps for feed in feeds} == {6}
        here = Position.start(size, 18 // size, epoch=4).advanced()
        assert feeds[0].left(here) == 101 - 18
        batches = zip(*(feed.epoch(here) for feed in feeds), strict=True)
        for found, expected in zip(batches, zip(*each, strict=True), strict=True):
            for columns in zip(*(zip(*parts, strict=True) for parts in (found, expected)), strict=True):
                assert np.array_equal(*(np.concatenate(column) for column in columns))


def test_every_row_is_fed_once_an_epoch_and_the_sample_is_one_of_all_ranks() -> None:
    rows, weight = blobs(101, 2, 3)[0].astype(np.float32), np.arange(101.0) + 1
    samples = []
    for size in (1, 3):
        feeds = [ArrayFeed.of(World(rank, size), rows, 8, 5, weight) for rank in range(size)]
        for epoch in range(2):
            found = [list(feed.epoch(Position.start(size, 8, epoch))) for feed in feeds]
            assert {len(batches) for batches in found} == {feeds[0].steps}
            parts = [batch for batches in found for batch in batches]
            assert all(batch.rows.shape == (8, 2) for batch in parts)
            ids = np.concatenate([batch.ids[batch.weight > 0] for batch in parts])
            assert sorted(ids.tolist()) == list(range(101))
            assert np.array_equal(np.concatenate([batch.weight[batch.ids >= 0] for batch in parts]), weight[ids])
            later = list(feeds[0].epoch(Position(epoch, (Part(size, 8, 3),))))
            assert np.array_equal(later[0].ids, found[0][3].ids)
        once = np.concatenate([batch.ids for feed in feeds for batch in feed.once()])
        assert once.tolist() == list(range(101))
        samples.append(np.concatenate([batch.ids for feed in feeds for batch in feed.sample(40)]))
    assert np.array_equal(*samples)
    assert len(set(samples[0].tolist())) == 40


def test_iris_is_clustered_as_well_as_by_lloyds_iteration() -> None:
    rows = load_iris().data
    settings = KMeansSettings(n_clusters=3, scaling="none", epochs=30, batch_size=32, decay=0.98)
    found = [fit(rows, settings.model_copy(update={"seed": seed})) for seed in range(5)]
    assert np.mean([one.objective for one in found]) < 1.01 * 78.851
    label, distance = found[0].clusters.assign(rows)
    assert np.bincount(label).tolist() == found[0].sizes.tolist()
    assert float(np.square(distance, dtype=np.float64).sum()) == pytest.approx(found[0].objective, rel=1e-5)
    everything = found[0].clusters.distances(rows)
    assert np.array_equal(everything.argmin(axis=1), label)
    assert np.allclose(everything.min(axis=1), distance, rtol=1e-4, atol=1e-4)


def test_standardised_features_have_equal_say() -> None:
    rng = np.random.default_rng(0)
    which = rng.integers(0, 2, 400)
    rows = np.column_stack([which + rng.normal(0, 0.1, 400), rng.normal(0, 1000, 400), np.full(400, 7.0)])
    agreement = []
    for scaling in ("standard", "none"):
        settings = KMeansSettings(n_clusters=2, epochs=10, batch_size=64, decay=0.98, scaling=scaling)
        fits = [fit(rows, settings.model_copy(update={"seed": seed})) for seed in range(5)]
        label = min(fits, key=lambda one: one.objective).clusters.assign(rows)[0]
        agreement.append(max((label == which).mean(), (label != which).mean()))
    assert agreement[0] > 0.95
    assert agreement[1] < 0.7


def test_a_feature_of_float64_far_from_zero_is_scaled_by_its_deviation() -> None:
    """A time in seconds: its deviation is below the rounding of float32, which float64 does not have."""
    rng = np.random.default_rng(0)
    which = rng.integers(0, 2, 500)
    rows = np.column_stack([1.7e9 + rng.normal(0, 100, 500), 10 * which + rng.normal(size=500)])
    found = fit(rows, KMeansSettings(n_clusters=2, epochs=10, batch_size=64, decay=0.98))
    np.testing.assert_allclose(found.clusters.coordinates.factor, 1 / rows.std(axis=0), rtol=1e-6)
    label = found.clusters.assign(rows)[0]
    assert max((label == which).mean(), (label != which).mean()) > 0.98
    constant = np.column_stack([np.full(500, 0.1) * 3, rows[:, 1]])
    assert fit(constant, KMeansSettings(n_clusters=2)).clusters.coordinates.factor[0] == 1


def test_a_column_that_does_not_vary_does_not_end_a_training() -> None:
    """The tolerance is a fraction of the variance, to which such a column adds nothing, whatever the unit."""
    rows = 1e-3 * blobs(300, 2, 4)[0]
    settings = KMeansSettings(n_clusters=4, scaling="none", batch_size=20, epochs=10, tolerance=1e-3)
    for column in (rows[:, 0], np.full(300, 5.0)):
        assert fit(np.column_stack([rows, column]), settings).curve[-1].step > 15


def test_the_curve_has_no_gap_where_averages_begin_anew() -> None:
    """Centroids are merged in the last step of an epoch, after which there is no average yet."""
    rows = blobs(ROWS, D, K, seed=4)[0]
    curve = fit(rows, POSSIBILISTIC[0]).curve
    assert any(row.mended for row in curve)
    for row in curve:
        assert row.smoothed_objective == pytest.approx(row.train_objective, rel=0.5)


def test_a_batch_that_weighs_nothing_is_told_of_in_numbers() -> None:
    weight = np.zeros(100)
    weight[:2] = 1
    found = fit(blobs(100, 2, 2)[0], KMeansSettings(n_clusters=2, decay=0, batch_size=10, epochs=2), weight)
    assert all(row.smallest_cluster >= 0 for row in found.curve)


@pytest.mark.parametrize(
    ("rows", "weight", "error", "message"),
    [
        (np.zeros((0, 2)), None, DataError, "rows: there are none; expected rows to cluster"),
        ([[1.0, 2.0], [3.0]], None, DataError, "rows: found rows of different lengths, expected as many values in"),
        (np.zeros((5, 0)), None, DataError, r"rows: found float64\[5, 0\], expected numbers \[n, d\]"),
        (np.eye(3), [], DataError, r"weight: found \[0\] values, expected one for each of 3 rows"),
        (np.eye(3), ["1", "2", "3"], DataError, "weight: found <U1, expected numbers from 0"),
        (np.eye(3), [[1.0], [2.0, 3.0], [1.0]], DataError, "weight: found ragged values, expected one for each of 3"),
        (np.array([[1.0, 2.0], [1.0, np.nan]]), None, DataError, "column 1 has values that are not finite"),
        (np.eye(3), np.array([1.0, -1.0, 1.0]), DataError, "weight: found -1.0 in row 1, expected a finite number"),
        (np.eye(3), np.zeros(3), DataError, "weight: all are 0"),
        (np.eye(3), [1.0, 2.0, -3.0], DataError, "weight: found -3.0 in row 2, expected a finite number"),
        (np.eye(5) * 1e40, None, DataError, r"rows: column 0 has mean 2e\+39 and deviation 4e\+39, expected"),
        (np.eye(5) * 1e200, None, DataError, r"rows: column 0 has mean 2e\+199 and deviation inf, expected sizes"),
        (np.eye(3), np.ones(2), DataError, r"weight: found \[2\] values, expected one for each of 3 rows"),
        (np.ones((50, 2)), None, TrainingError, "found 1 distinct rows in a sample of 50, expected at least"),
        (np.eye(3), None, TrainingError, "found 3 rows, expected at least n_clusters=4"),
    ],
)
def test_bad_input_is_named(rows: Any, weight: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        fit(rows, SETTINGS, weight)


def test_equal_rows_are_one_cluster_and_no_more(caplog: pytest.LogCaptureFixture) -> None:
    """scikit-learn warns and returns clusters without rows; here more than one is an error."""
    rows = np.full((50, 1), 7.5)
    found = fit(rows, KMeansSettings(n_clusters=1))
    assert (found.objective, found.clusters.centers.tolist(), found.sizes.tolist()) == (0.0, [[7.5]], [50.0])
    with pytest.raises(TrainingError, match=r"found 1 distinct rows in a sample of 50, expected at least n_clusters=2"):
        fit(rows, KMeansSettings(n_clusters=2))
    with pytest.raises(TrainingError, match="gamma of 1 of 1 clusters is 0: all rows of the sample"):
        fit(rows, PossibilisticSettings(n_clusters=1))
    beside = np.column_stack([blobs(200, 1, 2)[0], np.full(200, 3.0)])
    assert np.allclose(fit(beside, KMeansSettings(n_clusters=2, batch_size=50)).clusters.centers[:, 1], 3.0)
    assert caplog.text == ""


def test_a_cluster_below_the_ratio_loses_its_centroid_which_a_ratio_of_0_keeps() -> None:
    rng = np.random.default_rng(0)
    centers = np.repeat([[0.0, 0.0], [20.0, 0.0], [0.0, 60.0]], [3000, 3000, 12], axis=0)
    rows = centers + rng.normal(size=centers.shape)

    def away(ratio: float) -> float:
        settings = KMeansSettings(n_clusters=3, scaling="none", batch_size=100, epochs=6, reseed_ratio=ratio)
        return float(np.linalg.norm(fit(rows, settings).clusters.centers - [0.0, 60.0], axis=1).min())

    assert away(0.0) < 2
    assert away(0.001) < 2
    assert away(0.01) > 5  # it has less than a hundredth of the largest cluster's rows


def test_all_ranks_say_why_they_cannot_start() -> None:
    with pytest.raises(TrainingError, match="1 distinct rows in a sample of 48"):
        simulate(2, lambda connection: fit(np.ones((48, 2)), SETTINGS, connection=connection))


def test_weights_count_in_the_units_of_features() -> None:
    rng = np.random.default_rng(0)
    rows = np.concatenate([rng.normal(size=(90, 2)) + np.repeat([[0, 0], [8, 0], [0, 8]], 30, axis=0), [[1e6, 0]]])
    weight = np.r_[rng.integers(1, 4, 90), 0].astype(float)
    settings = KMeansSettings(n_clusters=3, epochs=8, batch_size=30, decay=0.9, seed=2)
    found = fit(rows, settings, weight)
    repeated = fit(np.repeat(rows, weight.astype(int), axis=0), settings)
    np.testing.assert_allclose(found.clusters.coordinates.factor, repeated.clusters.coordinates.factor, rtol=1e-12)
    centers = found.clusters.centers
    assert np.abs(centers[np.lexsort(centers.round(-1).T)] - [[0, 0], [8, 0], [0, 8]]).max() < 1


def test_what_float32_cannot_tell_apart_is_said(caplog: pytest.LogCaptureFixture) -> None:
    rows, _ = blobs(300, 2, 4)
    for offset, precision, told in ((0.0, "float32", False), (1e5, "float32", True), (1e5, "float64", False)):
        caplog.clear()
        apart = rows + np.where(np.arange(300) % 2, offset, -offset)[:, None]
        fit(apart, KMeansSettings(n_clusters=4, scaling="none", epochs=2, batch_size=50, precision=precision))
        assert ("set cluster.precision: float64" in caplog.text) is told
    caplog.clear()
    fit(np.repeat(rows[:4], 20, axis=0), KMeansSettings(n_clusters=4, scaling="none", batch_size=20))
    assert caplog.text == ""  # a cluster without any spread is no reason
