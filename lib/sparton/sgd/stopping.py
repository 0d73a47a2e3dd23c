"""When a training has come to rest, told from smoothed figures of its steps."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from sparton.sgd.method import Figures


@dataclass(frozen=True)
class Rule:
    """What ends a training before its last epoch.

    Attributes
    ----------
    weight
        Of a new figure in the exponentially weighted averages, in (0, 1]; 2 B / (n + 1) for batches of B out of n rows
        averages over about one epoch, as scikit-learn's MiniBatchKMeans does.
    patience
        Steps without a lower average objective that are waited for; None waits for ever.
    tolerance
        Average squared move below which the centroids are at rest; 0 never says so.
    """

    weight: float
    patience: int | None
    tolerance: float


@dataclass
class Averages:
    """What is remembered from step to step.

    The averages are None before the first step; ``idle`` is negative while an average has just begun.
    """

    objective: float | None = None
    shift: float | None = None
    lowest: float | None = None
    idle: int = 0

    def observe(self, figures: Figures, rule: Rule) -> bool:
        """Take a step's figures, which are equal on all ranks; return whether to end.

        A step without rows says nothing. One step alone never ends a training.
        """
        if figures.weight <= 0:
            return False
        first = self.objective is None
        self.objective = _averaged(self.objective, figures.objective / figures.weight, rule.weight)
        self.shift = _averaged(self.shift, figures.shift, rule.weight)
        begun = self.idle < 0
        improved = begun or self.lowest is None or self.objective < self.lowest
        self.lowest = self.objective if improved else self.lowest
        self.idle = 0 if improved and not begun else self.idle + 1
        if first:
            return False
        return (rule.patience is not None and self.idle >= rule.patience) or self.shift < rule.tolerance

    def restart(self, rule: Rule) -> None:
        """Begin anew after centroids were put elsewhere or left out; patience waits until the average is one again."""
        self.objective, self.lowest, self.idle = None, None, -math.ceil(1 / rule.weight)

    def to_json(self) -> dict[str, Any]:
        """Return the averages as plain values."""
        return asdict(self)


def _averaged(before: float | None, value: float, weight: float) -> float:
    return value if before is None else before + weight * (value - before)
