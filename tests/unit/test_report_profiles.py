"""Cluster profiles and label-free metrics against direct computations."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import silhouette_score

from sparton.errors import DataError
from sparton.report import profiles
from sparton.report.metrics import describe_labels


@pytest.fixture
def jets() -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(3)
    return rng.integers(0, 4, 501), rng.gamma(3.0, 30.0, 501)


def test_profiles_equal_statistics_of_each_cluster(jets: tuple[np.ndarray, np.ndarray]) -> None:
    cluster, mass = jets
    described = profiles.cluster_profiles({"jet_mass": profiles.group_moments(cluster, mass, 5)})
    for index in range(4):
        values, profile = mass[cluster == index], described[index]
        statistics = profile.columns["jet_mass"]
        assert (profile.size, profile.fraction) == (len(values), len(values) / 501)
        assert statistics.mean == pytest.approx(values.mean())
        assert statistics.std == pytest.approx(values.std())
        assert statistics.median == pytest.approx(np.median(values))
        assert profile.matched_class is None
    assert described[4].size == 0
    assert described[4].columns["jet_mass"] == profiles.ColumnStatistics(None, None, None)


def test_profiles_name_the_matched_class() -> None:
    labels = describe_labels([[1, 9], [6, 2], [1, 1]], ("W", "Z"))
    sizes = np.array([10, 8, 2])
    moments = profiles.GroupMoments(sizes, sizes * 2.0, sizes * 4.0, np.full(3, np.nan))
    described = profiles.cluster_profiles({"n_constituents": moments}, labels)
    assert [item.matched_class for item in described] == ["Z", "W", None]
    assert [item.matched_fraction for item in described] == [0.9, 0.75, None]
    assert described[0].columns["n_constituents"] == profiles.ColumnStatistics(2.0, 0.0, None)


def test_distance_ratio_is_nearest_over_second_nearest() -> None:
    ratio = profiles.distance_ratio([[4.0, 1.0, 2.0], [0.0, 5.0, 9.0], [0.0, 0.0, 1.0], [3.0, 3.0, 8.0]])
    assert ratio.tolist() == [0.5, 0.0, 1.0, 1.0]


def test_silhouette_is_that_of_the_seeded_sample() -> None:
    rng = np.random.default_rng(0)
    cluster = rng.integers(0, 3, 400)
    points = np.eye(3)[cluster] + rng.normal(0, 0.2, (400, 3))
    value, rows = profiles.sampled_silhouette(points, cluster, seed=5, sample_rows=150)
    chosen = profiles.sample(400, 150, 5)
    assert rows == len(set(chosen.tolist())) == 150
    assert value == pytest.approx(silhouette_score(points[chosen], cluster[chosen]))
    assert profiles.sampled_silhouette(points, cluster, seed=5, sample_rows=150) == (value, rows)
    assert profiles.sampled_silhouette(points, cluster, seed=5)[1] == 400


def test_silhouette_of_one_cluster_is_none() -> None:
    assert profiles.sampled_silhouette(np.zeros((5, 2)), np.zeros(5, int), seed=0) == (None, 5)


def test_label_free_metrics() -> None:
    cluster = np.array([0, 0, 1, 1])
    points = np.array([[0.0], [0.1], [5.0], [5.1]])
    distance = np.array([[0.0, 5.0], [0.1, 4.9], [4.9, 0.1], [1.0, 0.9]])
    described = profiles.describe_clusters([300, 100], distance, points, cluster, seed=0)
    assert described.sizes == (300, 100)
    assert described.balance == pytest.approx((0.75 * np.log(1 / 0.75) + 0.25 * np.log(4)) / np.log(2))
    assert described.smallest_fraction == 0.25
    assert described.ambiguous_fraction == 0.25
    assert described.distance_ratio == pytest.approx((0 + 0.1 / 4.9 * 2 + 0.9) / 4)
    assert (described.distance_rows, described.silhouette_rows) == (4, 4)
    assert described.silhouette is not None
    assert described.silhouette > 0.9


def test_equal_sizes_are_balanced_and_an_empty_cluster_is_not() -> None:
    empty = (np.zeros((0, 2)), np.zeros((0, 1)), np.zeros(0))
    assert profiles.describe_clusters([5, 5], *empty, seed=0).balance == pytest.approx(1.0)
    alone = profiles.describe_clusters([10, 0], *empty, seed=0)
    assert (alone.balance, alone.smallest_fraction, alone.distance_ratio, alone.silhouette) == (0.0, 0.0, None, None)


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match=r"shapes \(2,\) and \(3,\)"):
        profiles.group_moments([0, 1], [1.0, 2.0, 3.0], 2)
    with pytest.raises(DataError, match=r"expected 0\.\.1"):
        profiles.group_moments([0, 2], [1.0, 2.0], 2)
    with pytest.raises(DataError, match="at least 2 clusters"):
        profiles.distance_ratio([[1.0], [2.0]])
    with pytest.raises(DataError, match="at least one such as jet_mass"):
        profiles.cluster_profiles({})
    with pytest.raises(DataError, match="column b counts"):
        profiles.cluster_profiles(
            {"a": profiles.group_moments([0, 1], [1, 2], 2), "b": profiles.group_moments([0, 0], [1, 2], 2)}
        )
