"""Typicalities of possibilistic c-means: how much rows are like each cluster, and sums over rows of them.

The typicality of a point x in a cluster with centroid c and squared width gamma is ``exp(-|x - c|^2 / gamma)``. Here
its negative logarithm is what is compared: it tells clusters apart where all typicalities are 0 to a float.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from sparton.errors import TrainingError
from sparton.sgd import compute
from sparton.sgd.coordinates import Coordinates

Array = NDArray[Any]
Sums = tuple[NDArray[np.float64], ...]

SMALLEST_CHUNK, LARGEST_CHUNK = 64, 4096
"""Rows whose distances from all centroids are computed at once."""

PART_WORK = 1 << 22
"""Multiplications below which rows are not shared among threads."""


def squared_distances(
    points: NDArray[np.float64], centroids: NDArray[np.float64], precision: DTypeLike = np.float64
) -> NDArray[np.float64]:
    """Return squared distances float64 [n, k] of points [n, d] from centroids [k, d].

    Points are multiplied with centroids in ``precision``, which rounds a squared distance by some 1e-16 (float64) or
    1e-7 (float32) of the squared norms.

    Raises
    ------
    TrainingError
        If the products are beyond the precision's range.
    """
    dtype: Any = np.dtype(precision)
    norms = np.einsum("nd,nd->n", points, points), np.einsum("kd,kd->k", centroids, centroids)
    check_range(float(np.sqrt(norms[0].max(initial=0.0)) * np.sqrt(norms[1].max(initial=0.0))), dtype)
    found = (points.astype(dtype, copy=False) @ centroids.astype(dtype, copy=False).T).astype(np.float64, copy=False)
    found *= -2.0
    found += norms[0][:, None]
    found += norms[1]
    return np.maximum(found, 0.0, out=found)


def check_range(largest: float, precision: DTypeLike) -> None:
    """Check that the largest product that a point and a centroid may have is one of a precision's numbers.

    Raises
    ------
    TrainingError
        If it is not.
    """
    dtype: Any = np.dtype(precision)
    if not largest < np.finfo(dtype).max:
        raise TrainingError(
            f"products of rows and centroids exceed {dtype.name}; standardise the features (cluster.scaling: "
            "standard) or set cluster.precision: float64"
        )


def distances(rows: Array, coordinates: Coordinates, centroids: NDArray[np.float64]) -> NDArray[np.float32]:
    """Return the distances of rows [n, d] from centroids [k, d] among the points, float32 [n, k]."""
    found = np.empty((len(rows), len(centroids)), np.float32)
    for part in _chunks(0, len(rows), len(centroids)):
        found[part] = np.sqrt(squared_distances(coordinates.points(rows[part]), centroids))
    return found


def nearest(
    rows: Array,
    coordinates: Coordinates,
    centroids: NDArray[np.float64],
    widths: NDArray[np.float64],
    precision: DTypeLike = np.float32,
    threads: int | None = None,
) -> NDArray[np.int32]:
    """Return the cluster in which each row is most typical, int32 [n], the first one of several.

    Parameters
    ----------
    rows
        float32 or float64 [n, d], finite.
    coordinates
        What turns rows into points.
    centroids, widths
        Points [k, d] and gamma, the squared widths [k].
    precision, threads
        See :func:`squared_distances` and :func:`sparton.sgd.compute.nearest`.
    """
    label = np.empty(len(rows), np.int32)

    def assign(part: slice) -> Sums:
        points = coordinates.points(rows[part])
        label[part] = (squared_distances(points, centroids, precision) / widths).argmin(axis=1)
        return ()

    added(len(rows), centroids.shape, assign, threads)
    return label


def accumulate(
    rows: Array,
    weight: Array,
    coordinates: Coordinates,
    centroids: NDArray[np.float64],
    widths: NDArray[np.float64],
    precision: DTypeLike = np.float32,
    threads: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Return sums over rows of the weighted typicalities u.

    Parameters
    ----------
    rows, weight
        float32 or float64 [n, d] and [n]; rows of weight 0 add nothing.
    coordinates, centroids, widths, precision, threads
        As for :func:`nearest`.

    Returns
    -------
    residuals, masses
        float64 [k, d] and [k]: sums of u (x - c) and of u.
    """

    def sums(part: slice) -> Sums:
        points = coordinates.points(rows[part])
        typical = squared_distances(points, centroids, precision)
        typical /= -widths
        np.exp(typical, out=typical)
        typical *= np.asarray(weight[part], np.float64)[:, None]
        masses = typical.sum(axis=0)
        return typical.T @ points - masses[:, None] * centroids, masses

    residuals, masses = added(len(rows), centroids.shape, sums, threads)
    return residuals, masses


def added(n: int, shape: tuple[int, ...], sums: Callable[[slice], Sums], threads: int | None = None) -> Sums:
    """Return ``sums`` of ranges of n rows, added up in an order that the number of threads does not change.

    Parameters
    ----------
    n, shape
        Rows, and shape of the centroids [k, d], which tell how large a range is.
    sums
        Computes arrays of the same shapes for any range.
    threads
        How many to use; None takes those that the process was given.
    """
    k, d = shape
    work = n * k * d
    limits = compute.part_limits(n, int(np.clip(work // PART_WORK, 1, compute.MOST_PARTS)))
    found: list[Sums | None] = [None] * (len(limits) - 1)

    def run(low: int, high: int, part: int) -> None:
        total: Sums | None = None
        for chunk in _chunks(low, high, k):
            own = sums(chunk)
            total = own if total is None else tuple(one + other for one, other in zip(total, own, strict=True))
        found[part] = total

    compute.each_part(limits, run, compute.workers(threads, work))
    parts = [part for part in found if part is not None] or [sums(slice(0, 0))]
    return tuple(np.sum(arrays, axis=0) for arrays in zip(*parts, strict=True))


def _chunks(low: int, high: int, k: int) -> Iterator[slice]:
    rows = int(np.clip(compute.CACHE_BYTES // (8 * k), SMALLEST_CHUNK, LARGEST_CHUNK))
    return (slice(first, min(first + rows, high)) for first in range(low, high, rows))
