"""First centroids: k-means, evened out, in a fixed order."""

from __future__ import annotations

import numpy as np
import pytest

from sparton.errors import TrainingError
from sparton.ucluster.clustering import balance_centroids, balanced_assignments, classifier_centroids, first_centroids

CENTRES = np.array([[-6.0, 0.0], [0.0, 6.0], [6.0, 0.0]])


def blobs(sizes: list[int], seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([rng.normal(centre, 0.5, size=(n, 2)) for centre, n in zip(CENTRES, sizes, strict=True)])


@pytest.mark.parametrize("balanced", [False, True])
def test_separate_blobs_are_found_in_order(balanced: bool) -> None:
    found = first_centroids(blobs([100, 100, 100]), 3, seed=1, alpha=2.0, balanced=balanced)
    np.testing.assert_allclose(found, CENTRES, atol=0.2)


def test_result_does_not_depend_on_the_seed_for_separate_blobs() -> None:
    points = blobs([80, 100, 120])
    results = [first_centroids(points, 3, seed=seed, alpha=2.0, balanced=True) for seed in range(3)]
    np.testing.assert_allclose(results[1:], [results[0]] * 2, atol=1e-6)


def test_balanced_assignments_have_equal_columns_and_unit_rows() -> None:
    points = np.random.default_rng(3).normal(size=(300, 2))
    weights = balanced_assignments(points, np.array([[0.0, 0.0], [0.2, 0.0], [3.0, 3.0]]), alpha=2.0)
    np.testing.assert_allclose(weights.sum(axis=1), 1)
    np.testing.assert_allclose(weights.sum(axis=0), 100, rtol=1e-6)


def test_balanced_assignments_are_those_of_sinkhorns_scaling() -> None:
    points = np.random.default_rng(4).normal(size=(60, 2))
    centroids = np.array([[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]])
    plan = np.exp(-1.5 * ((points[:, None] - centroids) ** 2).sum(axis=2))
    for _ in range(2000):
        plan /= plan.sum(axis=1, keepdims=True)
        plan *= 20 / plan.sum(axis=0)
    np.testing.assert_allclose(balanced_assignments(points, centroids, alpha=1.5), plan, atol=1e-6)


@pytest.mark.parametrize("alpha", [1.0, 40.0, 2000.0])
def test_assignments_are_even_at_every_temperature(alpha: float) -> None:
    points = np.random.default_rng(5).normal(size=(500, 3))
    weights = balanced_assignments(points, points[:5], alpha)
    np.testing.assert_allclose(weights.sum(axis=0), 100, rtol=1e-2)


def test_one_cluster_takes_all() -> None:
    np.testing.assert_allclose(first_centroids(np.arange(6.0)[:, None], 1, 0, 1.0, balanced=True), [[2.5]])


def test_evening_out_takes_a_share_of_the_broad_cluster_to_the_small_one() -> None:
    rng = np.random.default_rng(0)
    points = np.concatenate([rng.normal(0, 1, size=(900, 1)), rng.normal(6, 0.3, size=(100, 1))])
    plain = first_centroids(points, 2, seed=0, alpha=1.0, balanced=False)
    even = first_centroids(points, 2, seed=0, alpha=1.0, balanced=True)
    np.testing.assert_allclose(plain[:, 0], [0, 6], atol=0.2)
    assert even[0, 0] < -0.4
    assert even[1, 0] < 3


def test_neighbouring_clusters_do_not_merge_at_a_soft_temperature() -> None:
    rng = np.random.default_rng(1)
    points = np.concatenate([rng.normal(centre, 0.1, size=(200, 1)) for centre in (-0.9, -0.4, 1.3)])
    merged = balance_centroids(points, np.array([[-0.9], [-0.4], [1.3]]), alpha=2.0)
    assert abs(merged[0, 0] - merged[1, 0]) < 0.05
    found = first_centroids(points, 3, seed=0, alpha=2.0, balanced=True)
    np.testing.assert_allclose(found[:, 0], [-0.9, -0.4, 1.3], atol=0.1)


def test_collapsed_embedding_is_named() -> None:
    with pytest.raises(TrainingError, match=r"found 2 distinct embeddings in 20 jets.*collapsed"):
        first_centroids(np.repeat([[0.0, 0.0], [1.0, 1.0]], 10, axis=0), 3, seed=0, alpha=1.0, balanced=True)


@pytest.mark.parametrize("dimensions", [1, 2, 4])
def test_the_nearest_of_a_classifiers_centroids_is_its_choice(dimensions: int) -> None:
    """Of unequally wide classes, where the means of k-means are elsewhere."""
    rng = np.random.default_rng(dimensions)
    points = np.zeros((4000, dimensions))
    points[:, 0] = np.concatenate(
        [rng.normal(-1.2, 0.05, 1000), rng.normal(-0.8, 0.05, 1000), rng.uniform(-0.7, 2, 2000)]
    )
    points[:, 1:] = rng.normal(size=(4000, dimensions - 1))
    x = points[:, 0]
    logits = np.stack([-30 * (x + 1), np.zeros(4000), 30 * (x + 0.75)], axis=1)
    centroids = classifier_centroids(points.astype(np.float32), logits.astype(np.float32))
    distances = ((points[:, None] - centroids) ** 2).sum(axis=2)
    assert np.mean(distances.argmin(axis=1) == logits.argmax(axis=1)) > 0.995
    kmeans = first_centroids(points.astype(np.float32), 3, seed=0, alpha=5.0, balanced=False)
    distances = ((points[:, None] - kmeans) ** 2).sum(axis=2)
    assert np.mean(distances.argmin(axis=1) == logits.argmax(axis=1)) < 0.9


def test_a_classifiers_centroids_come_in_the_order_of_its_classes() -> None:
    points = np.random.default_rng(1).normal(size=(500, 2)).astype(np.float32)
    logits = np.stack([3 * points[:, 0], -points[:, 1], points[:, 1] - points[:, 0]], axis=1)
    found = classifier_centroids(points, logits)
    np.testing.assert_allclose(classifier_centroids(points, logits[:, [2, 0, 1]]), found[[2, 0, 1]], atol=1e-3)
