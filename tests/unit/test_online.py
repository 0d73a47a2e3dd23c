"""Clusters that follow a stream: steps against NumPy and against the trainer, forgetting, starts, drift, re-seeding."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparton.data.plan import Position
from sparton.data.statistics import Moments
from sparton.distributed.world import Connection
from sparton.errors import ConfigError, TrainingError
from sparton.sgd import bundle
from sparton.sgd.batch import Batch
from sparton.sgd.bundle import TableInputs
from sparton.sgd.clusters import Clusters, PossibilisticClusters
from sparton.sgd.feed import ArrayFeed
from sparton.sgd.kmeans import KMeans, KMeansState
from sparton.sgd.method import Method
from sparton.sgd.online import Model, Online, fitted, nothing
from sparton.sgd.possibilistic import PossibilisticCMeans, PossibilisticState
from sparton.sgd.settings import ClusterSettings, KMeansSettings, PossibilisticSettings
from sparton.sgd.stopping import Rule
from sparton.sgd.stream_sample import Sample, by_weight, evenly
from sparton.sgd.stream_settings import StreamSettings
from sparton.sgd.trainer import Schedule, Trainer

Array = NDArray[Any]

CENTERS = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 8.0]])
NAMES = ("a", "b")


def clouds(n: int, seed: int = 0) -> Array:
    rng = np.random.default_rng(seed)
    return (CENTERS[np.arange(n) % 3] + rng.normal(size=(n, 2))).astype(np.float32)


def batch_of(rows: Array, weight: Array | None = None) -> Batch:
    n = len(rows)
    return Batch(rows, np.ones(n, np.float32) if weight is None else weight, np.arange(n))


def online(cluster: ClusterSettings | None = None, **stream: Any) -> Online:
    chosen = cluster or KMeansSettings(n_clusters=3, precision="float64", reseed_ratio=0)
    return Online(chosen, StreamSettings(**stream))


def model_at(following: Online, centroids: Array, count: float = 1.0, width: float = 4.0) -> Model:
    """Clusters among points that are the rows themselves."""
    d, k = centroids.shape[1], len(centroids)
    inputs = TableInputs(feature_names=NAMES[:d], feature_mean=(0.0,) * d, feature_std=(1.0,) * d, scaling="none")
    counts, step = np.full(k, count), np.zeros((), np.int64)
    state: Any = KMeansState(centroids, counts, step)
    if isinstance(following.cluster, PossibilisticSettings):
        state = PossibilisticState(centroids, np.full(k, width), counts, np.ones(k, np.int64), step)
    return Model(inputs, state, nothing(following.method(inputs), state))


def take(following: Online, model: Model, rows: Array, weight: Array | None = None) -> tuple[Model, Any]:
    statistics = following.method(model.inputs).local_statistics(batch_of(rows, weight), model.state)
    return following.step(model, statistics, len(rows))


@pytest.mark.parametrize(
    ("stream", "decay"),
    [
        ({}, lambda rows: 1.0),
        ({"half_life": 2.0}, lambda rows: 0.5**0.5),
        ({"half_life": 30.0, "half_life_unit": "rows"}, lambda rows: 0.5 ** (rows / 30)),
    ],
)
def test_forgetting_is_that_of_the_formula(stream: dict[str, Any], decay: Any) -> None:
    following = online(**stream)
    model = model_at(following, CENTERS + 0.5, count=5.0)
    centroids, counts, inertia, total = CENTERS + 0.5, np.full(3, 5.0), 0.0, 0.0
    for number, size in enumerate((30, 7, 60, 1)):
        rows = clouds(size, seed=number)
        weight = np.linspace(2, 0, size, dtype=np.float32)
        model, step = take(following, model, rows, weight)
        points, w, a = rows.astype(float), weight.astype(float), decay(size)
        square = np.square(points[:, None] - centroids).sum(axis=2)
        label = square.argmin(axis=1)
        batch_inertia = float(w @ square.min(axis=1))
        sums = np.zeros((3, 2))
        np.add.at(sums, label, w[:, None] * points)
        masses = np.bincount(label, w, 3)
        counts = a * counts + masses
        before = centroids
        centroids = centroids + (sums - masses[:, None] * centroids) / counts[:, None]
        inertia, total = a * inertia + batch_inertia, a * total + w.sum()
        assert np.allclose(model.state.centroids, centroids, rtol=0, atol=1e-12)
        assert np.allclose(model.state.counts, counts, rtol=1e-12)
        assert following.mean_objective(model) == pytest.approx(inertia / total, rel=1e-12)
        spread = np.sqrt(inertia / total)
        assert np.allclose(step.moves, np.linalg.norm(centroids - before, axis=1) / spread, rtol=1e-9, atol=1e-12)
        assert np.allclose(step.sizes, masses)
        assert step.objective == pytest.approx(batch_inertia / w.sum(), rel=1e-12)


def test_possibilistic_steps_are_those_of_the_formula() -> None:
    following = online(PossibilisticSettings(n_clusters=3, precision="float64"), half_life=3.0)
    model = model_at(following, CENTERS + 0.3, count=2.0, width=4.0)
    centroids, counts, a = CENTERS + 0.3, np.full(3, 2.0), 0.5 ** (1 / 3)
    for number in range(3):
        rows = clouds(40, seed=number)
        model, step = take(following, model, rows)
        points = rows.astype(float)
        typical = np.exp(-np.square(points[:, None] - centroids).sum(axis=2) / 4.0)
        counts = a * counts + typical.sum(axis=0)
        moves = (typical.T @ points - typical.sum(axis=0)[:, None] * centroids) / counts[:, None]
        centroids = centroids + moves
        assert np.allclose(model.state.centroids, centroids, rtol=0, atol=1e-12)
        assert np.allclose(step.moves, np.linalg.norm(moves, axis=1) / 2.0, rtol=1e-9)
        assert step.objective == pytest.approx(-4.0 * typical.sum() / 40, rel=1e-12)
        assert np.array_equal(model.state.widths, np.full(3, 4.0))


@pytest.mark.parametrize("method", ["kmeans", "pcm"])
@pytest.mark.parametrize("batch_size", [90, 16])
def test_batches_of_a_training_give_what_the_trainer_gives(method: str, batch_size: int) -> None:
    kind: Any = KMeansSettings if method == "kmeans" else PossibilisticSettings
    changes = {"reseed_ratio": 0} if method == "kmeans" else {"coincidence": 0}
    settings = kind(n_clusters=3, epochs=1, batch_size=batch_size, decay=0.9, **changes)
    following, rows = online(settings), clouds(90)
    begin = model_at(following, CENTERS + 0.5)
    feed = ArrayFeed.of(Connection.local().world, rows, batch_size, seed=4)

    class Begun:
        """The method, with a given start."""

        def first_state(self, rows: Array, weight: Array) -> Any:
            return begin.state

    methods: dict[str, type[Any]] = {"kmeans": KMeans, "pcm": PossibilisticCMeans}
    named = type("Named", (Begun, methods[method]), {})
    trained_by: Method[Any, Any] = (
        named(settings, begin.inputs.coordinates, feed.steps, batch_size)
        if method == "kmeans"
        else named(settings, begin.inputs.coordinates, feed.steps)
    )
    schedule = Schedule(1, Rule(1.0, None, 0.0), 90)
    found = Trainer(Connection.local(), feed, trained_by, schedule).run()
    model = begin
    for batch in feed.epoch(Position.start(1, batch_size)):
        statistics = following.method(model.inputs).local_statistics(batch, model.state)
        model, _ = following.step(model, statistics, len(batch.rows))
    for one, other in zip(model.state, found.state, strict=True):
        assert np.array_equal(one, other)


def sample_of(rows: Array, weight: Array | None = None) -> Sample:
    """The sample of rows whose identity is their content."""
    ids = np.array([hash(tuple(row.tolist())) & 0x7FFFFFFF for row in rows], np.int64)
    given = np.ones(len(rows), np.float32) if weight is None else weight
    return Sample.of(Batch(rows, given, ids))


@given(st.integers(0, 2**32), st.integers(1, 12), st.lists(st.integers(0, 40), max_size=4))
@hypothesis_settings(max_examples=50, deadline=None)
def test_a_sample_hangs_neither_on_order_nor_on_parts(seed: int, count: int, cuts: list[int]) -> None:
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, 4, (40, 2)).astype(np.float32)  # with copies
    keys = evenly(3)
    whole = sample_of(rows).lowest(count, keys)
    shuffled = rows[rng.permutation(40)]
    parts = [sample_of(part) for part in np.split(shuffled, sorted(cuts))]
    for one, other in zip(Sample.together(parts).lowest(count, keys), whole, strict=True):
        assert np.array_equal(one, other)
    found, copies = np.unique(rows, axis=0, return_counts=True)
    for row, number in zip(whole.rows, whole.copies, strict=True):
        assert copies[(found == row).all(axis=1)] == number


def test_moments_of_a_sample_count_its_copies() -> None:
    rows = np.repeat(clouds(9) * 1000, [1, 5, 2, 1, 1, 3, 1, 1, 2], axis=0)
    found, expected = sample_of(rows).moments(), Moments.of(rows)
    assert found.count == expected.count
    assert np.allclose(found.mean, expected.mean, rtol=1e-12)
    assert np.allclose(found.squares, expected.squares, rtol=1e-12)


def test_the_start_waits_for_rows_and_for_distinct_ones() -> None:
    following = online(start_after=50)
    few, many = sample_of(clouds(2)), sample_of(clouds(60))
    assert not following.can_begin(49, many)
    assert not following.can_begin(1000, few)
    assert following.can_begin(50, many)
    assert following.wait(49, many) == "50 rows (49 so far)"
    assert following.wait(1000, few) == "3 distinct rows, one a cluster (2 so far; cluster.n_clusters may be lower)"
    assert online().start_after == 30
    assert online(PossibilisticSettings(n_clusters=3)).start_after == 150


@pytest.mark.parametrize("cluster", [KMeansSettings(n_clusters=3), PossibilisticSettings(n_clusters=3)])
def test_first_centroids_are_at_the_clouds_in_frozen_units(cluster: ClusterSettings) -> None:
    following = online(cluster)
    rows = clouds(300) * np.array([1, 100], np.float32) + np.array([500, 0], np.float32)
    model = following.begin(NAMES, sample_of(rows))
    assert np.allclose(model.inputs.feature_mean, rows.mean(axis=0, dtype=float))
    assert np.allclose(model.inputs.feature_std, rows.std(axis=0, dtype=float))
    later, _ = take(following, model, rows)
    found = np.sort(later.inputs.coordinates.rows(later.state.centroids), axis=0)
    expected = np.sort(CENTERS * [1, 100] + [500, 0], axis=0)
    assert np.abs(found - expected).max(axis=0) == pytest.approx(0, abs=100)
    assert later.inputs == model.inputs
    assert all(not np.any(total) for total in model.totals)


def test_possibilistic_clusters_die_once_nothing_of_their_rows_is_remembered() -> None:
    following = online(PossibilisticSettings(n_clusters=3, precision="float64"), half_life=0.1)
    model, step = take(following, model_at(following, CENTERS), clouds(60))
    assert not following.fits_none(step)
    for _ in range(3):  # 2^-10 is remembered of what came before
        following.check_alive(model)
        model, step = take(following, model, clouds(60) + np.float32(1e3))
        assert following.fits_none(step)
        assert np.allclose(model.state.centroids, CENTERS, atol=0.5)
    with pytest.raises(
        TrainingError, match=r"all 3 clusters have died: .* sums up to \S+e-08 in the largest, over .* 60"
    ):
        following.check_alive(model)
    lasting = online(PossibilisticSettings(n_clusters=3, precision="float64"))
    model, step = take(lasting, model_at(lasting, CENTERS), clouds(60) + np.float32(1e3))
    assert lasting.fits_none(step)
    lasting.check_alive(model)
    of_kmeans = online()
    model, step = take(of_kmeans, model_at(of_kmeans, CENTERS), clouds(60) + np.float32(1e3))
    assert not of_kmeans.fits_none(step)
    of_kmeans.check_alive(model)


def test_rows_without_any_width_are_an_error() -> None:
    rows = np.repeat(CENTERS.astype(np.float32), 60, axis=0)
    with pytest.raises(TrainingError, match="gamma of 3 of 3 clusters is 0"):
        online(PossibilisticSettings(n_clusters=3)).begin(NAMES, sample_of(rows))


@pytest.mark.parametrize("kind", ["kmeans", "pcm"])
def test_a_bundle_goes_on(kind: str) -> None:
    inputs = TableInputs(feature_names=NAMES, feature_mean=(1.0, 2.0), feature_std=(3.0, 4.0), scaling="standard")
    coordinates, counts = inputs.coordinates, np.array([5.0, 6.0, 7.0])
    of_kmeans = Clusters(coordinates, CENTERS, "float64")
    of_pcm = PossibilisticClusters(coordinates, CENTERS, "float64", widths=np.array([1.0, 2.0, 3.0]), noise_below=0.2)
    description = bundle.describe(inputs, of_kmeans if kind == "kmeans" else of_pcm, counts, {}, {})
    asked: Any = KMeansSettings() if kind == "kmeans" else PossibilisticSettings()
    chosen = fitted(asked.model_copy(update={"scaling": "none"}), description, "model")
    assert (chosen.n_clusters, chosen.scaling, chosen.precision) == (3, "standard", "float64")
    following = online(chosen)
    model = following.go_on(description)
    assert model.inputs == inputs
    assert np.array_equal(model.state.centroids, CENTERS)
    assert np.array_equal(model.state.counts, counts)
    later, _ = take(following, model, clouds(30))
    found = following.outcome(later)
    assert found.clusters.centroids.shape == (3, 2)
    if isinstance(chosen, PossibilisticSettings):
        assert chosen.noise_limit == 0.2
        assert np.array_equal(found.clusters.widths, [1.0, 2.0, 3.0])  # type: ignore[attr-defined]
    with pytest.raises(ConfigError, match=r"cluster\.method"):
        fitted(KMeansSettings() if kind == "pcm" else PossibilisticSettings(), description, "model")


def test_a_starved_centroid_is_put_onto_a_row_of_the_batch() -> None:
    following = online(KMeansSettings(n_clusters=3, reseed_ratio=0.05, seed=2), half_life=1.0)
    model = model_at(following, np.vstack([CENTERS[:2], [[500.0, 500.0]]]), count=10.0)
    rows = clouds(60)
    assert following.starved(model) == 0
    for _ in range(8):
        model, _ = take(following, model, rows)
    assert following.starved(model) == 1
    keys = by_weight(2, int(model.state.step))
    whole, parts = sample_of(rows), [sample_of(rows[:13]), sample_of(rows[13:])]
    mended, count = following.mend(model, whole.lowest(1, keys))
    again, _ = following.mend(model, Sample.together([part.lowest(1, keys) for part in parts]).lowest(1, keys))
    assert count == 1
    assert np.array_equal(mended.state.centroids, again.state.centroids)
    assert mended.state.centroids[2] in rows.astype(float)
    assert np.array_equal(mended.state.centroids[:2], model.state.centroids[:2])


def test_coincident_centroids_become_one_in_the_bundle() -> None:
    following = online(PossibilisticSettings(n_clusters=4, precision="float64"))
    model = model_at(following, np.vstack([CENTERS, CENTERS[:1] + 0.01]))
    model, _ = take(following, model, clouds(90))
    model, merged = following.mend(model, Sample.nothing(2))
    assert merged == 1
    assert model.state.live.sum() == 3
    found = following.outcome(model)
    assert len(found.clusters.centroids) == 3
    # The cost of what is kept, over the weight of the rows; centroids stand for their start too, which is no row.
    assert {"mean_cost", "merged", "dead"} == set(found.figures)
    kept = np.flatnonzero(model.state.live)
    expected = -(model.state.widths[kept] @ model.totals.masses[kept]) / model.totals.weight
    assert found.figures["mean_cost"] == pytest.approx(expected, rel=1e-12)
    assert following.mean_objective(model) == pytest.approx(expected, rel=1e-12)
    assert np.allclose(found.sizes, model.totals.masses[kept], rtol=1e-12)
    assert np.all(model.state.counts[kept] > found.sizes)


def test_sums_that_are_not_finite_are_an_error() -> None:
    following = online()
    model = model_at(following, CENTERS)
    with pytest.raises(TrainingError, match="inertia of the batch is"):
        take(following, model, np.full((3, 2), 1e200))


def test_a_sample_too_small_for_the_centroids_is_refused() -> None:
    """Or the stream would wait for them for ever, with rows that are in no cluster passing by."""
    with pytest.raises(ConfigError, match=r"cluster\.start_rows is 5 with cluster\.n_clusters 8: .* raise"):
        online(KMeansSettings(n_clusters=8, start_rows=5)).check_sample()
    online(KMeansSettings(n_clusters=8, start_rows=8)).check_sample()


def test_what_is_forgotten_is_said_once() -> None:
    with pytest.raises(ConfigError, match=r"stream\.half_life is 5 and cluster\.decay 0\.9"):
        online(KMeansSettings(decay=0.9), half_life=5.0)
    with pytest.raises(ConfigError, match=r"cluster\.step: counts"):
        online(KMeansSettings(step="constant"), half_life=5.0)
