"""Collectives through Horovod; the only module of the project that imports Horovod's TensorFlow binding."""

from __future__ import annotations

import os
from typing import Any

import horovod.tensorflow as hvd
import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from sparton.distributed import devices
from sparton.distributed.fused import FusedCollectives
from sparton.distributed.supervisor import GPU_VARIABLE


def initialise() -> tuple[int, int, int]:
    """Start Horovod, if it is not running yet, and return this process's rank, size and local rank.

    Where the machine has GPUs, the process keeps one of them: of those that Spark has assigned, if it has.
    """
    hvd.init()
    devices.pin_gpu(hvd.local_rank(), [name for name in os.environ.get(GPU_VARIABLE, "").split(",") if name])
    return hvd.rank(), hvd.size(), hvd.local_rank()


class HorovodCollectives(FusedCollectives):
    """Collectives of one rank among those that Horovod connects.

    Inside a graph, the name by which Horovod matches the ranks' requests is fixed here rather than derived from
    tensors, whose names differ when one rank has traced more than another.
    """

    def __init__(self, rank: int) -> None:
        super().__init__(rank, hvd.size())

    def _sum_vector(self, vector: tf.Tensor, name: str) -> tf.Tensor:
        return hvd.allreduce(vector, op=hvd.Sum, name=name)

    def _gather_rows(self, rows: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(hvd.allgather(tf.constant(rows)))

    def _broadcast_bytes(self, data: NDArray[Any], root: int) -> NDArray[Any]:
        return np.asarray(hvd.broadcast(tf.constant(data), root))
