"""Loops over rows, compiled by Numba; each works on a range of rows and holds no lock.

Shapes: rows [n, d] float32 or float64, k centroids [k, d]. Origin and factor [d] turn a row x into the point
``(x - origin) * factor``, in which centroids are given.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import scipy.linalg  # noqa: F401 - whose BLAS Numba calls

# Sums may be reordered, so that they use vector registers; NaN and infinity keep their meaning.
FAST_MATH = {"contract", "reassoc", "nsz", "arcp"}


def compiled(function: Callable[..., Any]) -> Any:
    """Return the function compiled, from the cache on disk where there is room for one."""
    options: dict[str, Any] = {"nogil": True, "fastmath": FAST_MATH, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep a cache, as in a zip on Spark's path
        return numba.njit(**options)(function)


@compiled
def nearest(low, high, rows, origin, factor, centroids, half, chunk, label):
    """Write the nearest centroid of rows ``low .. high - 1``, the first one of several.

    ``half`` [k] are the centroids' halved squared norms: ``|x - c|^2 / 2`` is smallest where ``half - c.x`` is. The
    products of ``chunk`` rows come from one matrix product and stay in the cache while their minima are searched,
    with rows along the vector registers and four centroids at a time.
    """
    d, k = rows.shape[1], len(centroids)
    points = np.zeros((chunk, d), centroids.dtype)
    products = np.empty((k, chunk), centroids.dtype)
    best, where = np.empty(chunk, centroids.dtype), np.empty(chunk, np.int32)
    for first in range(low, high, chunk):
        n = min(chunk, high - first)
        for i in range(n):
            for c in range(d):
                points[i, c] = (rows[first + i, c] - origin[c]) * factor[c]
        np.dot(centroids, points.T, products)
        best[:] = np.inf
        where[:] = 0
        whole = k - k % 4
        for j in range(0, whole, 4):
            _take_four(half, products, np.int32(j), best, where)
        for j in range(whole, k):
            _take_one(half[j], products[j], np.int32(j), best, where)
        for i in range(n):
            label[first + i] = where[i]


@compiled
def _take_four(half, products, j, best, where):
    h0, h1, h2, h3 = half[j], half[j + 1], half[j + 2], half[j + 3]
    p0, p1, p2, p3 = products[j], products[j + 1], products[j + 2], products[j + 3]
    for i in range(len(best)):
        v0, v1, v2, v3 = h0 - p0[i], h1 - p1[i], h2 - p2[i], h3 - p3[i]
        left, right = v1 < v0, v3 < v2
        low, low_j = v1 if left else v0, np.int32(j + 1) if left else j
        high, high_j = v3 if right else v2, np.int32(j + 3) if right else np.int32(j + 2)
        upper = high < low
        value, value_j = high if upper else low, high_j if upper else low_j
        before, before_j = best[i], where[i]
        closer = value < before
        where[i] = value_j if closer else before_j
        best[i] = value if closer else before


@compiled
def _take_one(half, products, j, best, where):
    for i in range(len(best)):
        value, before, before_j = half - products[i], best[i], where[i]
        closer = value < before
        where[i] = j if closer else before_j
        best[i] = value if closer else before


@compiled
def accumulate(low, high, rows, weight, label, origin, factor, centroids, residuals, counts, inertia):
    """Add weights, weighted differences from the nearest centroid and their squares, of rows ``low .. high - 1``.

    Everything is float64 and a difference is taken before anything is summed, so nothing cancels.
    """
    d = rows.shape[1]
    for i in range(low, high):
        share = np.float64(weight[i])
        if share == 0.0:
            continue
        j = label[i]
        row, centroid, residual = rows[i], centroids[j], residuals[j]
        square = 0.0
        for c in range(d):
            away = (np.float64(row[c]) - origin[c]) * factor[c] - centroid[c]
            square += away * away
            residual[c] += share * away
        counts[j] += share
        inertia[0] += share * square
