"""What the closing table says of the time of a training."""

from __future__ import annotations

from typing import Any

from sparton.distributed.times import WorkerTimes


def time_figures(times: WorkerTimes) -> dict[str, Any]:
    """Return lines for a summary: time of a worker, of all, and where it went."""
    return {
        "training time of a worker (s)": round(times.mean.total, 1),
        "training time of all workers (s)": round(times.worker_time, 1),
        "efficiency (share outside the exchange)": round(times.efficiency, 3),
        "time split": times.mean.described(),
    }
