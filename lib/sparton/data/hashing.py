"""Seeded 64-bit hashes and permutations in plain integer arithmetic.

The same numbers come out of every version of NumPy and Spark and on every machine, so that splits, shards and plans
never depend on where they were computed. The mixer is the finaliser of SplitMix64 (Steele, Lea, Flood, OOPSLA 2014).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

GOLDEN_GAMMA = np.uint64(0x9E3779B97F4A7C15)
FIRST_MULTIPLIER = np.uint64(0xBF58476D1CE4E5B9)
SECOND_MULTIPLIER = np.uint64(0x94D049BB133111EB)
FLOAT_BITS = 53


def hash64(values: ArrayLike, salt: int) -> NDArray[np.uint64]:
    """Return a hash of integers, uint64 of the same shape; for one ``salt`` no two integers share one."""
    integers = np.atleast_1d(np.asarray(values)).astype(np.int64, copy=False).view(np.uint64)
    return _mix(_mix(integers) ^ np.uint64(salt & 0xFFFFFFFFFFFFFFFF))


def salt_of(*parts: int) -> int:
    """Return one 64-bit salt that stands for a sequence of integers."""
    salt = 0
    for part in parts:
        salt = int(hash64(np.uint64(part & 0xFFFFFFFFFFFFFFFF), salt)[0])
    return salt


def unit_interval(hashes: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Return hashes as evenly spread fractions in [0, 1)."""
    return (hashes >> np.uint64(64 - FLOAT_BITS)).astype(np.float64) * 2.0**-FLOAT_BITS


def permutation(length: int, salt: int) -> NDArray[np.int64]:
    """Return a pseudo-random permutation of ``0 .. length - 1``, int64[length]."""
    return np.argsort(hash64(np.arange(length), salt), kind="stable")


def _mix(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    mixed = values + GOLDEN_GAMMA
    mixed = (mixed ^ (mixed >> np.uint64(30))) * FIRST_MULTIPLIER
    mixed = (mixed ^ (mixed >> np.uint64(27))) * SECOND_MULTIPLIER
    mixed ^= mixed >> np.uint64(31)
    return mixed
