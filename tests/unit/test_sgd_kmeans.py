"""The maths of a step: Lloyd's and MacQueen's k-means as special cases, weights, order, forgetting, re-seeding."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import KMeans as LloydKMeans

from sparton.errors import TrainingError
from sparton.sgd.batch import Batch
from sparton.sgd.coordinates import Coordinates
from sparton.sgd.kmeans import KMeans, KMeansState
from sparton.sgd.method import Figures
from sparton.sgd.seeding import candidates, first_centroids
from sparton.sgd.settings import KMeansSettings
from sparton.sgd.stopping import Averages, Rule

Array = NDArray[Any]


def blobs(n: int = 600, d: int = 4, k: int = 5, seed: int = 0) -> tuple[Array, Array]:
    """Rows in k clouds, and one row of each as a start."""
    rng = np.random.default_rng(seed)
    centers = rng.normal(0, 5, (k, d))
    rows = centers[np.arange(n) % k] + rng.normal(size=(n, d))
    return rows, rows[:k].copy()


def kmeans(k: int, d: int, steps: int = 1000, global_batch: int = 32, **changes: Any) -> KMeans:
    settings = KMeansSettings(n_clusters=k, precision="float64", **{"reseed_ratio": 0.0, **changes})
    return KMeans(settings, Coordinates.of([0.0] * d), steps, global_batch)


def state_of(centroids: Array, count: float = 1.0) -> KMeansState:
    return KMeansState(np.array(centroids, float), np.full(len(centroids), count), np.zeros((), np.int64))


def batch_of(rows: Array, weight: Array | None = None, ids: Array | None = None) -> Batch:
    n = len(rows)
    return Batch(rows, np.ones(n) if weight is None else weight, np.arange(n) if ids is None else ids)


def step(method: KMeans, state: KMeansState, batch: Batch) -> KMeansState:
    return method.update(state, method.local_statistics(batch, state))[0]


def test_forgetting_all_with_all_rows_is_lloyds_iteration() -> None:
    rows, start = blobs()
    method, state = kmeans(5, 4, decay=0.0), state_of(start)
    for iterations in range(1, 6):
        state = step(method, state, batch_of(rows))
        lloyd = LloydKMeans(5, init=start, n_init=1, max_iter=iterations, tol=0, algorithm="lloyd")
        with np.errstate(all="ignore"):
            expected = lloyd.fit(rows)
        assert np.abs(state.centroids - expected.cluster_centers_).max() < 1e-10


@pytest.mark.filterwarnings("ignore")
def test_lloyd_with_weights_is_that_of_scikit_learn() -> None:
    rows, start = blobs(seed=3)
    weight = np.random.default_rng(1).uniform(0, 3, len(rows))
    state = step(kmeans(5, 4, decay=0.0), state_of(start), batch_of(rows, weight))
    found = LloydKMeans(5, init=start, n_init=1, max_iter=1, tol=0).fit(rows, sample_weight=weight)
    assert np.abs(state.centroids - found.cluster_centers_).max() < 1e-10


def test_one_row_a_batch_is_macqueens() -> None:
    rows, start = blobs(200, 3, 4, seed=1)
    method, state = kmeans(4, 3), state_of(start)
    centroids, counts = start.copy(), np.ones(4)
    for row in rows:
        state = step(method, state, batch_of(row[None]))
        j = np.square(centroids - row).sum(axis=1).argmin()
        counts[j] += 1
        centroids[j] += (row - centroids[j]) / counts[j]
    assert np.allclose(state.centroids, centroids, atol=1e-12)
    assert np.array_equal(state.counts, counts)


def test_a_centroid_is_the_mean_of_all_that_ever_came_to_it() -> None:
    rng = np.random.default_rng(2)
    rows, start = blobs(3000, 4, 5, seed=2)
    method, state = kmeans(5, 4), state_of(start)
    totals, counts = start.copy(), np.ones(5)
    for _ in range(300):
        chosen = rows[rng.integers(0, len(rows), 17)]
        label = np.square(chosen[:, None] - state.centroids).sum(axis=2).argmin(axis=1)
        np.add.at(totals, label, chosen)
        counts += np.bincount(label, minlength=5)
        state = step(method, state, batch_of(chosen))
    assert np.abs(state.centroids - totals / counts[:, None]).max() < 1e-12
    assert state.counts.sum() == 5 + 300 * 17
    assert state.step == 300


def test_counts_do_not_freeze_where_float32_would() -> None:
    state = KMeansState(np.zeros((1, 1)), np.array([2.0**24]), np.zeros((), np.int64))
    assert step(kmeans(1, 1), state, batch_of(np.zeros((1, 1)))).counts[0] == 2.0**24 + 1


def test_forgetting_and_step_sizes_follow_their_formulas() -> None:
    rows = np.array([[1.0], [3.0], [10.0]])
    start = KMeansState(np.array([[0.0], [9.0]]), np.array([4.0, 8.0]), np.array(7))
    by_counts = step(kmeans(2, 1, decay=0.5), start, batch_of(rows))
    assert by_counts.counts.tolist() == [0.5 * 4 + 2, 0.5 * 8 + 1]
    assert np.allclose(by_counts.centroids, [[4 / 4], [9 + 1 / 5]])
    constant = step(kmeans(2, 1, step="constant", step_size=0.25), start, batch_of(rows))
    assert np.allclose(constant.centroids, [[0.25 * 2], [9 + 0.25 * 1]])
    slowing = kmeans(2, 1, step="polynomial", step_size=0.8, step_delay=7, step_power=0.5)
    assert np.allclose(step(slowing, start, batch_of(rows)).centroids, [[0.8 / 2**0.5 * 2], [9 + 0.8 / 2**0.5]])


def test_a_cluster_without_rows_stays_where_it_is() -> None:
    start = state_of([[0.0], [50.0]])
    after = step(kmeans(2, 1), start, batch_of(np.array([[1.0], [2.0]])))
    assert after.centroids[1] == 50
    assert after.counts.tolist() == [3, 1]


@hypothesis_settings(max_examples=40, deadline=None)
@given(st.integers(1, 60), st.integers(1, 4), st.integers(1, 5), st.integers(0, 1000))
def test_order_and_weights(n: int, d: int, k: int, seed: int) -> None:
    """Rows in any order give the same step; a weight of w is w equal rows, and of 0 none."""
    rng = np.random.default_rng(seed)
    rows, weight = rng.normal(size=(n, d)), rng.integers(0, 4, n)
    method, state = kmeans(k, d), state_of(rng.normal(size=(k, d)))
    plain = step(method, state, batch_of(rows, weight.astype(float)))
    order = rng.permutation(n)
    turned = step(method, state, batch_of(rows[order], weight[order].astype(float)))
    repeated = step(method, state, batch_of(np.repeat(rows, weight, axis=0)))
    for other in (turned, repeated):
        assert np.allclose(plain.centroids, other.centroids, rtol=1e-12, atol=1e-12)
        assert np.array_equal(plain.counts, other.counts)


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=5), st.integers(0, 1000))
def test_statistics_are_additive(sizes: list[int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, method, state = rng.normal(size=(sum(sizes), 3)), kmeans(4, 3), state_of(rng.normal(size=(4, 3)))
    parts = np.split(np.arange(len(rows)), np.cumsum(sizes)[:-1])
    whole = method.local_statistics(batch_of(rows), state)
    found = [method.local_statistics(batch_of(rows[part]), state) for part in parts]
    for name in whole._fields:
        assert np.allclose(sum(getattr(part, name) for part in found), getattr(whole, name), rtol=1e-12, atol=1e-12)


def test_starved_centroids_go_to_the_same_rows_whoever_holds_them() -> None:
    rng = np.random.default_rng(5)
    rows, weight, ids = rng.normal(size=(40, 2)), rng.uniform(0, 2, 40), rng.permutation(1000)[:40]
    weight[:5] = 0
    method = kmeans(4, 2, global_batch=40, reseed_ratio=0.01)
    state = KMeansState(rng.normal(size=(4, 2)), np.array([1000.0, 3.0, 50.0, 9.9]), np.array(8))
    results = []
    for cuts in ([], [13], [0, 7, 7, 30]):
        order = rng.permutation(40)
        shares = np.split(order, cuts)
        batches = [batch_of(rows[share], weight[share], ids[share]) for share in shares]
        everything = np.concatenate([candidates(batch, 2, method.settings.seed, 8) for batch in batches])
        results += [method.repair(state, batch, partial(_all, everything)) for batch in batches]
    for after, mended in results:
        assert mended == 2
        assert np.array_equal(after.centroids, results[0][0].centroids)
        assert after.counts.tolist() == [1000, 50, 50, 50]
    moved = results[0][0].centroids[[1, 3]]
    assert not np.array_equal(moved[0], moved[1])
    assert all((np.abs(rows[weight > 0] - row) < 1e-15).all(axis=1).any() for row in moved)


def _all(everything: Array, own: Array) -> Array:
    """Return what all ranks gave, a rank's own candidates among it."""
    assert all((everything == row).all(axis=1).any() for row in own)
    return everything


