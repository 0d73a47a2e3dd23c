"""Fuzzy c-means (Bezdek, 1981) with the exponent 2: where possibilistic c-means begins, and how wide clusters are."""

from __future__ import annotations

import logging
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from sparton.sgd.typicality import Sums, added, squared_distances

Array = NDArray[np.float64]

MOST_ITERATIONS = 300

TOLERANCE = 1e-8
"""Squared move of a centroid, as a fraction of the points' variance, below which they are at rest."""

logger = logging.getLogger(__name__)


class Partition(NamedTuple):
    """Centroids float64 [k, d]; mean squared distances of a centroid's rows from it, float64 [k].

    Means are weighted by the squared memberships.
    """

    centroids: Array
    spreads: Array


def partition(points: Array, weight: Array, centroids: Array, threads: int | None = None) -> Partition:
    """Divide points by fuzzy c-means: memberships ``u_ij`` in proportion to ``1 / |x_i - c_j|^2``, 1 in all.

    Parameters
    ----------
    points, weight
        float64 [n, d] and [n].
    centroids
        Where to begin, [k, d].
    threads
        How many to use; None takes those that the process was given.
    """
    rest = TOLERANCE * total_variance(points, weight)
    for _ in range(MOST_ITERATIONS):
        totals, masses, _ = _sums(points, weight, centroids, threads)
        moved = np.where(masses[:, None] > 0, totals / np.where(masses > 0, masses, 1.0)[:, None], centroids)
        shift = float(np.square(moved - centroids).sum(axis=1).max())
        centroids = moved
        if shift <= rest:
            break
    else:
        logger.info(
            "fuzzy c-means still moves centroids by %.2g after %d iterations; widths are taken as they are then",
            shift**0.5,
            MOST_ITERATIONS,
        )
    _, masses, squares = _sums(points, weight, centroids, threads)
    return Partition(centroids, squares / np.where(masses > 0, masses, 1.0))


def total_variance(points: Array, weight: Array) -> float:
    """Return the mean squared distance of weighted points from their mean."""
    mean = weight @ points / weight.sum()
    return float(weight @ np.square(points - mean).sum(axis=1) / weight.sum())


def memberships(square: Array) -> Array:
    """Return memberships [n, k] from squared distances [n, k]; a point at a centroid belongs to it alone."""
    lowest = square.min(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        near = np.where(square == lowest, 1.0, lowest / square)  # 0/0 is at several centroids at once
    return near / near.sum(axis=1, keepdims=True)


def _sums(points: Array, weight: Array, centroids: Array, threads: int | None) -> Sums:
    """Return sums over points of the squared memberships, times the points, alone, and times squared distances."""

    def sums(part: slice) -> Sums:
        square = squared_distances(points[part], centroids)
        if not len(square):
            return np.zeros_like(centroids), np.zeros(len(centroids)), np.zeros(len(centroids))
        shares = np.square(memberships(square)) * weight[part, None]
        return shares.T @ points[part], shares.sum(axis=0), (shares * square).sum(axis=0)

    return added(len(points), centroids.shape, sums, threads)
