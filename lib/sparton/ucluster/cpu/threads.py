"""Kernels on all cores: work is cut into parts whose number does not depend on the cores, so neither do the sums."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

Array = NDArray[Any]

PARTS = 16
"""Parts of each sum; at most as many cores are used."""


def n_threads() -> int:
    """Return the threads that TensorFlow was given for one operation, or the cores that this process may use."""
    return min(PARTS, tf.config.threading.get_intra_op_parallelism_threads() or len(os.sched_getaffinity(0)))


def bounds(size: int) -> list[int]:
    """Return the limits of :data:`PARTS` parts of ``size`` rows."""
    return [size * part // PARTS for part in range(PARTS + 1)]


def each_part(limits: list[int], kernel: Callable[..., None], *arguments: Any, sums: tuple[Array, ...] = ()) -> None:
    """Call ``kernel(low, high, *arguments, *sums)`` for each part.

    Parameters
    ----------
    limits
        Of the parts, as from :func:`bounds`.
    kernel
        Releases the lock of the interpreter.
    arguments
        Of the kernel.
    sums
        Arrays to which the kernel adds: each part gets its own, and they are summed in the order of the parts.
    """
    threads = n_threads()
    partial = [np.zeros((PARTS, *array.shape), array.dtype) for array in sums]

    def some(first: int) -> None:
        for part in range(first, PARTS, threads):
            if limits[part] < limits[part + 1]:
                kernel(limits[part], limits[part + 1], *arguments, *(array[part] for array in partial))

    others = [_pool(threads).submit(some, first) for first in range(1, threads)]
    some(0)
    for other in others:
        other.result()
    for array, parts in zip(sums, partial, strict=True):
        np.sum(parts, axis=0, out=array)


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max(1, threads - 1), thread_name_prefix="sparton-kernel")
