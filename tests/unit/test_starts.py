"""First centroids: k-means++ beside scikit-learn's; swaps against brute force, what they find, that they never harm."""

from __future__ import annotations

from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from sklearn.cluster import kmeans_plusplus

from sparton.sgd.starts import costs_after, neighbours, plus_plus, swap

Array = NDArray[Any]


def cost(points: Array, weight: Array, centroids: Array) -> float:
    squares = np.square(points[:, None] - centroids).sum(axis=2)
    return float(weight @ squares.min(axis=1))


def squared_norms(points: Array) -> Array:
    return np.asarray(np.square(points).sum(axis=1))


def clouds(k: int, rows: int, seed: int) -> tuple[Array, Array]:
    """Points in k clouds far from each other, and their centres."""
    rng = np.random.default_rng(seed)
    centers = 40 * np.stack([np.cos(2 * np.pi * np.arange(k) / k), np.sin(2 * np.pi * np.arange(k) / k)], axis=1)
    return centers[np.arange(rows) % k] + rng.normal(size=(rows, 2)), centers


@given(st.integers(0, 1000), st.integers(2, 6), st.integers(1, 4))
def test_costs_are_those_of_brute_force(seed: int, k: int, d: int) -> None:
    rng = np.random.default_rng(seed)
    points, weight, centroids = rng.normal(size=(30, d)), rng.exponential(size=30), rng.normal(size=(k, d))
    found = neighbours(points, squared_norms(points), centroids)
    new = rng.normal(size=d)
    squares = np.square(points - new).sum(axis=1)
    replaced = [np.concatenate([centroids[:j], new[None], centroids[j + 1 :]]) for j in range(k)]
    expected = [cost(points, weight, one) for one in replaced]
    np.testing.assert_allclose(costs_after(found, weight, squares, k), expected, rtol=1e-9)


@given(st.integers(0, 1000))
def test_neighbours_are_those_of_brute_force(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, centroids = rng.normal(size=(50, 3)), rng.normal(size=(5, 3))
    squares = np.square(points[:, None] - centroids).sum(axis=2)
    found = neighbours(points, squared_norms(points), centroids)
    np.testing.assert_array_equal(found.label, np.argsort(squares, axis=1)[:, :2])
    np.testing.assert_allclose(found.square, np.sort(squares, axis=1)[:, :2], rtol=1e-9)


@given(st.integers(0, 1000), st.integers(1, 8), st.integers(0, 100))
def test_the_cost_never_rises_and_centroids_are_points(seed: int, k: int, tries: int) -> None:
    rng = np.random.default_rng(seed)
    points, weight = rng.normal(size=(40, 2)), rng.integers(0, 3, 40).astype(float)
    first = points[rng.choice(40, k, replace=False)]
    found = swap(points, weight, first, tries, seed)
    assert cost(points, weight, found) <= cost(points, weight, first) * (1 + 1e-12)
    assert (found[:, None] == points).all(axis=2).any(axis=1).all()
    assert np.array_equal(found, swap(points, weight, first, tries, seed))
    assert np.isin(found, np.concatenate([first, points[weight > 0]])).all()


def test_clusters_that_were_missed_are_found() -> None:
    points, centers = clouds(50, 2000, seed=0)
    weight = np.ones(len(points))
    missed, left = [], []
    for seed in range(5):
        first, _ = kmeans_plusplus(points, 50, random_state=seed)
        for found, centroids in ((missed, first), (left, swap(points, weight, first, 100, seed))):
            nearest = np.square(centroids[:, None] - centers).sum(axis=2).argmin(axis=1)
            found.append(50 - len(set(nearest.tolist())))
    assert sum(missed) > 0
    assert left == [0] * 5


def test_rows_without_weight_draw_no_centroid() -> None:
    points, _ = clouds(3, 300, seed=1)
    weight = np.where(np.arange(300) % 3 == 0, 0.0, 1.0)
    found = swap(points, weight, points[[1, 4]], 60, seed=0)
    assert sorted(np.flatnonzero((points == one).all(axis=1))[0] % 3 for one in found) == [1, 2]


def test_a_perfect_start_stays() -> None:
    points = np.repeat(np.eye(3), 4, axis=0)
    assert np.array_equal(swap(points, np.ones(12), np.eye(3), 50, seed=0), np.eye(3))


@given(st.integers(0, 1000), st.integers(1, 10))
def test_distinct_points_of_weight_are_drawn(seed: int, k: int) -> None:
    rng = np.random.default_rng(seed)
    points = np.repeat(rng.normal(size=(10, 2)), 3, axis=0)
    weight = rng.exponential(size=30)
    found = plus_plus(points, weight, k, seed)
    assert len(np.unique(found, axis=0)) == k
    assert (found[:, None] == points).all(axis=2).any(axis=1).all()
    assert np.array_equal(found, plus_plus(points, weight, k, seed))


def test_costs_are_those_of_scikit_learns_plus_plus() -> None:
    points, _ = clouds(30, 1500, seed=2)
    weight = np.ones(len(points))
    ours = [cost(points, weight, plus_plus(points, weight, 30, seed)) for seed in range(20)]
    theirs = [cost(points, weight, kmeans_plusplus(points, 30, random_state=seed)[0]) for seed in range(20)]
    assert np.mean(ours) < 1.25 * np.mean(theirs)


def test_far_clouds_are_all_found_and_heavy_rows_come_first() -> None:
    points, centers = clouds(4, 400, seed=3)
    found = plus_plus(1000 * points, np.ones(400), 4, seed=0)
    assert len(set(np.square(found[:, None] - 1000 * centers).sum(axis=2).argmin(axis=1).tolist())) == 4
    weight = np.full(400, 1e-9)
    weight[[7, 8]] = 1.0
    taken = [plus_plus(points, weight, 1, seed)[0] for seed in range(50)]
    assert all((one == points[[7, 8]]).all(axis=1).any() for one in taken)


@given(st.integers(0, 300))
def test_equal_points_far_from_the_origin_are_taken_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    distinct = rng.choice([-1e6, 1e6], (8, 1)) + 1e-3 * rng.permutation(8)[:, None] + rng.normal(size=(8, 2)) * 1e-4
    points = np.repeat(distinct, 5, axis=0)
    found = plus_plus(points, np.ones(40), 8, seed)
    assert len(np.unique(found, axis=0)) == 8
    some = points[[0, 5, 10]]
    swapped = swap(points, np.ones(40), some, 30, seed)
    assert cost(points, np.ones(40), swapped) <= cost(points, np.ones(40), some) * (1 + 1e-12)
