"""What processes compute together: the interface, and its form for a process that is alone."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import tensorflow as tf


class Collectives(ABC):
    """Operations that every rank must call in the same order with tensors of the same types and shapes.

    What a rank does not need it must still take part in; inside a ``tf.function`` a result must be used on every rank
    or on none, since TensorFlow prunes what nobody uses.
    """

    @abstractmethod
    def allreduce_sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Return each tensor summed over all ranks, with one exchange for each data type among them.

        Works eagerly and inside a ``tf.function`` (not inside one compiled by XLA). The sum is taken in the tensor's
        own type: cast to float16 to halve the traffic. All ranks receive the same bits. It is differentiable as the
        sum of the ranks' losses: the gradient is the sum over ranks of the gradients of the results.

        Parameters
        ----------
        tensors
            Of type float16, float32, float64, int32 or int64 (Horovod cannot sum bfloat16); shapes and types equal on
            all ranks. ``tf.IndexedSlices`` become dense.
        """

    @abstractmethod
    def broadcast(self, variables: Sequence[Any], root: int = 0) -> None:
        """Overwrite variables (``tf.Variable`` or Keras 3's) with the values of rank ``root``, bit by bit.

        Call it eagerly. Number, order, types and shapes of the variables are equal on all ranks.
        """

    @abstractmethod
    def broadcast_object(self, value: Any = None, root: int = 0) -> Any:
        """Return rank ``root``'s value on every rank; the others' arguments are ignored.

        The value travels as JSON, so tuples arrive as lists on every rank, the root included.

        Raises
        ------
        TypeError
            If the root's value is not JSON-able.
        """

    @abstractmethod
    def allgather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return the ranks' arrays concatenated along the first axis in the order of ranks.

        Parameters
        ----------
        array
            ``[rows, ...]``; the number of rows may differ between ranks and be zero, the rest may not.
        """

    @abstractmethod
    def barrier(self) -> None:
        """Return when every rank has called it."""

    @abstractmethod
    def waited(self) -> float:
        """Return the seconds that this rank has spent in collectives so far, waiting for slower ranks included."""


class LocalCollectives(Collectives):
    """The collectives of a process that is alone: every sum is the value itself."""

    def allreduce_sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Return the tensors, made dense."""
        import tensorflow as tf

        return [tf.convert_to_tensor(tensor) for tensor in tensors]

    def broadcast(self, variables: Sequence[Any], root: int = 0) -> None:
        """Leave the variables as they are."""
        check_root(root, 1)

    def broadcast_object(self, value: Any = None, root: int = 0) -> Any:
        """Return the value as it would arrive from another rank."""
        check_root(root, 1)
        return decode(encode(value))

    def allgather(self, array: NDArray[Any]) -> NDArray[Any]:
        """Return a copy of the array."""
        return np.array(check_rows(array))

    def barrier(self) -> None:
        """Return at once."""

    def waited(self) -> float:
        """Return 0: there is nobody to wait for."""
        return 0.0


def encode(value: Any) -> bytes:
    """Return a JSON-able value as UTF-8 text."""
    return json.dumps(value).encode()


def decode(data: bytes) -> Any:
    """Return the value that :func:`encode` wrote."""
    return json.loads(data)


def check_root(root: int, size: int) -> None:
    """Raise ``ValueError`` unless ``root`` is a rank of a world of ``size``."""
    if not 0 <= root < size:
        raise ValueError(f"expected root to be a rank, 0 ... {size - 1}. Received: root={root}")


def check_rows(array: NDArray[Any]) -> NDArray[Any]:
    """Return ``array`` as such if it has rows that can be gathered, else raise ``ValueError``."""
    array = np.asarray(array)
    if array.ndim == 0 or array.dtype.hasobject:
        raise ValueError(f"expected an array of plain values with rows. Received: {array.dtype}{list(array.shape)}")
    return array


def raw(variable: Any) -> tf.Variable:
    """Return the ``tf.Variable`` inside a Keras 3 variable; a ``tf.Variable`` is returned as it is.

    Horovod and TensorFlow's own functions need the raw one: ``keras.Variable`` has no ``ref`` and no handle.
    """
    import tensorflow as tf

    return variable if isinstance(variable, tf.Variable) else variable.value
