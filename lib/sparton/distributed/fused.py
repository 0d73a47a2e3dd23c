"""Collectives among several ranks, built on three primitives: sum a vector, gather rows, broadcast bytes."""

from __future__ import annotations

import zlib
from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from sparton.distributed.collectives import Collectives, check_root, check_rows, decode, encode, raw
from sparton.distributed.stall import Activity
from sparton.errors import TrainingError


class FusedCollectives(Collectives):
    """Flattens what it is given, so that any number of tensors costs one exchange.

    Parameters
    ----------
    rank, size
        The place of this process in the world.

    Attributes
    ----------
    activity
        What tells a collective that never ends from a long computation, and how long all have taken.
    """

    def __init__(self, rank: int, size: int) -> None:
        self._rank = rank
        self._size = size
        self.activity = Activity()

    @abstractmethod
    def _sum_vector(self, vector: tf.Tensor, name: str) -> tf.Tensor:
        """Return a vector ``[n]`` summed over ranks; called eagerly and inside ``tf.function``."""

    @abstractmethod
    def _gather_rows(self, rows: NDArray[Any]) -> NDArray[Any]:
        """Return int64 or uint8 ``[n, m]`` of all ranks as one array; n may differ between ranks, m may not."""

    @abstractmethod
    def _broadcast_bytes(self, data: NDArray[Any], root: int) -> NDArray[Any]:
        """Return the root's uint8 vector; the others pass one of the same length."""

    def allreduce_sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Sum over ranks: flatten and join the tensors of each type, exchange, and take them apart again."""
        dense = [tf.convert_to_tensor(tensor) for tensor in tensors]
        results = list(dense)
        for dtype in dict.fromkeys(tensor.dtype for tensor in dense):
            members = [index for index, tensor in enumerate(dense) if tensor.dtype == dtype]
            sums = self._sum_same_type([dense[index] for index in members])
            for index, total in zip(members, sums, strict=True):
                results[index] = total
        return results

    def broadcast(self, variables: Sequence[Any], root: int = 0) -> None:
        """Send the bytes of all variables in one exchange and assign them."""
        check_root(root, self._size)
        targets = [raw(variable) for variable in variables]
        values = [target.numpy() for target in targets]
        if not values:
            return
        packed = np.concatenate([_bytes_of(value) for value in values])
        received = self._broadcast(packed, root)
        if self._rank != root:
            _assign(targets, values, received)

    def broadcast_object(self, value: Any = None, root: int = 0) -> Any:
        """Send the length of the JSON text, then the text."""
        check_root(root, self._size)
        text = encode(value) if self._rank == root else b""
        length = self._broadcast(np.array([len(text)], np.int64).view(np.uint8), root).view(np.int64)[0]
        data = np.frombuffer(text, np.uint8) if self._rank == root else np.zeros(length, np.uint8)
        return decode(self._broadcast(data, root).tobytes())

    def allgather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Compare the row layouts of all ranks, then gather the rows as bytes.

        Raises
        ------
        TrainingError
            If types or row shapes differ between ranks.
        """
        array = check_rows(array)
        layout = f"{array.dtype}{list(array.shape[1:])}"
        headers = self._gather(np.array([[len(array), zlib.crc32(layout.encode())]], np.int64))
        differing = np.flatnonzero(headers[:, 1] != headers[0, 1])
        if differing.size:
            raise TrainingError(
                f"allgather: the rows of ranks {differing.tolist()} have another type or shape than those of rank 0; "
                f"rank {self._rank} has {layout}"
            )
        width = array.dtype.itemsize * int(np.prod(array.shape[1:], dtype=np.int64))
        rows = self._gather(_bytes_of(array).reshape(len(array), width)) if width else np.zeros(0, np.uint8)
        return rows.reshape(-1).view(array.dtype).reshape(int(headers[:, 0].sum()), *array.shape[1:])

    def barrier(self) -> None:
        """Gather one number of each rank."""
        self._gather(np.zeros((1, 1), np.int64))

    def waited(self) -> float:
        """Return the seconds that this rank has spent in collectives so far, waiting for slower ranks included."""
        return self.activity.seconds()

    def _gather(self, rows: NDArray[Any]) -> NDArray[Any]:
        with self.activity.during():
            return self._gather_rows(rows)

    def _broadcast(self, data: NDArray[Any], root: int) -> NDArray[Any]:
        with self.activity.during():
            return self._broadcast_bytes(data, root)

    def _sum_same_type(self, tensors: list[tf.Tensor]) -> list[tf.Tensor]:
        vector = tf.concat([tf.reshape(tensor, [-1]) for tensor in tensors], axis=0)
        total = self._differentiable_sum(vector, f"sparton_allreduce_{vector.dtype.name}")
        parts = tf.split(total, [_count(tensor) for tensor in tensors])
        return [tf.reshape(part, _shape(tensor)) for part, tensor in zip(parts, tensors, strict=True)]

    def _differentiable_sum(self, vector: tf.Tensor, name: str) -> tf.Tensor:
        def backward(upstream: tf.Tensor) -> tf.Tensor:
            return self._differentiable_sum(upstream, f"{name}_gradient")

        @tf.custom_gradient
        def summed(value: tf.Tensor) -> tuple[tf.Tensor, Any]:
            return self.activity.around(lambda operand: self._sum_vector(operand, name), value), backward

        return summed(vector)


def _count(tensor: tf.Tensor) -> Any:
    static = tensor.shape.num_elements()
    return tf.size(tensor) if static is None else static


def _shape(tensor: tf.Tensor) -> Any:
    return tensor.shape if tensor.shape.is_fully_defined() else tf.shape(tensor)


def _bytes_of(array: NDArray[Any]) -> NDArray[Any]:
    return np.frombuffer(array.tobytes(), np.uint8)


def _assign(targets: list[tf.Variable], values: list[NDArray[Any]], received: NDArray[Any]) -> None:
    """Cut ``received`` into arrays of the types and shapes of ``values`` and assign them to ``targets``."""
    ends = np.cumsum([value.nbytes for value in values])
    for target, value, end in zip(targets, values, ends, strict=True):
        piece = received[end - value.nbytes : end]
        target.assign(np.frombuffer(piece.tobytes(), value.dtype).reshape(value.shape))
