"""Local search for first centroids: points take the place of centroids wherever that lowers the cost.

k-means++ misses some of many clusters, and k-means does not find a missed one by itself. A point drawn by its share of
the cost (D^2, as in k-means++) most often lies in one; put in place of the centroid that is least needed it repairs
that (Lattanzi and Sohler, *A Better k-Means++ Algorithm via Local Search*, ICML 2019).
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]

CANDIDATES = 32
"""Points that are drawn at once, from the shares of the cost as they are then."""

CHUNK_ROWS = 4096
"""Points whose distances to all centroids are computed at once."""

LEAST_GAIN = 1e-9
"""Fraction of the cost below which a gain is within rounding."""


class Neighbours(NamedTuple):
    """The nearest centroid and the next one of each point, int64 [n, 2], and their squared distances float64 [n, 2]."""

    label: NDArray[np.int64]
    square: Floats


def swap(points: Floats, weight: Array, centroids: Floats, tries: int, seed: int) -> Floats:
    """Return centroids of no higher cost, float64 [k, d]: the given ones, some replaced by points.

    Parameters
    ----------
    points, weight
        A sample, float64 [n, d] near the origin and [n] from 0.
    centroids
        float64 [k, d].
    tries
        Points that are tried.
    seed
        Of their choice.
    """
    weight = np.asarray(weight, np.float64)
    if len(centroids) < 2 or not tries:
        return centroids
    rng = np.random.default_rng(seed)
    centroids, norms = centroids.copy(), _norms(points)
    found = neighbours(points, norms, centroids)
    cost = float(weight @ found.square[:, 0])
    for first in range(0, tries, CANDIDATES):
        shares = np.cumsum(weight * found.square[:, 0])
        if not shares[-1] > 0:
            break
        draws = rng.random(min(CANDIDATES, tries - first)) * shares[-1]
        drawn = np.minimum(np.searchsorted(shares, draws, side="right"), len(points) - 1)
        squares = np.maximum(norms[drawn, None] + norms - 2 * points[drawn] @ points.T, 0)
        for number, square in zip(drawn.tolist(), squares, strict=True):
            costs = costs_after(found, weight, square, len(centroids))
            least = int(costs.argmin())
            if costs[least] < cost * (1 - LEAST_GAIN):
                centroids[least] = points[number]
                _replace(found, points, norms, centroids, least, square)
                cost = float(weight @ found.square[:, 0])
    return centroids


def neighbours(points: Floats, norms: Floats, centroids: Floats) -> Neighbours:
    """Return the two nearest centroids of each point, of k >= 2; ``norms`` [n] are the points' squared norms."""
    found = Neighbours(np.empty((len(points), 2), np.int64), np.empty((len(points), 2)))
    own = _norms(centroids)
    for first in range(0, len(points), CHUNK_ROWS):
        part = slice(first, first + CHUNK_ROWS)
        square = norms[part, None] + own - 2 * points[part] @ centroids.T
        label = np.argpartition(square, 1, axis=1)[:, :2]
        order = np.argsort(np.take_along_axis(square, label, axis=1), axis=1, kind="stable")
        found.label[part] = np.take_along_axis(label, order, axis=1)
        found.square[part] = np.maximum(np.take_along_axis(square, found.label[part], axis=1), 0)
    return found


def costs_after(found: Neighbours, weight: Floats, square: Floats, k: int) -> Floats:
    """Return the cost, float64 [k], after a point takes the place of each centroid.

    ``square`` [n] are the squared distances from the point. Points of a centroid that goes fall to their next one, or
    to the new one.
    """
    nearest, following = found.square.T
    with_both = np.minimum(nearest, square)
    lost = np.bincount(found.label[:, 0], weight * (np.minimum(following, square) - with_both), k)
    return np.asarray(weight @ with_both + lost, np.float64)


def _replace(found: Neighbours, points: Floats, norms: Floats, centroids: Floats, changed: int, square: Floats) -> None:
    """Bring neighbours up to date, in place, after a centroid has moved to where ``square`` is counted from."""
    label, known = found
    stale = (label == changed).any(axis=1)
    nearest = (square < known[:, 0]) & ~stale
    following = (square < known[:, 1]) & ~stale & ~nearest
    label[nearest, 1], known[nearest, 1] = label[nearest, 0], known[nearest, 0]
    label[nearest, 0], known[nearest, 0] = changed, square[nearest]
    label[following, 1], known[following, 1] = changed, square[following]
    again = neighbours(points[stale], norms[stale], centroids)
    label[stale], known[stale] = again


def _norms(points: Floats) -> Floats:
    return np.asarray(np.einsum("nd,nd->n", points, points), np.float64)
