"""Where centroids start, and where starved ones start again: the same rows whatever the number of ranks."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton.data.hashing import hash64, salt_of, unit_interval
from sparton.errors import TrainingError
from sparton.sgd import starts
from sparton.sgd.batch import Batch

Array = NDArray[Any]

RESEEDING = 3  # what a salt is drawn for


def first_centroids(
    points: NDArray[np.float64], weight: Array, k: int, start: str, seed: int, tries: int = 0
) -> NDArray[np.float64]:
    """Return k distinct points as the first centroids, float64 [k, d].

    ``k-means++`` takes points with a probability in proportion to weight and squared distance from those that it has,
    ``random`` to the weight alone.

    Parameters
    ----------
    points, weight
        A sample, [n, d] and [n], in an order that does not depend on the number of ranks.
    k, start, seed
        How many centroids, how they are chosen, and the seed of the choice.
    tries
        Points that :func:`sparton.sgd.starts.swap` tries in their places.

    Raises
    ------
    TrainingError
        If fewer than k points are distinct; those of weight 0 do not count.
    """
    sound = np.asarray(weight, np.float64) > 0
    points, weight = points[sound], np.asarray(weight, np.float64)[sound]
    distinct = _distinct_at_least(points, k)
    if distinct < k:
        raise TrainingError(
            f"found {distinct} distinct rows in a sample of {len(points)}, expected at least n_clusters={k}; "
            "lower cluster.n_clusters, or raise cluster.start_rows where the table has more"
        )
    if start == "random":
        points, first, inverse = np.unique(points, axis=0, return_index=True, return_inverse=True)
        shares = np.bincount(inverse.ravel(), weight, len(points))
        order = np.argsort(first)  # as in the sample, not by value
        rng = np.random.default_rng(seed)
        points, weight = points[order], shares[order]
        found = points[rng.choice(len(points), k, replace=False, p=weight / weight.sum())]
    else:
        found = starts.plus_plus(points, weight, k, seed)
    return starts.swap(points, weight, np.asarray(found, np.float64), tries, seed)


def candidates(batch: Batch, count: int, seed: int, step: int) -> NDArray[np.float64]:
    """Return a rank's rows that may replace centroids, with their keys, float64 [m, 1 + d], m at most ``count``."""
    sound = np.flatnonzero(batch.weight > 0)
    keys = priorities(batch.ids[sound], batch.weight[sound], seed, step)
    chosen = np.argsort(keys, kind="stable")[:count]
    return np.column_stack([keys[chosen], batch.rows[sound[chosen]]]).astype(np.float64)


def priorities(ids: NDArray[np.int64], weight: Array, seed: int, step: int) -> NDArray[np.float64]:
    """Return the keys float64 [n] of rows by which centroids are put onto them; weights are above 0.

    A key is an exponential variate of the row's identity, over its weight: the lowest keys of all ranks are a weighted
    sample without replacement (Efraimidis and Spirakis, Inf. Process. Lett. 97, 2006), whoever holds the rows.
    """
    uniform = 1 - unit_interval(hash64(ids, salt_of(RESEEDING, seed, step)))
    return np.asarray(-np.log(uniform) / weight, np.float64)


def lowest(gathered: NDArray[np.float64], count: int) -> NDArray[np.float64]:
    """Return the rows float64 [m, d] with the ``count`` lowest keys out of what all ranks' :func:`candidates` gave."""
    return gathered[np.argsort(gathered[:, 0], kind="stable")[:count], 1:]


def _distinct_at_least(points: NDArray[np.float64], k: int) -> int:
    """Return the number of distinct points; as soon as k are known to be so, how many were found till then."""
    head = len(np.unique(points[: 4 * k], axis=0))
    return head if head >= k else len(np.unique(points, axis=0))
