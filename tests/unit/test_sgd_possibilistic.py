"""Possibilistic c-means: gradient, fixed points and widths against NumPy; weights, merging, dead centroids, noise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparton.distributed.simulate import simulate
from sparton.errors import DataError, TrainingError
from sparton.sgd import bundle, fuzzy, typicality
from sparton.sgd.batch import Batch
from sparton.sgd.clusters import PossibilisticClusters
from sparton.sgd.coordinates import Coordinates
from sparton.sgd.method import Figures
from sparton.sgd.possibilistic import PossibilisticCMeans, PossibilisticState, PossibilisticStatistics, distinct
from sparton.sgd.settings import PossibilisticSettings
from sparton.sgd.stopping import Averages, Rule
from sparton.sgd.train import fit
from tests.unit.test_sgd_kmeans import batch_of, blobs

Array = NDArray[Any]


def pcm(k: int, d: int, epoch_steps: int = 1000, **changes: Any) -> PossibilisticCMeans:
    settings = PossibilisticSettings(n_clusters=k, precision="float64", scaling="none", **changes)
    return PossibilisticCMeans(settings, Coordinates.of([0.0] * d), epoch_steps)


def state_of(centroids: Array, widths: Array, counts: float = 1.0) -> PossibilisticState:
    k = len(centroids)
    return PossibilisticState(
        np.array(centroids, float), np.array(widths, float), np.full(k, counts), np.ones(k, np.int64), np.array(0)
    )


def step(method: PossibilisticCMeans, state: PossibilisticState, batch: Batch) -> PossibilisticState:
    return method.update(state, method.local_statistics(batch, state))[0]


def typical(rows: Array, centroids: Array, widths: Array) -> Array:
    return np.exp(-np.square(rows[:, None] - centroids).sum(axis=2) / widths)


def batch_pcm2(rows: Array, weight: Array, centroids: Array, widths: Array, iterations: int) -> Array:
    """Batch PCM2: each centroid goes to the mean of the rows, weighted by their typicality."""
    for _ in range(iterations):
        u = weight[:, None] * typical(rows, centroids, widths)
        centroids = (u.T @ rows) / u.sum(axis=0)[:, None]
    return centroids


def noisy(n: int = 900, seed: int = 0) -> tuple[Array, Array, Array]:
    """Three clouds of unequal size and width, a sixth of uniform noise; the cloud of each row, and the centres."""
    rng = np.random.default_rng(seed)
    centers, widths = np.array([[0.0, 0.0], [6.0, 0.0], [0.0, 7.0]]), np.array([1.0, 0.6, 1.2])
    which = rng.choice(4, n, p=[0.4, 0.25, 0.2, 0.15])
    rows = centers[which % 3] + widths[which % 3, None] * rng.normal(size=(n, 2))
    rows[which == 3] = rng.uniform(-6, 14, (int((which == 3).sum()), 2))
    return rows, np.where(which == 3, -1, which), centers


def test_the_gradient_is_that_of_finite_differences() -> None:
    rows, start = blobs(60, 3, 4, seed=1)
    rng = np.random.default_rng(0)
    weight, widths, method = rng.uniform(0, 2, 60), rng.uniform(2, 20, 4), pcm(4, 3)
    state = state_of(start + rng.normal(size=start.shape), widths)
    found = -2 * method.local_statistics(batch_of(rows, weight), state).residuals

    def objective(centroids: Array) -> float:
        return -float((weight[:, None] * widths * typical(rows, centroids, widths)).sum())

    h = 1e-5
    for j, c in np.ndindex(start.shape):
        away = np.zeros_like(start)
        away[j, c] = h
        slope = (objective(state.centroids + away) - objective(state.centroids - away)) / (2 * h)
        assert found[j, c] == pytest.approx(slope, rel=1e-7, abs=1e-8)
    _, figures = method.update(state, method.local_statistics(batch_of(rows, weight), state))
    assert figures.objective == pytest.approx(objective(state.centroids), rel=1e-13)
    assert figures.weight == pytest.approx(weight.sum())


def test_forgetting_all_with_all_rows_is_batch_pcm2_and_its_fixed_points_stay() -> None:
    rows, _, _ = noisy()
    weight = np.random.default_rng(3).uniform(0, 3, len(rows))
    method = pcm(3, 2, decay=0.0)
    state = method.first_state(rows, weight)
    begin = state.centroids
    for iterations in range(1, 6):
        state = step(method, state, batch_of(rows, weight))
        expected = batch_pcm2(rows, weight, begin, state.widths, iterations)
        assert np.abs(state.centroids - expected).max() < 1e-12
    rest = batch_pcm2(rows, weight, begin, state.widths, 3000)
    for changes in ({"decay": 0.0}, {}, {"step": "polynomial"}, {"step": "constant"}):
        after = step(pcm(3, 2, **changes), state_of(rest, state.widths), batch_of(rows, weight))
        assert np.abs(after.centroids - rest).max() < 1e-12


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [({}, 0.06), ({"decay": 0.98}, 0.06), ({"step": "polynomial", "step_size": 1.0, "step_power": 0.6}, 0.06)],
)
def test_mini_batches_come_to_the_fixed_points_of_batch_pcm2(changes: dict[str, Any], tolerance: float) -> None:
    rows, _, _ = noisy(1200)
    settings = PossibilisticSettings(n_clusters=3, scaling="none", epochs=30, batch_size=32, seed=2, **changes)
    found = fit(rows, settings)
    widths = found.state.widths
    points = found.clusters.coordinates.points(rows)
    rest = batch_pcm2(points, np.ones(len(rows)), found.state.centroids, widths, 2000)
    assert np.abs(found.state.centroids - rest).max() < tolerance
    assert found.figures["mean_gradient"] < 0.01
    assert np.allclose(found.sizes, typical(points, found.clusters.centroids, widths).sum(axis=0), rtol=1e-5)


def test_steps_follow_their_formulas() -> None:
    rows, weight = np.array([[1.0], [3.0]]), np.array([2.0, 1.0])
    widths, start = np.array([4.0, 9.0]), np.array([[0.0], [5.0]])
    state = state_of(start, widths, counts=3.0)._replace(step=np.array(7))
    u = weight[:, None] * typical(rows, start, widths)
    residuals = (u * (rows - start.T)).sum(axis=0)[:, None]
    by_counts = step(pcm(2, 1, decay=0.5), state, batch_of(rows, weight))
    assert np.allclose(by_counts.counts, 0.5 * 3 + u.sum(axis=0), rtol=1e-14)
    assert np.allclose(by_counts.centroids, start + residuals / by_counts.counts[:, None], rtol=1e-14)
    constant = step(pcm(2, 1, step="constant", step_size=0.25), state, batch_of(rows, weight))
    assert np.allclose(constant.centroids, start + 0.25 * residuals / 3, rtol=1e-14)
    slowing = pcm(2, 1, step="polynomial", step_size=0.8, step_delay=7, step_power=0.5)
    assert np.allclose(step(slowing, state, batch_of(rows, weight)).centroids, start + 0.8 / 2**0.5 * residuals / 3)
    assert by_counts.step == 8


@hypothesis_settings(max_examples=30, deadline=None)
@given(st.lists(st.integers(0, 15), min_size=1, max_size=4), st.integers(1, 4), st.integers(0, 1000))
def test_statistics_add_up_and_a_weight_is_equal_rows(sizes: list[int], k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows, weight = rng.normal(size=(sum(sizes), 3)), rng.integers(0, 4, sum(sizes))
    method, state = pcm(k, 3), state_of(rng.normal(size=(k, 3)), rng.uniform(0.5, 5, k))
    whole = method.local_statistics(batch_of(rows, weight.astype(float)), state)
    parts = np.split(np.arange(len(rows)), np.cumsum(sizes)[:-1])
    found = [method.local_statistics(batch_of(rows[part], weight[part].astype(float)), state) for part in parts]
    repeated = method.local_statistics(batch_of(np.repeat(rows, weight, axis=0)), state)
    for name in whole._fields:
        total = getattr(whole, name)
        assert np.allclose(sum(getattr(part, name) for part in found), total, rtol=1e-12, atol=1e-12)
        assert np.allclose(getattr(repeated, name), total, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_threads_change_no_bit_and_sums_are_those_of_brute_force(dtype: str) -> None:
    rng = np.random.default_rng(2)
    n, d, k = 60_000, 5, 21
    rows, weight = rng.normal(1e4, 2, (n, d)).astype(dtype), rng.integers(0, 3, n).astype(dtype)
    coordinates = Coordinates.of([1e4] * d, [2.0] * d)
    places = (coordinates, rng.normal(size=(k, d)), rng.uniform(0.5, 3, k))
    found = [
        (
            *typicality.accumulate(rows, weight, *places, dtype, threads),
            typicality.nearest(rows, *places, dtype, threads),
        )
        for threads in (1, 2, 5)
    ]
    for other in found[1:]:
        assert all(np.array_equal(one, two) for one, two in zip(found[0], other, strict=True))
    points, (residuals, masses, label) = coordinates.points(rows), found[0]
    square = np.square(points[:, None] - places[1]).sum(axis=2)
    u = weight[:, None].astype(np.float64) * np.exp(-square / places[2])
    tolerance = 1e-6 if dtype == "float32" else 1e-12
    assert np.allclose(masses, u.sum(axis=0), rtol=tolerance)
    expected = u.T @ points - masses[:, None] * places[1]
    assert np.abs(residuals - expected).max() < tolerance * masses.max()
    near = square / places[2]
    assert np.all(near[np.arange(n), label] <= near.min(axis=1) * (1 + 10 * tolerance) + 10 * tolerance)


def test_products_beyond_the_range_are_named() -> None:
    places = (Coordinates.of([0.0]), np.array([[1e20], [0.0]]), np.ones(2))
    with pytest.raises(TrainingError, match=r"exceed float32; standardise .* set cluster.precision: float64"):
        typicality.nearest(np.full((3, 1), 1e25), *places, "float32")
    assert typicality.nearest(np.full((3, 1), 1e25), *places, "float64").tolist() == [0, 0, 0]


def test_fuzzy_c_means_is_that_of_the_textbook() -> None:
    rows, _, _ = noisy(400)
    weight = np.random.default_rng(1).uniform(0.5, 2, 400)
    begin = rows[:3]
    found = fuzzy.partition(rows, weight, begin)
    centroids = begin
    for _ in range(400):
        away = np.square(rows[:, None] - centroids).sum(axis=2) + 1e-300
        u = (1 / away) / (1 / away).sum(axis=1, keepdims=True)
        shares = weight[:, None] * u**2
        centroids = (shares.T @ rows) / shares.sum(axis=0)[:, None]
    assert np.abs(found.centroids - centroids).max() < 1e-2
    away = np.square(rows[:, None] - found.centroids).sum(axis=2)
    u = (1 / away) / (1 / away).sum(axis=1, keepdims=True)
    shares = weight[:, None] * u**2
    assert np.allclose(found.spreads, (shares * away).sum(axis=0) / shares.sum(axis=0), rtol=1e-9)
    state = pcm(3, 2, gamma_factor=0.3).first_state(rows, weight)
    assert np.all(state.widths < 0.3 * 40)
    assert state.counts.tolist() == [1, 1, 1]


def test_a_point_at_a_centroid_belongs_to_it_alone() -> None:
    found = fuzzy.memberships(np.array([[0.0, 4.0, 9.0], [0.0, 0.0, 1.0], [1.0, 1.0, 2.0]]))
    assert np.allclose(found, [[1, 0, 0], [0.5, 0.5, 0], [0.4, 0.4, 0.2]])


def test_widths_of_0_are_named_with_the_place() -> None:
    rows = np.repeat([[50.0, -3.0], [50.0, 7.0]], 20, axis=0)
    with pytest.raises(
        TrainingError, match=r"gamma of 2 of 2 clusters is 0: .* near \(50, (-3|7)\) are equal; .* Lower"
    ):
        fit(rows, PossibilisticSettings(n_clusters=2, scaling="none"))
    few = np.repeat(np.eye(3), 20, axis=0)
    with pytest.raises(TrainingError, match="gamma of 3 of 3 clusters is 0"):
        simulate(2, lambda connection: fit(few, PossibilisticSettings(n_clusters=3), connection=connection))
    with pytest.raises(TrainingError, match=r"3 distinct rows in a sample of 60, expected at least n_clusters=4"):
        fit(few, PossibilisticSettings(n_clusters=4))
    with pytest.raises(DataError, match="weight: found -1"):
        fit(few, PossibilisticSettings(n_clusters=2), np.full(60, -1.0))


def test_of_centroids_at_the_same_place_the_heaviest_stays() -> None:
    centroids = np.array([[0.0, 0.0], [0.2, 0.0], [5.0, 0.0], [5.5, 0.0], [0.0, 0.25]])
    widths, masses = np.array([1.0, 1.0, 9.0, 1.0, 4.0]), np.array([5.0, 7.0, 3.0, 3.0, 6.0])
    assert distinct(centroids, widths, masses, 0.1).tolist() == [1, 2, 3, 4]
    assert distinct(centroids, widths, masses, 0.11).tolist() == [1, 2, 3]  # 0.2^2 + 0.25^2 = 0.1025
    assert distinct(centroids, widths, masses, 0.3).tolist() == [
        1,
        2,
    ]  # the narrower of 2 and 3 decides, then the first
    assert distinct(centroids, widths, masses, 0.0).tolist() == [0, 1, 2, 3, 4]
    assert distinct(np.zeros((3, 1)), np.ones(3), np.ones(3), 0.1).tolist() == [0]


def test_centroids_are_merged_after_each_epoch_and_take_no_part_any_more() -> None:
    method = pcm(3, 1, epoch_steps=4)
    state = state_of([[0.0], [0.01], [9.0]], [1.0, 1.0, 1.0])._replace(counts=np.array([1.0, 2.0, 3.0]))
    batch = batch_of(np.array([[0.5], [8.0]]))
    for number in (1, 2, 3):
        assert method.repair(state._replace(step=np.array(number)), batch, lambda own: own)[1] == 0
    after, merged = method.repair(state._replace(step=np.array(4)), batch, lambda own: own)
    assert (merged, after.live.tolist()) == (1, [0, 1, 1])
    statistics = method.local_statistics(batch, after)
    assert statistics.masses[0] == 0 < statistics.masses[1]
    assert step(method, after, batch).centroids[0] == 0.0
    assert method.smallest_share(after) == 2 / 5


def test_a_centroid_far_from_all_rows_stays_and_is_left_out() -> None:
    method = pcm(2, 1, start_count=0.0)
    state = state_of([[0.0], [1e6]], [1.0, 1.0], counts=0.0)
    rows = np.array([[0.3], [0.1], [-0.2]])
    after = step(method, state, batch_of(rows))
    assert np.isfinite(after.centroids).all()
    assert (after.centroids[1], after.counts[1]) == (1e6, 0)
    found = method.outcome(after, method.local_statistics(batch_of(rows), after))
    assert len(found.clusters.centroids) == 1
    assert (found.figures["dead"], found.figures["merged"]) == (1, 0)
    nowhere = PossibilisticStatistics(np.zeros((2, 1)), np.zeros(2), np.array(3.0))
    with pytest.raises(TrainingError, match=r"the largest of 2 clusters sum up to 0 over rows of weight 3: .* raise"):
        method.outcome(after, nowhere)


def test_more_centroids_than_clusters_find_them_in_noise() -> None:
    rows, which, centers = noisy(3000, seed=4)
    chosen = {"scaling": "none", "epochs": 15, "batch_size": 32, "decay": 0.99}
    settings = PossibilisticSettings(n_clusters=7, smallest_mass=0.2, **chosen)
    found = fit(rows, settings)
    assert len(found.clusters.centers) == 3  # and not the place where noise is densest, which few rows are like
    assert found.figures["merged"] + found.figures["dead"] == 4
    assert sum(row.mended for row in found.curve) > 0
    away = np.linalg.norm(found.clusters.centers[:, None] - centers, axis=2)
    assert away.min(axis=0).max() < 0.2
    clusters = found.clusters
    assert isinstance(clusters, PossibilisticClusters)
    label, distance = clusters.assign(rows)
    noise = clusters.noise(clusters.scores(label, distance))
    # Of merged centroids a wide one may stay, to which rows at the border of a narrow cluster are nearer: 0.945 to 1.
    assert (away.argmin(axis=1)[label] == which)[which >= 0].mean() > 0.93
    assert noise[which < 0].mean() > 0.5 > 0.02 > noise[which >= 0].mean()
    assert clusters.noise_below == 0.05**2


def test_clusters_tell_rows_apart_where_typicalities_vanish() -> None:
    centroids, widths = np.array([[0.0, 0.0], [10.0, 0.0]]), np.array([1.0, 16.0])
    clusters = PossibilisticClusters(Coordinates.of([0.0, 0.0]), centroids, widths=widths, noise_below=0.05)
    rows = np.array([[0.5, 0.0], [4.0, 0.0], [5000.0, 0.0], [-2000.0, 0.0], [0.0, 1.8]], np.float32)
    label, distance = clusters.assign(rows)
    assert label.tolist() == [0, 1, 1, 1, 0]  # of narrow and wide the wide one is nearer from afar
    assert distance == pytest.approx([0.5, 6, 4990, 2010, 1.8])
    score = clusters.scores(label, distance)
    assert score == pytest.approx([0.25, 36 / 16, 4990**2 / 16, 2010**2 / 16, 3.24])
    assert clusters.noise(score).tolist() == [False, False, True, True, True]  # -ln 0.05 = 2.996
    everything = clusters.typicalities(clusters.distances(rows))
    assert np.allclose(everything, typical(rows.astype(float), centroids, widths), rtol=1e-4, atol=1e-12)
    assert np.allclose(np.square(clusters.two_nearest(rows))[:, 0], score, rtol=1e-4)
    never = PossibilisticClusters(Coordinates.of([0.0, 0.0]), centroids, widths=widths, noise_below=0.0)
    assert not never.noise(score).any()


def test_bundles_keep_the_clusters(tmp_path: Path) -> None:
    clusters = PossibilisticClusters(
        Coordinates.of([1.0, 2.0]),
        np.array([[0.0, 1.0], [2.0, 3.0]]),
        "float64",
        widths=np.array([0.5, 2.0]),
        noise_below=0.1,
    )
    inputs = bundle.TableInputs(
        feature_names=("a", "b"), feature_mean=(1.0, 2.0), feature_std=(1.0, 1.0), scaling="none"
    )
    description = bundle.describe(inputs, clusters, np.array([3.0, 4.0]), {}, {})
    bundle.save(str(tmp_path), description, {}, "epoch\n1\n")
    again = bundle.load(str(tmp_path))
    assert again == description
    assert again.kind == "pcm"
    rows = np.random.default_rng(0).normal(size=(50, 2))
    assert np.array_equal(again.clusters.assign(rows)[0], clusters.assign(rows)[0])
    assert again.clusters.noise_below == 0.1  # type: ignore[attr-defined]
    values = json.loads((tmp_path / "model.json").read_text()) | {"widths": [0.5]}
    with pytest.raises(DataError, match=r"(?s)expected 2 widths, as many as centroids.*damaged, cluster again"):
        bundle.parse(json.dumps(values), "model.json")


def test_after_a_merge_patience_waits_until_the_average_is_one_again() -> None:
    rule, averages = Rule(weight=0.25, patience=2, tolerance=0.0), Averages()
    assert not any(averages.observe(Figures(-8.0, 1.0, 1.0), rule) for _ in range(2))
    averages.restart(rule)
    rising = [averages.observe(Figures(value, 1.0, 1.0), rule) for value in (-5.0, -4.0, -4.0, -4.0)]
    assert not any(rising)
    assert averages.idle == 0
    assert [averages.observe(Figures(-3.0, 1.0, 1.0), rule) for _ in range(2)] == [False, True]
