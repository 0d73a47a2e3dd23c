"""Values that Spark's hash partitioning sends to chosen partitions, so that an exchange has no collisions.

``repartition(n, column)`` puts a row into partition ``pmod(murmur3(column), n)``. Group numbers taken as they are
would leave a third of the partitions empty and give others several groups. Were the hash ever another one, groups
would share partitions; nothing else depends on it.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

SPARK_SEED = 42
FIRST_TRIES = 8  # candidates per partition; doubled until every partition has one


def routes(partitions: int) -> NDArray[np.int32]:
    """Return, for each of ``partitions`` partitions, a value of an int column that Spark puts there, int32[n]."""
    tries = FIRST_TRIES * partitions
    while True:
        candidates = np.arange(tries, dtype=np.int32)
        found, first = np.unique(spark_hash(candidates) % partitions, return_index=True)
        if found.size == partitions:
            return candidates[first]
        tries *= 2


def spark_hash(values: NDArray[np.int32]) -> NDArray[np.int32]:
    """Return Spark's ``hash(int column)``: Murmur3, x86 32-bit, seed 42; int32 of the same shape."""
    mixed = values.view(np.uint32) * np.uint32(0xCC9E2D51)
    mixed = _rotate(mixed, 15) * np.uint32(0x1B873593)
    state = _rotate(np.uint32(SPARK_SEED) ^ mixed, 13) * np.uint32(5) + np.uint32(0xE6546B64)
    state ^= np.uint32(4)  # length in bytes
    state = (state ^ (state >> np.uint32(16))) * np.uint32(0x85EBCA6B)
    state = (state ^ (state >> np.uint32(13))) * np.uint32(0xC2B2AE35)
    return (state ^ (state >> np.uint32(16))).view(np.int32)


def _rotate(values: NDArray[np.uint32], by: int) -> NDArray[np.uint32]:
    return (values << np.uint32(by)) | (values >> np.uint32(32 - by))
