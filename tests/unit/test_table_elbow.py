"""Other numbers of clusters on the sample: found with the passes and the starts of the bundle's training."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from sparton.pipeline.evaluation import EvaluateSettings
from sparton.pipeline.table_evaluation import _elbow
from sparton.sgd import bundle
from sparton.sgd.bundle import TableInputs
from sparton.sgd.clusters import Clusters
from sparton.sgd.settings import KMeansSettings
from sparton.sgd.train import fit

K = 20


def clouds() -> np.ndarray[Any, Any]:
    rng = np.random.default_rng(3)
    centers = rng.uniform(-10, 10, (K, 4))
    return (centers[np.arange(2000) % K] + rng.normal(0, 0.3, (2000, 4))).astype(np.float32)


def description(**training: Any) -> bundle.Description:
    names = tuple("abcd")
    inputs = TableInputs(feature_names=names, feature_mean=(0.0,) * 4, feature_std=(1.0,) * 4, scaling="none")
    settings = KMeansSettings(n_clusters=3, scaling="none", batch_size=200, epochs=3, **training)
    clusters = Clusters(inputs.coordinates, np.zeros((3, 4)))
    return bundle.describe(inputs, clusters, np.ones(3), settings.model_dump(mode="json"), {})


def test_as_many_starts_are_tried_as_in_a_training() -> None:
    """A random start misses some of twenty clouds; tries of starts find them."""
    rows, numbers = clouds(), EvaluateSettings(elbow=(5, K))
    found = _elbow(rows, description(), numbers)
    assert [point.n_clusters for point in found] == [5, K]
    assert found[1].mean_inertia == pytest.approx(4 * 0.09, rel=0.05)
    alone = fit(rows, KMeansSettings(n_clusters=K, scaling="none", batch_size=200, epochs=3))
    assert found[1].mean_inertia == pytest.approx(alone.objective / len(rows), rel=1e-6)
    tried, without = (_elbow(rows, description(start="random", start_tries=tries), numbers)[1] for tries in (400, 0))
    assert tried.mean_inertia == pytest.approx(found[1].mean_inertia, rel=0.01)
    assert without.mean_inertia > 2 * found[1].mean_inertia


def test_a_small_start_of_the_training_is_no_limit_and_what_has_no_start_is_left_out(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rows, numbers = clouds(), EvaluateSettings(elbow=(5, K))
    found = _elbow(rows, description(start_rows=6), numbers)
    assert [point.n_clusters for point in found] == [5, K]
    assert found[1].mean_inertia == pytest.approx(4 * 0.09, rel=0.05)
    assert caplog.text == ""
    few = np.repeat(rows[:1], 4000, axis=0)
    few[:K] = rows[:K]  # distinct rows enough, but hardly one in a sample of some hundred
    found = _elbow(few, description(start_rows=6), numbers)
    assert [point.n_clusters for point in found] == []
    assert f"evaluate.elbow: {K} clusters are left out: found " in caplog.text


def test_the_device_of_the_training_does_not_matter() -> None:
    (point,) = _elbow(clouds(), description(device="gpu"), EvaluateSettings(elbow=(4,)))
    assert point.silhouette is not None
