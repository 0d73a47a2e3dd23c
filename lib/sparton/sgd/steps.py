"""Step sizes that follow from the number of the step alone."""

from __future__ import annotations

from sparton.sgd.settings import DescentSettings


def rate(settings: DescentSettings, step: int) -> float:
    """Return the step size of step t, for steps other than ``counts``: constant, or eta / (1 + t / t_0) ** p."""
    if settings.step == "constant":
        return settings.step_size
    return float(settings.step_size / (1 + step / settings.step_delay) ** settings.step_power)
