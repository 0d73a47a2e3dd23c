"""From the rows of a table to the points that are clustered, and back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray


@dataclass(frozen=True)
class Coordinates:
    """The point of a row x is ``(x - origin) * factor``.

    Taking away a common origin keeps squared distances from cancelling: ``|x|^2 - 2 c.x + |c|^2`` of rows that lie far
    from zero has no digits left in float32.

    Attributes
    ----------
    origin, factor
        float64 [d]; numbers that float32 holds exactly, so that both precisions see the same points.
    """

    origin: NDArray[np.float64]
    factor: NDArray[np.float64]

    @classmethod
    def of(cls, mean: Sequence[float], std: Sequence[float] | None = None) -> Coordinates:
        """Return coordinates that are centred and, where deviations are given, divided by them."""
        factor = np.ones(len(mean)) if std is None else 1 / np.asarray(std, np.float64)
        return cls(_rounded(mean), _rounded(factor))

    @property
    def dimensions(self) -> int:
        """Number of coordinates, d."""
        return len(self.origin)

    def points(self, rows: ArrayLike) -> NDArray[np.float64]:
        """Return the points float64 [n, d] of rows [n, d]."""
        return (np.asarray(rows, np.float64) - self.origin) * self.factor

    def rows(self, points: ArrayLike) -> NDArray[np.float64]:
        """Return the rows float64 [n, d] of points [n, d]."""
        return np.asarray(points, np.float64) / self.factor + self.origin


def _rounded(values: Any) -> NDArray[np.float64]:
    return np.asarray(values, np.float32).astype(np.float64)
