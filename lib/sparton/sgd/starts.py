"""First centroids on a sample: k-means++, and local search, in which points take the place of centroids.

k-means++ misses some of many clusters, and k-means does not find a missed one by itself. A point drawn by its share of
the cost (D^2, as in k-means++) most often lies in one; put in place of the centroid that is least needed it repairs
that (Lattanzi and Sohler, *A Better k-Means++ Algorithm via Local Search*, ICML 2019).
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
Floats = NDArray[np.float64]

CANDIDATES = 32
"""Points that are drawn at once, from the shares of the cost as they are then."""

CHUNK_ROWS = 4096
"""Points whose distances to all centroids are computed at once."""

CANCELLED = 1e-8
"""Fraction of the squared norms below which a squared distance from products has lost half of its digits."""

LEAST_GAIN = 1e-9
"""Fraction of the cost below which a gain is within rounding."""


class Neighbours(NamedTuple):
    """The nearest centroid and the next one of each point, int64 [n, 2], and their squared distances float64 [n, 2]."""

    label: NDArray[np.int64]
    square: Floats


def plus_plus(points: Floats, weight: Array, k: int, seed: int) -> Floats:
    """Return points that lie far from each other, float64 [k, d]: greedy k-means++.

    Each is drawn by weight and squared distance from the nearest before it, several times, and the draw that lowers
    the cost most is taken (Arthur and Vassilvitskii, *k-means++: The Advantages of Careful Seeding*, SODA 2007).

    Parameters
    ----------
    points, weight
        A sample with at least k distinct points, float64 [n, d] near the origin and [n] above 0.
    k, seed
        How many, and the seed of the draws.
    """
    weight = np.asarray(weight, np.float64)
    rng, norms = np.random.default_rng(seed), _norms(points)
    chosen = [int(_drawn(weight, 1, rng)[0])]
    square = _squares(points, norms, chosen)[0]
    draws = 2 + int(math.log(k))
    while len(chosen) < k:
        candidates = _drawn(weight * square, draws, rng)
        left = np.minimum(square, _squares(points, norms, candidates))
        best = int((left @ weight).argmin())
        chosen.append(int(candidates[best]))
        square = left[best]
    return points[chosen]


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
        if not cost > 0:
            break
        drawn = _drawn(weight * found.square[:, 0], min(CANDIDATES, tries - first), rng)
        for number, square in zip(drawn.tolist(), _squares(points, norms, drawn), strict=True):
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
        away = points[part, None] - centroids[label]
        exact = np.einsum("njd,njd->nj", away, away)
        order = np.argsort(exact, axis=1, kind="stable")
        found.label[part] = np.take_along_axis(label, order, axis=1)
        found.square[part] = np.take_along_axis(exact, order, axis=1)
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


def _drawn(shares: Floats, count: int, rng: np.random.Generator) -> NDArray[np.int64]:
    """Return numbers of points, int64 [count], drawn in proportion to their shares."""
    ends = np.cumsum(shares)
    drawn = np.searchsorted(ends, rng.random(count) * ends[-1], side="right")
    return np.minimum(drawn, np.searchsorted(ends, ends[-1]))  # rounding must not reach beyond the last share


def _squares(points: Floats, norms: Floats, chosen: Any) -> Floats:
    """Return the squared distances, float64 [m, n], of all points from chosen ones [m].

    They come from products, but where nearly all of these cancels from differences: equal points are 0 apart.
    """
    sums = norms[chosen, None] + norms
    found = sums - 2 * points[chosen] @ points.T
    own, other = np.nonzero(found < CANCELLED * sums)
    away = points[np.asarray(chosen)[own]] - points[other]
    found[own, other] = np.einsum("md,md->m", away, away)
    return np.asarray(found, np.float64)


def _norms(points: Floats) -> Floats:
    return np.asarray(np.einsum("nd,nd->n", points, points), np.float64)
