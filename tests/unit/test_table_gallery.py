"""The report of a table's clusters: which features tell them apart, and figures that say what they leave out."""

from __future__ import annotations

import numpy as np
import pytest

from sparton.report.content import ElbowPoint, EvaluationMetrics, Provenance, ReportContent
from sparton.report.page import render
from sparton.report.profiles import GroupMoments, cluster_profiles, describe_clusters, group_moments
from sparton.report.table_gallery import MAP_CLUSTERS, MAP_FEATURES, TableSample, table_gallery, telling_features


def test_features_that_tell_clusters_apart_come_first() -> None:
    deviations = np.array([[0.1, 2.0, 0.0], [-0.1, -2.0, 5.0], [np.nan, np.nan, np.nan]])
    assert telling_features(deviations, [500, 499, 0]).tolist() == [2, 1, 0]
    assert telling_features(deviations, [500, 1, 0]).tolist() == [1, 2, 0]  # one row counts as one


def test_sums_from_an_origin_keep_their_digits() -> None:
    rng = np.random.default_rng(0)
    values, cluster = 1e8 + rng.normal(size=1000), rng.integers(0, 2, 1000)
    shifted = group_moments(cluster, values - 1e8, 2)
    moments = GroupMoments(shifted.size, shifted.total, shifted.squares, shifted.median + 1e8, origin=1e8)
    for profile in cluster_profiles({"x": moments}):
        mine = values[cluster == profile.cluster]
        assert profile.columns["x"].mean == pytest.approx(mine.mean(), abs=1e-6)
        assert profile.columns["x"].std == pytest.approx(mine.std(), rel=1e-6)


def test_the_page_of_many_clusters_and_features_says_what_it_leaves_out() -> None:
    rng = np.random.default_rng(1)
    k, d, n = MAP_CLUSTERS + 5, MAP_FEATURES + 2, 600
    names = tuple(f"f{index}" for index in range(d))
    cluster, points = np.arange(n) % k, rng.normal(size=(n, d))
    sizes = np.bincount(cluster, minlength=k)
    moments = {name: group_moments(cluster, points[:, index], k) for index, name in enumerate(names)}
    metrics = EvaluationMetrics(
        split="train",
        rows=n,
        n_clusters=k,
        clusters=describe_clusters(sizes, rng.uniform(size=(n, 2)), points, cluster, 0),
        profiles=cluster_profiles(moments),
        method="K-means",
        unit="rows",
        shown=names[:3],
        elbow=(ElbowPoint(1, 2.0, None), ElbowPoint(2, 1.0, 0.5)),
    )
    sample = TableSample(points, cluster, rng.normal(size=(k, d)), rng.normal(size=(k, d)), names)
    figures = table_gallery(sample, metrics)
    assert [item.name for item in figures] == ["profiles", "points", "elbow"]
    assert f"the {MAP_CLUSTERS} largest of {k} clusters" in figures[0].caption
    assert f"the {MAP_FEATURES} features that tell most, of {d}" in figures[0].caption
    page = render(ReportContent("Clusters of a table", metrics, figures, Provenance("now", 0)))
    assert "jets" not in page
    assert "median f2" in page
    assert "median f3" not in page
