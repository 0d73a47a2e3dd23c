"""What is kept and said of an epoch."""

from __future__ import annotations

import math
from collections.abc import Iterable

from sparton.ucluster.curve import CurveRow
from sparton.ucluster.monitor import Observation
from sparton.ucluster.progress import Progress
from sparton.ucluster.step import Schedule

PRETRAIN, JOINT = "pretrain", "joint"


def epoch_row(
    epoch: int,
    joint: bool,
    progress: Progress,
    observed: Observation | None,
    schedule: Schedule,
    loss_scale: float | None,
) -> CurveRow:
    """Return the epoch's row, all its steps being made; before the centroids exist there is no word of clusters."""
    means, speed = progress.means(), progress.speed()

    def seen(name: str) -> float | None:
        value = None if observed is None else getattr(observed, name)
        return value if value is not None and math.isfinite(value) else None

    return CurveRow(
        epoch=epoch + 1,
        phase=JOINT if joint else PRETRAIN,
        step=progress.steps,
        train_focal=means.focal,
        train_clustering=means.clustering if joint else None,
        val_focal=seen("focal"),
        val_clustering=seen("clustering") if joint else None,
        alpha=schedule.alpha if joint else None,
        learning_rate=schedule.learning_rate,
        smallest_cluster=seen("smallest_cluster") if joint else None,
        distance_ratio=seen("distance_ratio") if joint else None,
        changed=seen("changed") if joint else None,
        jets_per_second=None if speed is None else round(speed, 1),
        seconds=round(progress.seconds, 3),
        loss_scale=loss_scale,
        skipped=None if loss_scale is None else int(means.skipped),
    )


def epoch_line(row: CurveRow, epochs: int) -> str:
    """Return what the log says of an epoch."""
    parts: Iterable[tuple[str, float | None]] = (
        ("focal", row.train_focal),
        ("val focal", row.val_focal),
        ("clustering", row.train_clustering),
        ("changed", row.changed),
        ("smallest cluster", row.smallest_cluster),
    )
    figures = ", ".join(f"{name} {value:.4f}" for name, value in parts if value is not None)
    speed = "" if row.jets_per_second is None else f", {row.jets_per_second:.0f} jets/s"
    scaling = f", {row.skipped} steps skipped, loss scale {row.loss_scale:g}" if row.skipped else ""
    return f"epoch {row.epoch}/{epochs} {row.phase}: {figures}{speed}{scaling}"
