"""What a step reads."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray


class Batch(NamedTuple):
    """Rows of one rank in one step; those of weight 0 are padding.

    ``rows`` is float32 or float64 [B, d], ``weight`` float32 or float64 [B], ``ids`` int64 [B] and unique but for the
    padding.
    """

    rows: NDArray[Any]
    weight: NDArray[Any]
    ids: NDArray[Any]

    @classmethod
    def nothing(cls, width: int) -> Batch:
        """Return a batch without rows of ``width`` features."""
        return cls(np.zeros((0, width), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
