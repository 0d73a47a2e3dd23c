"""The training curve: one row an epoch, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class CurveRow:
    """One epoch.

    Inertia is the mean squared distance from the nearest centroid, over the epoch's batches and smoothed at its end;
    the move is the largest of a centroid in a step; the smallest cluster is a share of what the centroids stand for.
    """

    epoch: int
    step: int
    train_inertia: float
    smoothed_inertia: float
    largest_move: float
    smallest_cluster: float
    reseeded: int
    rows_per_second: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return asdict(self)

    def line(self, epochs: int) -> str:
        """Return what the log says of the epoch."""
        reseeded = f", {self.reseeded} re-seeded" if self.reseeded else ""
        return (
            f"epoch {self.epoch}/{epochs}: inertia {self.train_inertia:.6g}, largest move {self.largest_move:.3g}, "
            f"smallest cluster {self.smallest_cluster:.4f}{reseeded}, {self.rows_per_second:.0f} rows/s"
        )


def to_csv(rows: Sequence[CurveRow]) -> str:
    """Return the rows as CSV text with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(CurveRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.to_json() for row in rows)
    return text.getvalue()
