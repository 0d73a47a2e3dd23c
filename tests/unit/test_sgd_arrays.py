"""What callers may give as rows and weights: all arrays of numbers, and nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest
import scipy.sparse

from sparton.errors import ConfigError, DataError
from sparton.sgd.arrays import as_rows
from sparton.sgd.settings import KMeansSettings
from sparton.sgd.train import fit

WHOLE = np.random.default_rng(8).integers(0, 9, (60, 3)) + np.repeat([[0], [60], [110]], 20, axis=0)


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        (WHOLE.astype(np.uint8), np.float32),
        (WHOLE.astype(np.int16), np.float32),
        (WHOLE.astype(np.float16), np.float32),
        (WHOLE.astype(">f4"), np.float32),
        (np.asfortranarray(WHOLE, np.float32), np.float32),
        (np.repeat(WHOLE, 2, axis=1)[:, ::2].astype(np.float32), np.float32),
        (WHOLE.astype(np.int32), np.float64),
        (WHOLE, np.float64),
        (WHOLE.astype(np.uint64), np.float64),
        (np.repeat(WHOLE, 2, axis=0)[::2], np.float64),
        (WHOLE.tolist(), np.float64),
        (pd.DataFrame(WHOLE, columns=list("abc")).astype({"a": "Int64", "b": "uint8", "c": "float32"}), np.float64),
        (np.ma.masked_less(WHOLE, 0), np.float64),
    ],
)
def test_all_arrays_of_numbers_are_rows(given: Any, kind: type) -> None:
    settings = KMeansSettings(n_clusters=3, batch_size=20, decay=0.9, seed=3)
    expected = fit(np.ascontiguousarray(WHOLE, kind), settings)
    found = fit(given, settings, pd.Series(np.ones(60), dtype="Int64"))
    assert found.clusters.centers.tolist() == expected.clusters.centers.tolist()
    for one, other in zip(found.clusters.assign(given), expected.clusters.assign(WHOLE.astype(kind)), strict=True):
        assert one.tolist() == other.tolist()
    assert found.clusters.distances(given).shape == (60, 3)
    assert found.clusters.two_nearest(given).shape == (60, 2)


def test_arrays_that_are_right_are_not_copied() -> None:
    for kind in (np.float32, np.float64):
        rows = WHOLE.astype(kind)
        assert as_rows(rows) is rows


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (np.zeros(4), r"float64\[4\]"),
        (np.zeros((4, 2), complex), r"complex128\[4, 2\]"),
        ([["a"]], r"<U1\[1, 1\]"),
        (np.zeros((4, 2), "datetime64[s]"), r"datetime64\[s\]\[4, 2\]"),
        (scipy.sparse.eye(3).tocsr(), r"object\[\]"),
        (pd.DataFrame({"a": [1.0, 2.0], "b": ["1", "2"]}), r"object\[2, 2\]"),
        (None, r"object\[\]"),
        (pa.table({"a": [1.0, 2.0], "b": ["1", "2"]}), r"object\[2, 2\]"),
    ],
)
def test_rows_that_are_no_numbers_are_named(given: Any, found: str) -> None:
    clusters = fit(WHOLE, KMeansSettings(n_clusters=2)).clusters
    for take in (lambda: fit(given, KMeansSettings(n_clusters=2)), lambda: clusters.assign(given)):
        with pytest.raises(DataError, match=rf"rows: found {found}, expected numbers \[n, d\]"):
            take()


def test_values_that_are_missing_or_too_large_are_named() -> None:
    missing = pd.DataFrame({"a": pd.array([1, None, 3], "Int64"), "b": [1, 2, 3]})
    masked = np.ma.masked_equal([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], 3.0)
    large = np.full((3, 1), np.longdouble("1e4000"))
    clusters = fit(WHOLE[:, :2], KMeansSettings(n_clusters=2)).clusters
    for given in (missing, masked, large):
        with pytest.raises(DataError, match="column 0 has values that are not finite"):
            fit(given, KMeansSettings(n_clusters=2))
    with pytest.raises(DataError, match="column 0 has values that are not finite"):
        clusters.assign(missing)
    with pytest.raises(DataError, match=r"rows: found \[60, 3\], expected 2 features as in training"):
        clusters.assign(WHOLE)
    with pytest.raises(ConfigError, match="settings: found NoneType, expected KMeansSettings or PossibilisticSettings"):
        fit(WHOLE, None)  # type: ignore[arg-type]
