"""The training curve: one row an epoch, as CSV."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True)
class CurveRow:
    """One epoch; losses are means over jets, empty in the CSV where there was nothing to compute them on.

    ``jets_per_second`` and ``seconds`` leave out the first step of each process, which is traced, and checkpoints.
    ``skipped`` counts the epoch's steps whose gradients overflowed, ``loss_scale`` is the factor after them; both are
    None where no gradient is float16.
    """

    epoch: int
    phase: str
    step: int
    train_focal: float
    train_clustering: float | None
    val_focal: float | None
    val_clustering: float | None
    alpha: float | None
    learning_rate: float
    smallest_cluster: float | None
    distance_ratio: float | None
    changed: float | None
    jets_per_second: float | None
    seconds: float
    loss_scale: float | None
    skipped: int | None

    def to_json(self) -> dict[str, Any]:
        """Return the row as plain values."""
        return asdict(self)


def mean_speed(rows: list[CurveRow]) -> float | None:
    """Return the jets per second of all epochs together; None where no step has been timed."""
    seconds = sum(row.seconds for row in rows)
    jets = sum((row.jets_per_second or 0.0) * row.seconds for row in rows)
    return round(jets / seconds, 1) if seconds else None


def to_csv(rows: list[CurveRow]) -> str:
    """Return the rows as CSV text with a header."""
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(CurveRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.to_json() for row in rows)
    return text.getvalue()
