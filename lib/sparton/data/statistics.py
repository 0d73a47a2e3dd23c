"""Mean and deviation from sums that add up over batches, shards and machines without cancellation."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

CONSTANT_TOLERANCE = 1e-7
"""Deviations below this fraction of the mean's size are rounding of float32 values: the feature is constant."""

CONSTANT_TOLERANCE_64 = 1e-14
"""The same of float64 values."""

BLOCK_VALUES = 1 << 16
"""Values that are looked at together: they stay in the processor's cache."""


@dataclass(frozen=True)
class Moments:
    """Number of rows (or the sum of their weights), mean and sum of squared deviations from it, float64[F] each."""

    count: float
    mean: NDArray[np.float64]
    squares: NDArray[np.float64]

    @classmethod
    def of(cls, values: ArrayLike, weight: ArrayLike | None = None) -> Moments:
        """Return the moments of ``values`` [n, F]; ``weight`` [n] from 0, one for each where None."""
        rows = np.asarray(values)
        step = max(BLOCK_VALUES // max(rows.shape[1], 1), 1)
        blocks = (slice(start, start + step) for start in range(0, len(rows), step))
        parts = (cls._of_block(rows[block], None if weight is None else np.asarray(weight)[block]) for block in blocks)
        return merge_all(parts, rows.shape[1])

    @classmethod
    def _of_block(cls, values: NDArray[Any], weight: NDArray[Any] | None) -> Moments:
        """Return the moments in two passes."""
        rows = values.astype(np.float64)
        if weight is not None:
            return cls._weighted(rows, weight.astype(np.float64))
        mean = rows.mean(axis=0)
        deviations = rows - mean
        correction = deviations.mean(axis=0)
        return cls(len(rows), mean + correction, np.einsum("nf,nf->f", deviations, deviations))

    @classmethod
    def _weighted(cls, rows: NDArray[np.float64], weight: NDArray[np.float64]) -> Moments:
        rows, weight = rows[weight > 0], weight[weight > 0]  # what weighs nothing must not move the origin either
        total = float(weight.sum())
        if not total:
            return cls(0, np.zeros(rows.shape[1]), np.zeros(rows.shape[1]))
        mean = weight @ rows / total
        deviations = rows - mean
        correction = weight @ deviations / total
        return cls(total, mean + correction, np.einsum("n,nf,nf->f", weight, deviations, deviations))

    def merge(self, other: Moments) -> Moments:
        """Return the moments of both (Chan, Golub, LeVeque 1979); depends on the order by rounding alone."""
        count = self.count + other.count
        if not self.count or not other.count:
            return self if self.count else other
        shift = other.mean - self.mean
        mean = self.mean + shift * (other.count / count)
        squares = self.squares + other.squares + shift**2 * (self.count * other.count / count)
        return Moments(count, mean, squares)

    def std(self, tolerance: float = CONSTANT_TOLERANCE) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return the deviation of each feature, 1 where it is constant, and which ones are, bool[F].

        ``tolerance`` is the rounding of the values, as a fraction of their size.
        """
        found = np.sqrt(self.squares / (self.count or 1))
        constant = found <= tolerance * np.abs(self.mean)
        return np.where(constant, 1.0, found), constant

    def to_bytes(self) -> bytes:
        """Return the moments as bytes that :meth:`from_bytes` reads back exactly."""
        return np.concatenate([[float(self.count)], self.mean, self.squares]).astype("<f8").tobytes()

    @classmethod
    def from_bytes(cls, content: bytes) -> Moments:
        """Return the moments that :meth:`to_bytes` wrote."""
        values = np.frombuffer(content, "<f8")
        mean, squares = np.split(values[1:], 2)
        return cls(float(values[0]), mean, squares)


def merge_all(parts: Iterable[Moments], n_features: int) -> Moments:
    """Return the moments of all parts, merged in their order."""
    total = Moments(0, np.zeros(n_features), np.zeros(n_features))
    for part in parts:
        total = total.merge(part)
    return total
