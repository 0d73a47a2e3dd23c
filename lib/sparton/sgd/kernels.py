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
def nearest(low, high, rows, origin, factor, centroids, half, chunk, group, label):
    """Write the nearest centroid of rows ``low .. high - 1``, the first one of several.

    ``half`` [k] are the centroids' halved squared norms: ``|x - c|^2 / 2`` is smallest where ``half - c.x`` is. The
    products of ``chunk`` rows with ``group`` centroids come from one matrix product and stay in the cache while their
    minima are searched, with rows along the vector registers and four centroids at a time.
    """
    d, k = rows.shape[1], len(centroids)
    points = np.zeros((chunk, d), centroids.dtype)
    products = np.empty((min(k, group), chunk), centroids.dtype)
    best, where = np.empty(chunk, centroids.dtype), np.empty(chunk, np.int32)
    for first in range(low, high, chunk):
        n = min(chunk, high - first)
        for i in range(n):
            for c in range(d):
                points[i, c] = (rows[first + i, c] - origin[c]) * factor[c]
        best[:] = np.inf
        where[:] = 0
        for start in range(0, k, group):
            m = min(group, k - start)
            part = products[:m]
            np.dot(centroids[start : start + m], points.T, part)
            whole = m - m % 4
            for j in range(0, whole, 4):
                _take_four(half[start + j : start + j + 4], part[j : j + 4], np.int32(start + j), best, where)
            for j in range(whole, m):
                _take_one(half[start + j], part[j], np.int32(start + j), best, where)
        for i in range(n):
            label[first + i] = where[i]


@compiled
def _take_four(half, products, j, best, where):
    h0, h1, h2, h3 = half[0], half[1], half[2], half[3]
    p0, p1, p2, p3 = products[0], products[1], products[2], products[3]
    # Comparisons are added as numbers, and minima taken as such: selections would cost twice as much.
    for i in range(len(best)):
        v0, v1, v2, v3 = h0 - p0[i], h1 - p1[i], h2 - p2[i], h3 - p3[i]
        low, low_j = min(v0, v1), j + np.int32(v1 < v0)
        high, high_j = min(v2, v3), j + np.int32(2) + np.int32(v3 < v2)
        value, value_j = min(low, high), high_j if high < low else low_j
        before, before_j = best[i], where[i]
        where[i] = value_j if value < before else before_j
        best[i] = min(value, before)


@compiled
def _take_one(half, products, j, best, where):
    for i in range(len(best)):
        value, before, before_j = half - products[i], best[i], where[i]
        where[i] = j if value < before else before_j
        best[i] = min(value, before)


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
