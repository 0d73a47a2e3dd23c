"""What :mod:`sparton.sgd.kernels` computes, in plain NumPy and SciPy: where Numba is missing, and to compare with."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy import sparse

Array = NDArray[Any]


def nearest(
    low: int,
    high: int,
    rows: Array,
    origin: Array,
    factor: Array,
    centroids: Array,
    half: Array,
    chunk: int,
    group: int,
    label: Array,
) -> None:
    """Write the nearest centroid of rows ``low .. high - 1``, the first one of several; ``group`` is not used."""
    for first in range(low, high, chunk):
        part = slice(first, min(first + chunk, high))
        points = (rows[part] - origin) * factor
        label[part] = (half - points @ centroids.T).argmin(axis=1)


def accumulate(
    low: int,
    high: int,
    rows: Array,
    weight: Array,
    label: Array,
    origin: Array,
    factor: Array,
    centroids: Array,
    residuals: Array,
    counts: Array,
    inertia: Array,
) -> None:
    """Add weights, weighted differences from the nearest centroid and their squares, of rows ``low .. high - 1``."""
    n, nearby, share = high - low, label[low:high], weight[low:high].astype(np.float64)
    away = (rows[low:high].astype(np.float64) - origin) * factor - centroids[nearby]
    chosen = sparse.csc_matrix((share, nearby, np.arange(n + 1)), shape=(len(centroids), n))
    residuals += chosen @ away
    counts += np.bincount(nearby, share, len(centroids))
    inertia += share @ np.einsum("nd,nd->n", away, away)
