"""The contest of methods of clustering: its yardsticks against scikit-learn and brute force, and a small turn of it."""

from __future__ import annotations

import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
from sklearn.cluster import KMeans as LloydKMeans

from parts.blobs import Blobs
from parts.clustering_contest import NEAR, contest, first_centroids, inertia_of, lloyd, one_pass
from parts.processes import measure
from sparton.sgd.settings import KMeansSettings

BLOBS = Blobs(rows=4000, features=4, clusters=6)
SETTINGS = KMeansSettings(n_clusters=6, scaling="none", epochs=2, batch_size=256, decay=0.9)


def test_the_path_of_lloyds_method_is_that_of_scikit_learn() -> None:
    rows = BLOBS.values()
    start = rows[:6].astype(np.float64)
    path = lloyd(rows, start, limit=60)
    assert all(later <= sooner for sooner, later in itertools.pairwise(path))
    found = LloydKMeans(6, init=start, n_init=1, max_iter=200, tol=0, algorithm="lloyd").fit(rows.astype(np.float64))
    assert path[-1] == pytest.approx(found.inertia_, rel=1e-3)


def test_inertia_is_that_of_brute_force() -> None:
    rows = BLOBS.values()
    centroids = rows[:6].astype(np.float64)
    squares = np.square(rows.astype(np.float64)[:, None] - centroids).sum(axis=2)
    assert inertia_of(rows, centroids) == pytest.approx(squares.min(axis=1).sum(), rel=1e-6)


def test_a_turn_of_the_contest() -> None:
    rows = BLOBS.values()
    found, best = contest(rows, SETTINGS, rounds=1, limit=20)
    assert best == min(one.inertia for one in found)
    assert found[0].name.startswith("sparton")
    assert found[0].inertia <= NEAR * best
    assert found[-1].name.startswith("Lloyd")
    assert np.isnan(found[-1].seconds)
    assert all(one.seconds > 0 for one in found[:-1])


def test_rates_of_a_pass() -> None:
    rows = BLOBS.values()
    found = one_pass(rows, first_centroids(rows, SETTINGS), repeats=1)
    assert found.rate == pytest.approx(found.rows_per_second * 2 * 4 * 6)
    assert min(found.square_products, found.same_products) > 0


def test_commands_are_measured_and_ended(tmp_path: Path) -> None:
    held = measure([sys.executable, "-c", "x = bytearray(200 << 20); import time; time.sleep(0.5)"], tmp_path, 60)
    assert held.ended
    assert held.peak > 200 << 20
    assert held.seconds > 0.5
    stopped = measure([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, 0.5)
    assert not stopped.ended
    assert stopped.seconds < 30
    with pytest.raises(RuntimeError, match=r"exit 3[\s\S]*what it said"):
        measure([sys.executable, "-c", "print('what it said'); raise SystemExit(3)"], tmp_path, 60)
