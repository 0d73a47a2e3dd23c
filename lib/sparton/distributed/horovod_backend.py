"""Collectives through Horovod, and straight between ranks where that is quicker.

It is the only module of the project that imports Horovod's TensorFlow binding.
"""

from __future__ import annotations

import os
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from sparton.distributed import devices, meeting
from sparton.distributed.fused import FusedCollectives

CYCLE_MS = "20"
"""How often Horovod's thread asks all ranks what is ready, unless ``HOROVOD_CYCLE_TIME`` says otherwise. On a CPU it
takes the time from what is computed, and sums that are in a hurry go without it. Where there are GPUs Horovod's own
value stays, 1 ms."""


def initialise() -> tuple[int, int, int]:
    """Start Horovod, if it is not running yet, and return this process's rank, size and local rank.

    Where the machine has GPUs, the process keeps one of them: of those that Spark has assigned, if it has.
    """
    if not _has_gpu():
        os.environ.setdefault("HOROVOD_CYCLE_TIME", CYCLE_MS)
    hvd.init()
    devices.pin_gpu(hvd.local_rank(), devices.assigned_gpus())
    return hvd.rank(), hvd.size(), hvd.local_rank()


def speaks_mpi() -> bool:
    """Tell whether Horovod was built with MPI, by which processes that ``mpirun`` has started find each other."""
    return bool(hvd.mpi_built())


class HorovodCollectives(FusedCollectives):
    """Collectives of one rank among those that Horovod connects; every rank makes them at the same time.

    Inside a graph, the name by which Horovod matches the ranks' requests is fixed here rather than derived from
    tensors, whose names differ when one rank has traced more than another.

    Parameters
    ----------
    rank
        Of this process.
    direct_sum_bytes
        Sums for which the vectors of all ranks together measure no more go straight from rank to rank, unless a rank
        has a GPU; 0 leaves all to Horovod.
    """

    def __init__(self, rank: int, direct_sum_bytes: int = 0) -> None:
        super().__init__(rank, hvd.size())
        usable = direct_sum_bytes > 0 and not _has_gpu()
        self._direct = meeting.connect(rank, hvd.size(), self._gather_rows, usable)
        self._direct_bytes = direct_sum_bytes // hvd.size()

    def _sum_vector(self, vector: tf.Tensor, name: str) -> tf.Tensor:
        if self._direct is None:
            return _sum_by_horovod(vector, name)
        count = vector.shape.num_elements()
        if count is None:
            small = tf.size(vector) * vector.dtype.size <= self._direct_bytes
            return tf.cond(small, lambda: self._sum_directly(vector), lambda: _sum_by_horovod(vector, name))
        small = count * vector.dtype.size <= self._direct_bytes
        return self._sum_directly(vector) if small else _sum_by_horovod(vector, name)

    def _sum_directly(self, vector: tf.Tensor) -> tf.Tensor:
        assert self._direct is not None
        total = tf.numpy_function(self._direct.sum, [vector], vector.dtype)
        total.set_shape(vector.shape)
        return total

    def _gather_rows(self, rows: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(hvd.allgather(tf.constant(rows)))

    def _broadcast_bytes(self, data: NDArray[Any], root: int) -> NDArray[Any]:
        return np.asarray(hvd.broadcast(tf.constant(data), root))


def _sum_by_horovod(vector: tf.Tensor, name: str) -> tf.Tensor:
    return hvd.allreduce(vector, op=hvd.Sum, name=name)


def _has_gpu() -> bool:
    return bool(tf.config.list_physical_devices("GPU"))
