"""Schedules as pure functions of the step: the same step gives the same value on every rank and after a resume.

A step is the number of updates made before it: the first step of a training is 0, the last one ``steps - 1``.
"""

from __future__ import annotations

import math
from typing import Literal

WarmupShape = Literal["linear", "exponential", "quadratic", "root", "cosine", "constant"]


def warmup(share: float, first: float, last: float, shape: WarmupShape = "linear") -> float:
    """Return the rate at a share ``s`` of a warm-up from ``first`` to ``last``.

    ``linear`` is Goyal et al. (2017), and Horovod's callback with ``last = N first``; ``exponential`` grows by equal
    factors; ``quadratic`` and ``root`` follow s^2 and s^(1/2); ``cosine`` has no kink at either end; ``constant`` stays
    at ``first`` until the end. With ``first`` the rate of one worker and ``last`` that of N these are the warm-ups of
    algorithms.md a.1.

    Parameters
    ----------
    share
        s in [0, 1]; the value at 1 is ``last`` for every shape.
    first, last
        Rates at the ends; ``exponential`` needs a positive ``first``.
    shape
        How the rate goes from one to the other.

    Raises
    ------
    ValueError
        If the share is not in [0, 1], or an exponential starts from 0.
    """
    if not 0.0 <= share <= 1.0:
        raise ValueError(f"expected a share in [0, 1]. Received: {share}")
    if share == 1.0:
        return last
    if shape == "exponential":
        if first <= 0:
            raise ValueError(f"an exponential warm-up needs a positive first rate. Received: {first}")
        return first * (last / first) ** share
    progress = {
        "linear": share,
        "quadratic": share**2,
        "root": math.sqrt(share),
        "cosine": 0.5 * (1.0 - math.cos(math.pi * share)),
        "constant": 0.0,
    }[shape]
    return first + (last - first) * progress


def warmup_cosine(
    step: int,
    steps: int,
    peak: float,
    warmup_steps: int = 0,
    floor: float = 0.0,
    first: float = 0.0,
    shape: WarmupShape = "linear",
) -> float:
    """Return a rate that rises for ``warmup_steps`` steps and falls along half a cosine to ``floor``.

    In step t of the rise it is that of :func:`warmup` at ``(t + 1) / warmup_steps``, so ``peak`` at step
    ``warmup_steps - 1``; it is ``peak`` at the next step too, and ``floor`` at step ``steps - 1``; before and after it
    stays at the ends (Loshchilov and Hutter 2017; Goyal et al. 2017).

    Parameters
    ----------
    step
        The step in question.
    steps
        Steps of the schedule, 1 or more.
    peak
        The largest rate.
    warmup_steps
        Steps of the rise, less than ``steps``.
    floor
        Rate at the end.
    first, shape
        Where the rise starts from, and how it goes.

    Raises
    ------
    ValueError
        If the numbers of steps do not fit together.
    """
    if steps < 1 or not 0 <= warmup_steps < steps:
        raise ValueError(
            f"expected steps >= 1 and 0 <= warmup_steps < steps. Received: steps={steps}, warmup_steps={warmup_steps}"
        )
    step = min(max(step, 0), steps - 1)
    if step < warmup_steps:
        return warmup((step + 1) / warmup_steps, first, peak, shape)
    progress = (step - warmup_steps) / max(steps - 1 - warmup_steps, 1)
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
