"""The values of a column as one flat array, whatever the column is: numbers, text, lists or tensors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sparton.data.featurize import FEATURE_DTYPE
from sparton.errors import DataError

Mask = NDArray[np.bool_]


@dataclass(frozen=True)
class Values:
    """The values in the ``rows`` rows of a batch that are not null.

    Attributes
    ----------
    rows, nulls
        Rows of the batch, and those without a value or with an element missing.
    numbers
        float64[v], None where the column is text.
    text
        The values as text [v].
    row_limits
        int64[r + 1]: the values ``row_limits[i] .. row_limits[i + 1] - 1`` belong to one row; None: one a row.
    """

    rows: int
    nulls: int
    numbers: NDArray[np.float64] | None
    plain: pa.Array
    row_limits: NDArray[np.int64] | None = None

    def text(self) -> pa.Array:
        """Return the values as text, numbers as Python writes them."""
        if self.numbers is None:
            return self.plain
        return pa.array([str(value) for value in self.plain.to_pylist()], pa.string())

    def rows_with(self, marked: Mask) -> int:
        """Return how many rows have at least one marked value."""
        if self.row_limits is None:
            return int(np.count_nonzero(marked))
        before = np.concatenate([[0], np.cumsum(marked)])
        return int(np.count_nonzero(np.diff(before[self.row_limits])))


def values_of(column: pa.Array, name: str) -> Values:
    """Return the values of a column; a binary column holds float32 tensors.

    Raises
    ------
    DataError
        If the column is of a type that rules cannot be about.
    """
    present = column.drop_null()
    kind, limits, nulls = column.type, None, column.null_count
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        lengths = pc.list_value_length(present).to_numpy(zero_copy_only=False)
        present, limits = _without_nulls(present.flatten(), _limits(lengths))
        nulls += int(np.count_nonzero(np.diff(limits) < lengths))
        kind = present.type
    elif pa.types.is_binary(kind) or pa.types.is_large_binary(kind):
        lengths = pc.binary_length(present).to_numpy(zero_copy_only=False)
        present, limits = pa.array(_tensor_values(present, name)), _limits(lengths // FEATURE_DTYPE.itemsize)
        kind = present.type
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        return Values(len(column), nulls, None, present, limits)
    if not (pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)):
        raise DataError(f"column {name}: rules cannot be about type {column.type}; expected numbers, text or lists")
    numbers = present.to_numpy(zero_copy_only=False).astype(np.float64)
    return Values(len(column), nulls, numbers, present, limits)


def _limits(lengths: NDArray[Any]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _without_nulls(values: pa.Array, limits: NDArray[np.int64]) -> tuple[pa.Array, NDArray[np.int64]]:
    """Leave out the missing elements of lists."""
    if not values.null_count:
        return values, limits
    present = np.concatenate([[0], np.cumsum(values.is_valid().to_numpy(zero_copy_only=False))])
    return values.drop_null(), present[limits].astype(np.int64)


def _tensor_values(column: pa.Array, name: str) -> NDArray[np.float32]:
    content = b"".join(column.to_pylist()) if column.null_count else _buffer(column)
    if len(content) % FEATURE_DTYPE.itemsize:
        raise DataError(f"column {name}: its binary values are not float32 tensors; leave it out of the rules")
    return np.frombuffer(content, FEATURE_DTYPE)


def _buffer(column: pa.Array) -> Any:
    if len(column) == 0:
        return b""
    _, offsets, data = column.buffers()
    width = np.int64 if pa.types.is_large_binary(column.type) else np.int32
    limits = np.frombuffer(offsets, width)[column.offset : column.offset + len(column) + 1]
    return memoryview(data)[int(limits[0]) : int(limits[-1])] if data is not None else b""
