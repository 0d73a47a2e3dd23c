"""What closing tables and reports say of the time of a training."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from sparton.distributed.times import Times
from sparton.pipeline.progress import format_value


def time_figures(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return lines for a summary: time of a worker, of all, and where it went.

    Parameters
    ----------
    figures
        Those of :meth:`WorkerTimes.figures`, which a bundle's ``metrics.json`` has too.
    """
    shares = Times(**{part.name: figures[f"{part.name}_share"] for part in fields(Times)})
    return {
        "training time of a worker (s)": round(figures["mean_training_s"], 1),
        "training time of all workers (s)": round(figures["worker_s"], 1),
        "efficiency (share of the steps outside the exchange)": round(figures["efficiency_outside_exchange"], 3),
        "time split": shares.described(),
    }


def recorded_figures(metrics: Mapping[str, Any]) -> dict[str, str]:
    """Return the same lines and the number of workers from a bundle's ``metrics.json``; none where it has no times."""
    if "worker_s" not in metrics:
        return {}
    lines = {"workers": metrics["workers"]} | time_figures(metrics)
    return {name: format_value(value) for name, value in lines.items()}
