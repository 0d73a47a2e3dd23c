"""Schedules as pure functions of the step: the same step gives the same value on every rank and after a resume.

A step is the number of updates made before it: the first step of a training is 0, the last one ``steps - 1``.
"""

from __future__ import annotations

import math


def warmup_cosine(step: int, steps: int, peak: float, warmup: int = 0, floor: float = 0.0) -> float:
    """Return a rate that rises linearly for ``warmup`` steps and falls along half a cosine to ``floor``.

    The value is ``peak / warmup`` at step 0, ``peak`` at step ``warmup - 1`` and at step ``warmup``, and ``floor`` at
    step ``steps - 1``; before and after it stays at the ends (Loshchilov and Hutter 2017; Goyal et al. 2017).

    Parameters
    ----------
    step
        The step in question.
    steps
        Steps of the schedule, 1 or more.
    peak
        The largest rate.
    warmup
        Steps of the linear rise, less than ``steps``.
    floor
        Rate at the end.

    Raises
    ------
    ValueError
        If the numbers of steps do not fit together.
    """
    if steps < 1 or not 0 <= warmup < steps:
        raise ValueError(f"expected steps >= 1 and 0 <= warmup < steps. Received: steps={steps}, warmup={warmup}")
    step = min(max(step, 0), steps - 1)
    if step < warmup:
        return peak * (step + 1) / warmup
    progress = (step - warmup) / max(steps - 1 - warmup, 1)
    return floor + (peak - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def ramp(step: int, steps: int, first: float, last: float) -> float:
    """Return a value that goes linearly from ``first`` at step 0 to ``last`` at step ``steps - 1``, and stays there.

    Raises
    ------
    ValueError
        If ``steps`` is less than 1.
    """
    if steps < 1:
        raise ValueError(f"expected steps >= 1. Received: steps={steps}")
    if step >= steps - 1:
        return last
    return first + (last - first) * max(step, 0) / (steps - 1)


def averaging_momentum(step: int, ceiling: float) -> float:
    """Return the weight of the past in a moving average that starts as the plain average of all steps.

    The value is 0 at step 0, where there is no past, then ``step / (step + 1)`` until it reaches ``ceiling``: so the
    statistics are usable from the first step on and depend on no initial value.

    Raises
    ------
    ValueError
        If ``ceiling`` is not in [0, 1).
    """
    if not 0.0 <= ceiling < 1.0:
        raise ValueError(f"expected 0 <= ceiling < 1. Received: {ceiling}")
    return min(ceiling, max(step, 0) / (max(step, 0) + 1))


def halving(samples: int, start: float, every: int, floor: float = 0.0) -> float:
    """Return a rate that is halved each time ``every`` further samples have been seen, but not below ``floor``.

    The value is ``start`` up to sample ``every - 1`` and half of it from sample ``every`` on, a staircase: the
    published learning rate of UCluster is 1e-3, halved every 500,000 samples down to 1e-5.

    Parameters
    ----------
    samples
        Samples before the step in question, over all workers.
    start
        Rate at the beginning.
    every
        Samples of one stair, 1 or more.
    floor
        The smallest rate.

    Raises
    ------
    ValueError
        If ``every`` is less than 1.
    """
    return max(floor, start * 0.5 ** _stair(samples, every))


def halving_momentum(samples: int, every: int, ceiling: float) -> float:
    """Return the weight of the past in a moving average, whose distance from 1 is halved every ``every`` samples.

    The value is ``min(ceiling, 1 - 0.5 * 0.5 ** (samples // every))``: 0.5 at first, then 0.75, 0.875 and so on (the
    published averages of UCluster's batch normalisation, with 500,000 samples and 0.99).

    Raises
    ------
    ValueError
        If ``every`` is less than 1.
    """
    return min(ceiling, 1.0 - 0.5 * 0.5 ** _stair(samples, every))


def _stair(samples: int, every: int) -> int:
    if every < 1:
        raise ValueError(f"expected every >= 1. Received: every={every}")
    return max(samples, 0) // every


def scaled_rate(rate: float, workers: int, scale: bool) -> float:
    """Return the learning rate for ``workers`` times the batch: proportional to it where ``scale``, else unchanged."""
    return rate * workers if scale else rate
