"""Nearest centroids and sums over clusters, on all cores: the parts of the work do not depend on how many there are.

So neither do the results, to the bit.
"""

from __future__ import annotations

import contextlib
import importlib.util
import logging
import os
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray
from threadpoolctl import threadpool_limits

from sparton.errors import TrainingError
from sparton.sgd.coordinates import Coordinates

Array = NDArray[Any]

CACHE_BYTES = 400_000
"""Products that a core keeps while their minima are searched; the second-level cache of today's processors."""

AT_ONCE = 256
"""Centroids that a chunk of rows is multiplied with at once: few enough for long chunks."""

SMALLEST_CHUNK, LARGEST_CHUNK = 64, 1024
"""Rows whose products are computed at once."""

FEWEST_CHUNKS = 8
"""Chunks of a batch that is large enough for so many."""

SUMMED_ROWS = 16_384
"""Rows that are summed by one thread, in a copy of the sums of its own."""

MOST_PARTS = 16

THREADED_WORK = 4e6
"""Multiplications below which one thread is faster than handing work to others."""

logger = logging.getLogger(__name__)


def nearest(
    rows: Array,
    coordinates: Coordinates,
    centroids: NDArray[np.float64],
    precision: DTypeLike = np.float32,
    threads: int | None = None,
) -> NDArray[np.int32]:
    """Return the number of the nearest centroid of each row, int32 [n], the first one of several.

    Parameters
    ----------
    rows
        float32 or float64 [n, d], finite.
    coordinates
        What turns rows into points.
    centroids
        Points [k, d].
    precision
        Type in which distances are compared. What float32 cannot tell apart are centroids whose squared distances
        from a point differ by less than some 1e-7 of its squared distance from the origin.
    threads
        How many to use; None takes as many as there are cores for this process.

    Raises
    ------
    TrainingError
        If squared norms of the centroids are beyond the precision's range.
    """
    dtype = np.dtype(precision)
    rounded, half = halved(centroids, dtype)
    n, k = len(rows), len(rounded)
    chunk = chunk_rows(n, k, dtype)
    label = np.empty(n, np.int32)
    kernel = _implementation().nearest
    values = (
        rows,
        coordinates.origin.astype(dtype),
        coordinates.factor.astype(dtype),
        rounded,
        half,
        chunk,
        AT_ONCE,
        label,
    )
    # A part ends where a chunk does, so each row has the same neighbours in its chunk whatever the number of threads.
    limits = part_limits(-(-n // chunk), workers(threads, n * k * coordinates.dimensions)) * chunk
    limits[-1] = n
    each_part(limits, lambda low, high, _: kernel(low, high, *values), len(limits) - 1)
    return label


def accumulate(
    rows: Array,
    weight: Array,
    label: NDArray[np.int32],
    coordinates: Coordinates,
    centroids: NDArray[np.float64],
    threads: int | None = None,
) -> tuple[NDArray[np.float64], NDArray[np.float64], float]:
    """Return sums over the rows of each cluster, in float64.

    Parameters
    ----------
    rows, weight
        float32 or float64 [n, d] and [n]; rows of weight 0 add nothing.
    label
        Cluster of each row, int32 [n].
    coordinates, centroids, threads
        As for :func:`nearest`.

    Returns
    -------
    residuals
        float64 [k, d]: weighted sums of the points' differences from the centroid of their cluster.
    counts
        float64 [k]: sums of the weights.
    inertia
        Weighted sum of the squared distances.
    """
    shape = centroids.shape
    limits = part_limits(len(rows), min(MOST_PARTS, -(-len(rows) // SUMMED_ROWS)))
    parts = len(limits) - 1
    residuals, counts, inertia = np.zeros((parts, *shape)), np.zeros((parts, shape[0])), np.zeros((parts, 1))
    kernel = _implementation().accumulate
    values = (rows, weight, label, coordinates.origin, coordinates.factor, np.ascontiguousarray(centroids))

    def run(low: int, high: int, part: int) -> None:
        kernel(low, high, *values, residuals[part], counts[part], inertia[part])

    each_part(limits, run, workers(threads, len(rows) * shape[1] * 16))
    if parts == 1:
        return residuals[0], counts[0], float(inertia[0, 0])
    return residuals.sum(axis=0), counts.sum(axis=0), float(inertia.sum())


def warm_up(precision: DTypeLike = np.float32) -> None:
    """Load what computes on float32 rows; libraries and compiled loops take a second, in which others can work.

    ``precision`` is as of :func:`nearest`.
    """
    rows, coordinates, centroids = np.zeros((1, 1), np.float32), Coordinates.of([0.0], None), np.zeros((1, 1))
    label = nearest(rows, coordinates, centroids, precision)
    accumulate(rows, np.ones(1, np.float32), label, coordinates, centroids)


def halved(centroids: NDArray[np.float64], precision: DTypeLike) -> tuple[Array, Array]:
    """Return centroids in a precision, [k, d], and their halved squared norms [k]: what products are compared with.

    Raises
    ------
    TrainingError
        If the norms are beyond the precision's range.
    """
    dtype = np.dtype(precision)
    rounded = np.ascontiguousarray(centroids, dtype)
    with np.errstate(over="ignore"):
        exact = rounded.astype(np.float64)
        half = (0.5 * np.einsum("kd,kd->k", exact, exact)).astype(dtype)
    if not np.isfinite(half).all():
        raise TrainingError(
            f"squared distances of the centroids exceed {dtype.name}; standardise the features (cluster.scaling: "
            "standard) or set cluster.precision: float64"
        )
    return rounded, half


def chunk_rows(n: int, k: int, dtype: DTypeLike) -> int:
    """Return of how many of ``n`` rows products with ``k`` centroids, or :data:`AT_ONCE` of them, are computed at once.

    They fit the cache, and there are chunks enough to share among some threads.
    """
    fitting = min(CACHE_BYTES // (min(k, AT_ONCE) * np.dtype(dtype).itemsize), -(-n // FEWEST_CHUNKS))
    return int(np.clip(fitting - fitting % SMALLEST_CHUNK, SMALLEST_CHUNK, LARGEST_CHUNK))


class _OwnThreads:
    """The limit on BLAS's threads, which is one for the process: held from the first who asks to the last who ends."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._holders = 0
        self._limit = contextlib.ExitStack()

    def enter(self) -> None:
        with self._lock:
            if not self._holders:
                _implementation()  # loads the library that is to be limited
                self._limit.enter_context(threadpool_limits(1, "blas"))
            self._holders += 1

    def leave(self) -> None:
        with self._lock:
            self._holders -= 1
            if not self._holders:
                self._limit.close()


_OWN_THREADS = _OwnThreads()


@contextlib.contextmanager
def own_threads() -> Iterator[None]:
    """Keep matrix products to the thread that asks for them: this module has threads of its own.

    Trainings in several threads of a process may overlap.
    """
    _OWN_THREADS.enter()
    try:
        yield
    finally:
        _OWN_THREADS.leave()


def n_threads() -> int:
    """Return the threads that this process was given: TensorFlow's, else OpenMP's, else the cores that it may use."""
    loaded = sys.modules.get("tensorflow")
    chosen = loaded.config.threading.get_intra_op_parallelism_threads() if loaded is not None else 0
    given = os.environ.get("OMP_NUM_THREADS", "")
    return chosen or (int(given) if given.isdecimal() and int(given) else len(os.sched_getaffinity(0)))


@cache
def _implementation() -> ModuleType:
    if importlib.util.find_spec("numba") is None:
        logger.info("without numba clustering is several times slower; install it to change that")
        from sparton.sgd import portable

        return portable
    from sparton.sgd import kernels

    return kernels


def workers(threads: int | None, work: float) -> int:
    """Return how many threads to use for so many multiplications."""
    if work < THREADED_WORK:
        return 1
    return n_threads() if threads is None else threads


def part_limits(size: int, parts: int) -> NDArray[np.int64]:
    """Return the limits of at most ``parts`` parts, at least one, of ``size`` things."""
    parts = max(1, min(parts, size))
    return np.arange(parts + 1, dtype=np.int64) * size // parts


def each_part(limits: NDArray[np.int64], run: Callable[[int, int, int], None], threads: int) -> None:
    """Call ``run(low, high, part)`` for each part that is not empty, on so many threads."""
    bounds = limits.tolist()
    threads = min(threads, len(bounds) - 1)

    def some(first: int) -> None:
        for part in range(first, len(bounds) - 1, threads):
            if bounds[part] < bounds[part + 1]:
                run(bounds[part], bounds[part + 1], part)

    others = [_pool(threads).submit(some, first) for first in range(1, threads)]
    some(0)
    for other in others:
        other.result()


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="sparton-sgd")
