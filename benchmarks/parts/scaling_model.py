"""How efficiency falls with the number of workers: a model of one training step, in closed form.

All workers compute, then exchange; nothing overlaps. A step of N workers takes

    t_N = t + σ m_N + Σ_i T(N, n_i)

with t what a worker computes, σ the spread of that from step to step, m_N the mean of the largest of N standard normal
numbers (each step waits for its slowest worker), and T what a collective of n_i bytes takes. Efficiency is t_1 / t_N.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import numpy as np
from scipy.integrate import simpson
from scipy.special import log_ndtr

Algorithm = Literal["ring", "tree", "gather"]
"""How a sum over N ranks is taken: in 2 (N - 1), 2 log2 N or log2 N messages one after the other."""

STEP = 2.0**-10
GRID = np.arange(-12 * 2**10, 12 * 2**10 + 1) * STEP


@dataclass(frozen=True)
class Link:
    """What carries a collective.

    Attributes
    ----------
    latency_s
        Seconds of an empty message from one rank to the next.
    bytes_per_second
        What a rank sends while it receives as much.
    overhead_s
        Seconds that a collective takes whatever the number of ranks: to be noticed, agreed on, begun and ended.
    """

    latency_s: float
    bytes_per_second: float
    overhead_s: float = 0.0


@dataclass(frozen=True)
class Workload:
    """One step of a worker.

    Attributes
    ----------
    alone_s
        Seconds of the step of one worker that has its host for itself: what efficiency refers to.
    collectives
        Bytes of each collective of a step.
    shared_s
        Seconds of computing where other workers share the host; those of one that is alone by default.
    spread_s
        Standard deviation of the computing from step to step.
    """

    alone_s: float
    collectives: tuple[float, ...]
    shared_s: float | None = None
    spread_s: float = 0.0

    @property
    def compute_s(self) -> float:
        """Seconds of computing of one among several workers."""
        return self.alone_s if self.shared_s is None else self.shared_s


@dataclass(frozen=True)
class Fit:
    """A line through measured times: ``seconds = intercept_s + seconds_per_byte * size``.

    ``worst`` is the largest relative distance of a measured time from it.
    """

    intercept_s: float
    seconds_per_byte: float
    worst: float


def messages(workers: int, algorithm: Algorithm) -> int:
    """Return how many messages follow each other in a sum over so many ranks.

    ``ring``: each rank passes parts on to the next, N - 1 times to sum them and N - 1 times to spread the sums.
    ``tree``: recursive halving and doubling (Rabenseifner 2004), ranks that are no power of two rounded up.
    ``gather``: each rank gets the vectors of all (Bruck et al. 1997), as :mod:`sparton.distributed.direct` does.
    """
    if algorithm == "ring":
        return 2 * (workers - 1)
    return (2 if algorithm == "tree" else 1) * (workers - 1).bit_length()


def allreduce_seconds(size: float, workers: int, link: Link, algorithm: Algorithm = "ring") -> float:
    """Return the seconds of a sum of ``size`` bytes over all workers; 0 for one.

    ``ring`` and ``tree`` move ``2 (N - 1) / N`` times the bytes through each rank, the least that is possible;
    ``gather`` moves N - 1 times the bytes.

    Raises
    ------
    ValueError
        If there is no worker.
    """
    if workers < 1:
        raise ValueError(f"expected 1 worker or more. Received: {workers}")
    if workers == 1:
        return 0.0
    moved = (workers - 1) * size if algorithm == "gather" else 2.0 * (workers - 1) / workers * size
    return link.overhead_s + messages(workers, algorithm) * link.latency_s + moved / link.bytes_per_second


@dataclass(frozen=True)
class Exchange:
    """How the vectors of a step are summed.

    Attributes
    ----------
    link, algorithm
        What carries the sums, and how.
    limit
        Bytes that the vectors of all workers together may have for it.
    beyond
        How larger ones are summed.
    """

    link: Link
    algorithm: Algorithm = "ring"
    limit: float = math.inf
    beyond: Exchange | None = None

    def seconds(self, size: float, workers: int) -> float:
        """Return the seconds of a sum of ``size`` bytes over all workers."""
        if self.beyond is not None and size * workers > self.limit:
            return self.beyond.seconds(size, workers)
        return allreduce_seconds(size, workers, self.link, self.algorithm)


@lru_cache
def expected_maximum(workers: int) -> float:
    """Return the mean of the largest of N standard normal numbers, ``∫ x d(Φ(x)^N)``."""
    distribution = np.exp(workers * log_ndtr(GRID))
    # The mean by parts, E = ∫_0^∞ (1 - F) dx - ∫_-∞^0 F dx; the kink at 0 lies on the grid.
    above, below = distribution[GRID >= 0], distribution[GRID <= 0]
    return float(simpson(1.0 - above, dx=STEP) - simpson(below, dx=STEP))


def step_seconds(workload: Workload, workers: int, exchange: Exchange) -> float:
    """Return the seconds of a step of N workers."""
    if workers == 1:
        return workload.alone_s
    waiting = workload.spread_s * expected_maximum(workers)
    return workload.compute_s + waiting + sum(exchange.seconds(size, workers) for size in workload.collectives)


def efficiency(workload: Workload, workers: int, exchange: Exchange) -> float:
    """Return throughput of N workers over N times that of one, all with the same batch for each worker."""
    return workload.alone_s / step_seconds(workload, workers, exchange)


def bandwidth_for(target: float, step_s: float, size: float, workers: int) -> float:
    """Return the bytes/s at which one collective of ``size`` bytes in each step leaves this efficiency, and no less.

    Latency, overhead and spread are 0: it is the least bandwidth without overlap.

    Raises
    ------
    ValueError
        If the efficiency is not between 0 and 1.
    """
    if not 0.0 < target < 1.0:
        raise ValueError(f"expected an efficiency between 0 and 1. Received: {target}")
    return 2.0 * (workers - 1) / workers * size / (step_s * (1.0 / target - 1.0))


def fit_line(sizes: Sequence[float], seconds: Sequence[float]) -> Fit:
    """Return the line with the least relative squares, so that small messages count as much as large ones.

    Raises
    ------
    ValueError
        If there are fewer than two sizes, or a time is not positive.
    """
    x, y = np.asarray(sizes, float), np.asarray(seconds, float)
    if np.unique(x).size < 2 or x.shape != y.shape or y.min() <= 0:
        raise ValueError(f"expected positive times of two sizes or more. Received: {sizes}, {seconds}")
    unit = x.max()
    matrix = np.stack([1.0 / y, x / unit / y], axis=1)
    intercept, slope = np.linalg.lstsq(matrix, np.ones_like(y), rcond=None)[0] / (1.0, unit)
    return Fit(float(intercept), float(slope), float(np.abs((intercept + slope * x) / y - 1.0).max()))


def link_of(fit: Fit, hop_s: float, algorithm: Algorithm = "ring") -> Link:
    """Return the link on which two workers were measured.

    Parameters
    ----------
    fit
        Of sums over two ranks, for which as many bytes pass through each rank as the vector has.
    hop_s
        Measured seconds of an empty message from one rank to the other. What is left of the intercept is overhead.
    algorithm
        How they were summed.
    """
    count = messages(2, algorithm)
    hop = min(hop_s, fit.intercept_s / count)
    return Link(latency_s=hop, bytes_per_second=1.0 / fit.seconds_per_byte, overhead_s=fit.intercept_s - count * hop)


def spread(turns: Sequence[Sequence[float]]) -> float:
    """Return the standard deviation of step times around the mean of their turn, s."""
    residuals = np.concatenate([np.asarray(turn) - np.mean(turn) for turn in turns])
    freedom = residuals.size - len(turns)
    if freedom < 1:
        raise ValueError("expected a turn with two steps or more")
    return float(np.sqrt(np.square(residuals).sum() / freedom))