def test_looking_for_starved_centroids_is_rare_and_ends_before_training_does() -> None:
    method = kmeans(8, 2, steps=100, global_batch=32, reseed_ratio=0.01)
    state = KMeansState(np.zeros((8, 2)), np.array([1e6] + [1.0] * 7), np.array(0))
    found = [number for number in range(1, 101) if method.starved(state._replace(step=np.array(number))).size]
    assert found == list(range(3, 91, 3))  # 80 rows are 3 steps
    assert not kmeans(8, 2, reseed_ratio=0.0).starved(state._replace(step=np.array(3))).size


def test_heavier_rows_are_taken_more_often() -> None:
    rows, weight = np.arange(10.0)[:, None], np.r_[np.full(9, 0.1), 9.1]
    method = kmeans(2, 1, global_batch=100, reseed_ratio=0.5)
    hits = 0
    for number in range(400):
        state = KMeansState(np.zeros((2, 1)), np.array([100.0, 1.0]), np.array(number))
        hits += method.repair(state, batch_of(rows, weight), lambda own: own)[0].centroids[1, 0] == 9
    assert 0.86 < hits / 400 < 0.96  # expected is 0.91


def test_first_centroids_are_distinct_rows_of_weight() -> None:
    rng = np.random.default_rng(4)
    points = np.repeat(rng.normal(size=(6, 2)), 50, axis=0)
    weight = np.ones(300)
    weight[:50] = 0
    for start in ("k-means++", "random"):
        found = first_centroids(points, weight, 5, start, seed=3)
        assert np.array_equal(np.unique(found, axis=0), np.unique(points[50:], axis=0))
        with pytest.raises(TrainingError, match=r"5 distinct rows in a sample of 250, .* n_clusters=6"):
            first_centroids(points, weight, 6, start, seed=3)


def test_training_ends_when_smoothed_inertia_rests() -> None:
    rule = Rule(weight=0.5, patience=3, tolerance=0.0)
    averages = Averages()
    falling = [averages.observe(Figures(8.0 - number, 2.0, 1.0), rule) for number in range(5)]
    assert not any(falling)
    assert averages.objective == pytest.approx(((((4 * 0.5 + 3.5 * 0.5) + 3) / 2 + 2.5) / 2 + 2) / 2)
    assert [averages.observe(Figures(20.0, 2.0, 1.0), rule) for _ in range(3)] == [False, False, True]
    assert not averages.observe(Figures(0.0, 0.0, 0.0), rule)  # a step without rows
    averages.restart(rule)
    assert not averages.observe(Figures(30.0, 2.0, 1.0), rule)


def test_training_ends_when_centroids_rest() -> None:
    averages, rule = Averages(), Rule(weight=0.5, patience=None, tolerance=0.1)
    assert [averages.observe(Figures(1.0, 1.0, shift), rule) for shift in (0.0, 0.4, 0.1, 0.0, 0.0)] == [
        False, False, False, True, True,
    ]  # fmt: skip
