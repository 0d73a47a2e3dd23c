"""Mass-only baselines: the oracle against brute force, K-means and the mixture against scikit-learn."""

from __future__ import annotations

import itertools
import time

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.cluster import KMeans
from sklearn.mixture import GaussianMixture

from sparton.errors import DataError
from sparton.report import baselines
from sparton.report.metrics import contingency, hungarian_accuracy


def peaks(rows: int, seed: int = 0) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.int64]]:
    """Return masses (GeV) around three peaks and the peak of each."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, rows)
    return np.array([80.4, 91.2, 172.5])[label] + rng.normal(0, 1, rows) * np.array([5.0, 6.0, 14.0])[label], label


def fit_order(mass: npt.NDArray[np.float64], seed: int) -> npt.NDArray[np.float64]:
    """Return masses in the order in which the baselines fit them; sums depend on it in the last digits."""
    return mass[np.random.default_rng(seed).permutation(len(mass))]


def brute_force(mass: list[float], label: list[int], n_clusters: int, n_classes: int) -> float:
    """Try every set of cuts between distinct masses."""
    levels = np.unique(mass)
    middles = (levels[1:] + levels[:-1]) / 2
    best = 0.0
    for count in range(min(n_clusters, len(levels))):
        for cuts in itertools.combinations(middles, count):
            table = contingency(np.searchsorted(cuts, mass), label, n_clusters, n_classes)
            best = max(best, hungarian_accuracy(table)[0])
    return best


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(st.integers(0, 9), st.integers(0, 3)), min_size=1, max_size=14),
    st.integers(1, 5),
)
def test_oracle_cuts_are_the_best_of_all(rows: list[tuple[int, int]], n_clusters: int) -> None:
    mass, label = [float(row[0]) for row in rows], [row[1] for row in rows]
    partition = baselines.best_cuts(mass, label, n_clusters, 4)
    assert partition.reads_labels
    assert len(partition.cuts) < max(n_clusters, 2)
    accuracy = hungarian_accuracy(contingency(partition.assign(mass), label, n_clusters, 4))[0]
    assert accuracy == pytest.approx(brute_force(mass, label, n_clusters, 4), abs=1e-12)


def test_oracle_finds_the_gaps_between_separate_classes() -> None:
    partition = baselines.best_cuts([1, 2, 3, 10, 11, 20, 21], [2, 2, 2, 0, 0, 1, 1], 3, 3)
    assert partition.cuts == (6.5, 15.5)
    assert partition.assign([0.0, 6.5, 6.6, 99.0]).tolist() == [0, 0, 1, 2]


def test_oracle_leaves_out_jets_without_label() -> None:
    mass, label = [1.0, 2.0, 5.0, 6.0], [0, -1, 1, 1]
    assert baselines.best_cuts(mass, label, 2, 2).cuts == (3.0,)


def test_oracle_cuts_between_neighbouring_floats() -> None:
    low = 100.0
    mass = [low, float(np.nextafter(low, 200.0))]
    assert baselines.best_cuts(mass, [0, 1], 2, 2).assign(mass).tolist() == [0, 1]


def test_oracle_is_fast_on_a_full_split() -> None:
    mass, label = peaks(75_666)
    started = time.perf_counter()
    partition = baselines.best_cuts(mass, label, 3, 3)
    assert time.perf_counter() - started < 5.0
    assert partition.cuts[0] == pytest.approx(85.4, abs=2.0)
    assert 105.0 < partition.cuts[1] < 140.0


def test_kmeans_partition_equals_the_prediction_of_scikit_learn() -> None:
    mass = fit_order(peaks(3000)[0], seed=4)
    model = KMeans(n_clusters=3, n_init=10, random_state=4).fit(mass[:, None])
    rank = np.argsort(np.argsort(model.cluster_centers_[:, 0]))
    partition = baselines.mass_kmeans(peaks(3000)[0], 3, seed=4)
    np.testing.assert_array_equal(partition.assign(mass), rank[model.predict(mass[:, None])])


@pytest.mark.parametrize("n_clusters", [1, 2, 3, 4])
def test_mixture_partition_equals_the_prediction_of_scikit_learn(n_clusters: int) -> None:
    rng = np.random.default_rng(1)
    mass = np.concatenate([rng.normal(100, 40, 1500), rng.normal(90, 2, 1500), rng.normal(172, 6, 1000)])
    model = GaussianMixture(n_clusters, n_init=10, init_params="k-means++", random_state=9)
    model.fit(fit_order(mass, seed=9)[:, None])
    rank = np.argsort(np.argsort(model.means_[:, 0]))
    partition = baselines.mass_mixture(mass, n_clusters, seed=9)
    np.testing.assert_array_equal(partition.assign(mass), rank[model.predict(mass[:, None])])
    assert mass.min() < min(partition.cuts, default=90.0) <= max(partition.cuts, default=90.0) < mass.max()


def test_broad_component_wins_on_both_sides_of_a_narrow_one() -> None:
    rng = np.random.default_rng(2)
    mass = np.concatenate([rng.normal(100, 40, 3000), rng.normal(95, 1, 3000)])
    partition = baselines.mass_mixture(mass, 2, seed=0)
    outer, inner = partition.assign([20.0, 180.0]), partition.assign([95.0])
    assert len(partition.cuts) == 2
    assert outer[0] == outer[1] != inner[0]


def test_baselines_are_judged_against_labels_and_the_oracle_is_their_ceiling() -> None:
    mass, label = peaks(4000)
    results = baselines.mass_baselines(mass, 3, seed=0, label=label, n_classes=3)
    accuracies = [item.accuracy for item in results if item.accuracy is not None]
    assert [item.reads_labels for item in results] == [False, False, False, True]
    assert len(accuracies) == 4
    assert 0.5 < accuracies[0] <= accuracies[3] < 1.0
    assert {item.rows for item in results} == {4000}
    for item in results[:1]:
        table = contingency(np.searchsorted(item.cuts, mass), label)
        assert item.accuracy == pytest.approx(hungarian_accuracy(table)[0])
    assert results == baselines.mass_baselines(mass, 3, seed=0, label=label, n_classes=3)


def test_without_labels_there_is_no_oracle() -> None:
    mass, _ = peaks(500)
    results = baselines.mass_baselines(mass, 3, seed=0)
    assert [(item.reads_labels, item.accuracy) for item in results] == [(False, None)] * 3


def test_clusters_of_equal_size_are_the_quantiles() -> None:
    mass, _ = peaks(3000)
    partition = baselines.mass_quantiles(mass, 3)
    assert np.bincount(partition.assign(mass)).tolist() == [1000, 1000, 1000]
    assert partition.cuts == tuple(np.quantile(mass, [1 / 3, 2 / 3]))
    assert baselines.mass_quantiles([5.0, 5.0, 5.0], 2).assign([5.0]).tolist() == [0]


def test_bad_input_is_named() -> None:
    with pytest.raises(DataError, match="1 values that are not finite"):
        baselines.mass_kmeans([1.0, float("nan"), 3.0], 2, seed=0)
    with pytest.raises(DataError, match="found 1 distinct values, expected at least 3"):
        baselines.mass_mixture([80.0] * 10, 3, seed=0)
    with pytest.raises(DataError, match="found 0 labelled masses"):
        baselines.best_cuts([1.0, 2.0], [-1, -1], 2, 2)
    with pytest.raises(DataError, match="expected at least 1 of at most 12"):
        baselines.best_cuts([1.0, 2.0], [0, 1], 2, 13)
