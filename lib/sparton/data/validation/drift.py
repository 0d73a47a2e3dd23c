"""Distances between two histograms with the same bins."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

EMPTY_BIN = 0.5
"""Added to the count of every bin for the stability index, which an empty bin would make infinite."""


def psi(reference: ArrayLike, found: ArrayLike) -> float:
    """Return the population stability index Σ (p − q) ln(p / q) of two histograms [B] with counts."""
    p, q = (_fractions(np.asarray(counts, np.float64) + EMPTY_BIN) for counts in (found, reference))
    return float(np.sum((p - q) * np.log(p / q)))


def ks(reference: ArrayLike, found: ArrayLike) -> float:
    """Return the largest difference of the cumulative distributions at the bins' edges; 1 where one has no entry."""
    counts = [np.asarray(histogram, np.float64) for histogram in (reference, found)]
    if any(histogram.sum() == 0 for histogram in counts):
        return 1.0
    first, second = (np.cumsum(_fractions(histogram)) for histogram in counts)
    return float(np.max(np.abs(first - second)))


def merged_quantiles(points: Sequence[ArrayLike], weights: Sequence[float], bins: int) -> NDArray[np.float64]:
    """Return the inner edges, rising and distinct, of ``bins`` bins of about equal population.

    Parameters
    ----------
    points
        For each part of the data, evenly spaced quantiles of it.
    weights
        Number of values in each part.
    bins
        Number of bins; there are fewer where values repeat.
    """
    parts = [np.asarray(part, np.float64) for part in points]
    if not parts:
        return np.zeros(0)
    values = np.concatenate(parts)
    sizes = np.array([part.size for part in parts])
    shares = np.repeat(np.asarray(weights, np.float64) / sizes, sizes)
    order = np.argsort(values, kind="stable")
    cumulative = np.cumsum(shares[order])
    wanted = np.arange(1, bins) / bins * cumulative[-1]
    place = np.minimum(np.searchsorted(cumulative, wanted), values.size - 1)
    return np.unique(values[order][place])


def _fractions(counts: NDArray[np.float64]) -> NDArray[np.float64]:
    return counts / counts.sum()
