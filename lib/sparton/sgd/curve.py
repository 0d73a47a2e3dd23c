"""The training curve: one row an epoch, as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from sparton.sgd.method import Words


@dataclass(frozen=True)
class CurveRow:
    """One epoch.

    The objective, which each method calls by a name of its own, is a mean over rows: over the epoch's batches, and
    smoothed at its end (where something was mended in its last step the average begins anew: that of the epoch stands
    for it). The move is the largest of a centroid in a step; the smallest cluster is a share of what the
    centroids stand for; mended are the centroids that were put elsewhere or left out.
    """

    epoch: int
    step: int
    train_objective: float
    smoothed_objective: float
    largest_move: float
    smallest_cluster: float
    mended: int
    rows_per_second: float
    seconds: float

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return asdict(self)

    def named(self, words: Words) -> dict[str, Any]:
        """Return the row as plain values, by the method's words."""
        names = {f"{kind}_objective": f"{kind}_{words.objective}" for kind in ("train", "smoothed")}
        names["mended"] = words.mended
        return {names.get(name, name): value for name, value in asdict(self).items()}

    def line(self, epochs: int, words: Words) -> str:
        """Return what the log says of the epoch."""
        mended = f", {self.mended} {words.mended}" if self.mended else ""
        return (
            f"epoch {self.epoch}/{epochs}: {words.objective} {self.train_objective:.6g}, largest move "
            f"{self.largest_move:.3g}, smallest cluster {self.smallest_cluster:.4f}{mended}, "
            f"{self.rows_per_second:.0f} rows/s"
        )


def mean_speed(rows: Sequence[CurveRow]) -> float:
    """Return the rows per second of all epochs together; 0 where they took no time."""
    seconds = sum(row.seconds for row in rows)
    done = sum(row.rows_per_second * row.seconds for row in rows)
    return round(done / seconds, 1) if seconds else 0.0


def to_csv(rows: Sequence[CurveRow], words: Words) -> str:
    """Return the rows, at least one, as CSV text with a header."""
    text = io.StringIO()
    named = [row.named(words) for row in rows]
    writer = csv.DictWriter(text, list(named[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(named)
    return text.getvalue()
