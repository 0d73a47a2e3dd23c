"""Nearest centroids and sums over clusters against brute force, in both precisions, compiled and not."""

from __future__ import annotations

from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from threadpoolctl import threadpool_info, threadpool_limits

from sparton.errors import TrainingError
from sparton.sgd import compute, kernels, portable
from sparton.sgd.coordinates import Coordinates

Array = NDArray[Any]


def problem(n: int, d: int, k: int, seed: int, dtype: str = "float32") -> tuple[Array, Array, Coordinates, Array]:
    """Rows, weights (some 0), coordinates and centroids."""
    rng = np.random.default_rng(seed)
    rows = rng.normal(3, 2, (n, d)).astype(dtype)
    weight = rng.integers(0, 4, n).astype(dtype)
    coordinates = Coordinates.of([3.0] * d, [2.0] * d)
    return rows, weight, coordinates, rng.normal(size=(k, d))


def squares(rows: Array, coordinates: Coordinates, centroids: Array) -> Array:
    return np.square(coordinates.points(rows)[:, None] - centroids).sum(axis=2)


@pytest.fixture(params=[kernels, portable])
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setattr(compute, "_implementation", lambda: request.param)
    module: ModuleType = request.param
    return module


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize(("n", "d", "k"), [(1, 1, 1), (700, 3, 2), (2500, 5, 7), (999, 4, 130), (0, 3, 2)])
def test_nearest_and_sums_are_those_of_brute_force(
    implementation: ModuleType, n: int, d: int, k: int, dtype: str
) -> None:
    rows, weight, coordinates, centroids = problem(n, d, k, 1, dtype)
    away = squares(rows, coordinates, centroids)
    label = compute.nearest(rows, coordinates, centroids, dtype, threads=3)
    tolerance = 1e-5 if dtype == "float32" else 1e-12
    assert np.all(away[np.arange(n), label] <= away.min(axis=1, initial=np.inf) + tolerance)
    if dtype == "float64":
        assert np.array_equal(label, away.argmin(axis=1))
    residuals, counts, inertia = compute.accumulate(rows, weight, label, coordinates, centroids, threads=3)
    difference = coordinates.points(rows) - centroids[label]
    for j in range(k):
        mine = label == j
        assert counts[j] == pytest.approx(weight[mine].sum(dtype=np.float64))
        assert np.allclose(residuals[j], weight[mine].astype(float) @ difference[mine], rtol=1e-12, atol=1e-12)
    assert inertia == pytest.approx(float((weight * np.square(difference).sum(axis=1)).sum()), rel=1e-12)


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 400), st.integers(1, 6), st.integers(1, 30), st.integers(1, 40), st.integers(0, 10_000))
def test_compiled_and_plain_agree(n: int, d: int, k: int, group: int, seed: int) -> None:
    rows, weight, coordinates, centroids = problem(n, d, k, seed, "float64")
    half = 0.5 * np.square(centroids).sum(axis=1)
    found = []
    for module in (kernels, portable):
        label, sums = np.empty(n, np.int32), (np.zeros((k, d)), np.zeros(k), np.zeros(1))
        module.nearest(0, n, rows, coordinates.origin, coordinates.factor, centroids, half, 64, group, label)
        module.accumulate(
            0, n, rows, weight, label, coordinates.origin, coordinates.factor, centroids, *sums
        )  # fmt: skip
        found.append((label, *sums))
    for one, other in zip(*found, strict=True):
        assert np.allclose(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_change_nothing(dtype: str) -> None:
    rows, weight, coordinates, centroids = problem(40_000, 6, 50, 2, dtype)
    found = []
    for threads in (1, 2, 5):
        label = compute.nearest(rows, coordinates, centroids, dtype, threads)
        found.append((label, *compute.accumulate(rows, weight, label, coordinates, centroids, threads)))
    for other in found[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(found[0], other, strict=True))


def test_the_first_of_equal_centroids_is_taken(implementation: ModuleType) -> None:
    coordinates = Coordinates.of([0.0, 0.0])
    centroids = np.array([[9.0, 9.0], [1.0, 0.0], [1.0, 0.0], [1.0, 0.0], [9.0, 9.0], [1.0, 0.0]])
    label = compute.nearest(np.array([[1.0, 0.1]], np.float32), coordinates, centroids)
    assert label.tolist() == [1]


def test_rows_far_from_zero_are_told_apart_in_float32() -> None:
    """Without a common origin taken away, squared norms of 1e10 would leave no digit of distances of 1."""
    rng = np.random.default_rng(0)
    centers = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    which = rng.integers(0, 3, 2000)
    rows = (1e5 + centers[which] + rng.normal(0, 0.05, (2000, 2))).astype(np.float32)
    coordinates = Coordinates.of(rows.mean(axis=0, dtype=np.float64).tolist())
    label = compute.nearest(rows, coordinates, coordinates.points(1e5 + centers))
    assert np.array_equal(label, which)
    naive = (0.5 * np.square(1e5 + centers).sum(axis=1)).astype(np.float32) - rows @ (1e5 + centers).astype("f4").T
    assert (naive.argmin(axis=1) == which).mean() < 0.9


def test_norms_beyond_float32_are_named() -> None:
    coordinates = Coordinates.of([0.0])
    with pytest.raises(TrainingError, match=r"exceed float32; standardise the features .*cluster.precision: float64"):
        compute.nearest(np.ones((3, 1), np.float32), coordinates, np.array([[1e25], [0.0]]))
    assert compute.nearest(np.ones((3, 1)), coordinates, np.array([[1e25], [0.0]]), "float64").tolist() == [1, 1, 1]


def test_coordinates_go_there_and_back() -> None:
    rows = np.random.default_rng(1).normal(100, 3, (50, 4))
    coordinates = Coordinates.of(rows.mean(axis=0).tolist(), rows.std(axis=0).tolist())
    assert np.allclose(coordinates.rows(coordinates.points(rows)), rows, rtol=1e-13)
    assert np.array_equal(coordinates.origin, coordinates.origin.astype(np.float32))


def test_trainings_in_two_threads_share_the_limit_on_blas() -> None:
    def used() -> set[int]:
        return {one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"}

    with threadpool_limits(2, "blas"):
        before = used()
        first, second = compute.own_threads(), compute.own_threads()
        first.__enter__()
        second.__enter__()
        first.__exit__(None, None, None)
        assert used() == {1}
        second.__exit__(None, None, None)
        assert used() == before
