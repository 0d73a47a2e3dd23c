"""Memory for the kernels' results that is used again: fresh memory costs more than the results that are put there.

The system clears each new page and takes it back when it is freed, which for results of tens of megabytes is most of
the time of a kernel that touches each value once.
"""

from __future__ import annotations

import math
import mmap
import weakref
from collections.abc import Sequence
from threading import Lock
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton.data.blocks import aligned

SMALL = 1 << 18
"""Bytes below which the system's own memory is as good."""

SLACK = 1.25
"""How much larger than asked for a new block is, since the next batch may have a few more particles."""

KEPT = 2 << 30
"""Bytes of free blocks that are kept at most."""


class Pool:
    """Free blocks, handed out as arrays and taken back when nobody refers to the array any more."""

    def __init__(self, kept: int = KEPT) -> None:
        self._kept = kept
        self._free: list[mmap.mmap] = []
        self._lock = Lock()

    def empty(self, shape: Sequence[int], dtype: Any = np.float32) -> NDArray[Any]:
        """Return an array of any content in memory that TensorFlow takes over without a copy."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size < SMALL:
            return aligned(tuple(shape), np.dtype(dtype))
        block = self._take(size)
        room = np.frombuffer(block, np.uint8)
        # TensorFlow holds a view, whose base is this array: with the last view it ends, and the block is free.
        weakref.finalize(room, self._give_back, block).atexit = False
        return room[:size].view(dtype).reshape(shape)

    def _take(self, size: int) -> mmap.mmap:
        with self._lock:
            fitting = [block for block in self._free if size <= len(block) <= 2 * SLACK * size]
            if fitting:
                block = min(fitting, key=len)
                self._free.remove(block)
                return block
        return mmap.mmap(-1, math.ceil(SLACK * size))

    def _give_back(self, block: mmap.mmap) -> None:
        with self._lock:
            self._free.append(block)
            while sum(len(free) for free in self._free) > self._kept:
                self._free.pop(0)


empty = Pool().empty
