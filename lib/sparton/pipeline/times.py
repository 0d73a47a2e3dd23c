"""What closing tables and reports say of the time of a training."""

from __future__ import annotations

from typing import Any

from sparton.distributed.times import Times, WorkerTimes
from sparton.pipeline.progress import format_value


def time_figures(times: WorkerTimes) -> dict[str, Any]:
    """Return lines for a summary: time of a worker, of all, and where it went."""
    return {
        "training time of a worker (s)": round(times.mean.total, 1),
        "training time of all workers (s)": round(times.worker_time, 1),
        "efficiency (share of the steps outside the exchange)": round(times.efficiency, 3),
        "time split": times.mean.described(),
    }


def recorded_figures(metrics: dict[str, Any]) -> dict[str, str]:
    """Return the same lines and the number of workers from a bundle's ``metrics.json``; none where it has no times."""
    if "worker_s" not in metrics:
        return {}
    mean = metrics["mean_training_s"]
    parts = Times(**{name: metrics[f"{name}_share"] * mean for name in ("input", "compute", "exchange", "other")})
    times = WorkerTimes(metrics["workers"], parts)
    return {"workers": str(times.workers)} | {name: format_value(value) for name, value in time_figures(times).items()}
