"""Whole batches out of shards: rows are gathered, across shard borders, straight into the memory that training reads.

A block is some consecutive batches in one array a column. Its memory is aligned as TensorFlow wants it, so nothing
copies it again.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparton.data.featurize import FEATURE_DTYPE, decode_features
from sparton.data.plan import Indices

Arrays = dict[str, NDArray[Any]]

WEIGHT = "weight"
"""The column that every batch has: 0 for padding."""

PADDING_ID = -1
"""The id of padding rows."""

BLOCK_BYTES = 8 << 20
"""What passes from Python to TensorFlow at once: a call costs some 0.3 ms, whatever it carries."""

ALIGNMENT = 64
"""Bytes; TensorFlow copies arrays that are not aligned so."""


@dataclass(frozen=True)
class Column:
    """A column of batches: [B, *shape] of ``dtype``, with ``padding`` in rows that stand for none."""

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int, ...] = ()
    padding: int = 0

    @property
    def row_bytes(self) -> int:
        """Size of one row in bytes."""
        return math.prod(self.shape) * self.dtype.itemsize

    def decode(self, table: pa.Table) -> NDArray[Any]:
        """Return the column's values in a shard, [n, *shape]; tensors are a view of what was read.

        The weight of rows that store none is 1; a missing real number is NaN.

        Raises
        ------
        DataError
            If the tensors have another size.
        """
        if self.name not in table.column_names:
            return np.ones(table.num_rows, self.dtype)
        column = table.column(self.name)
        if not pa.types.is_binary(column.type):
            return column.to_numpy().astype(self.dtype, copy=False)
        return decode_features(column.chunk(0) if column.num_chunks == 1 else column.combine_chunks(), *self.shape)


def batch_columns(schema: pa.Schema, feature_shape: tuple[int, ...]) -> dict[str, Column]:
    """Return what batches of a set can hold, by name: its tensors and numbers, and the weight.

    Parameters
    ----------
    schema
        Columns of the shards, the id first. Small integers become int32; text is left out.
    feature_shape
        Shape of one row's tensor.
    """
    found: dict[str, Column] = {}
    for position, field in enumerate(schema):
        if pa.types.is_binary(field.type):
            found[field.name] = Column(field.name, FEATURE_DTYPE, feature_shape)
        elif pa.types.is_integer(field.type) or pa.types.is_floating(field.type):
            dtype = np.dtype(field.type.to_pandas_dtype())
            found[field.name] = Column(field.name, _widened(dtype), (), PADDING_ID if position == 0 else 0)
    return {**found, WEIGHT: Column(WEIGHT, np.dtype(np.float32))}


def _widened(dtype: np.dtype[Any]) -> np.dtype[Any]:
    return np.dtype(np.int32) if dtype.kind == "i" and dtype.itemsize < np.dtype(np.int32).itemsize else dtype


def block_steps(columns: Iterable[Column], batch_size: int) -> int:
    """Return how many batches make a block."""
    return max(1, BLOCK_BYTES // (batch_size * sum(column.row_bytes for column in columns)))


def gather_blocks(
    pieces: Iterable[tuple[Mapping[str, NDArray[Any]], Indices]],
    columns: Sequence[Column],
    batch_size: int,
    steps: int,
) -> Iterator[Arrays]:
    """Yield blocks [k, B, ...] that hold ``steps`` batches in all.

    Parameters
    ----------
    pieces
        Values of the columns in a shard, and the rows of it that are wanted, int64[m], in their order.
    columns
        What the blocks hold.
    batch_size
        Rows of a batch, B.
    steps
        Batches over all blocks; where the pieces do not fill them, padding does.
    """
    size = block_steps(columns, batch_size)
    block = Block(columns, min(size, steps) * batch_size)
    for values, rows in pieces:
        start = 0
        while start < rows.size:
            start += block.gather(values, rows[start:])
            if block.room == 0:
                yield block.batches(batch_size)
                steps -= block.rows // batch_size
                block = Block(columns, min(size, steps) * batch_size)
    while steps:
        block.pad()
        yield block.batches(batch_size)
        steps -= block.rows // batch_size
        block = Block(columns, min(size, steps) * batch_size)


class Block:
    """Memory for some rows, filled from the first one on."""

    def __init__(self, columns: Sequence[Column], rows: int) -> None:
        self.rows = rows
        self.room = rows
        self._columns = columns
        self._content = {column.name: aligned((rows, *column.shape), column.dtype) for column in columns}

    def gather(self, values: Mapping[str, NDArray[Any]], rows: Indices) -> int:
        """Append ``values[rows]``, as far as there is room; return the number of rows taken."""
        start, count = self.rows - self.room, min(self.room, rows.size)
        for name, target in self._content.items():
            # Other modes than "clip" would fill a buffer first. NumPy lets other threads run meanwhile.
            np.take(values[name], rows[:count], axis=0, out=target[start : start + count], mode="clip")
        self.room -= count
        return count

    def pad(self) -> None:
        """Fill what is left."""
        for column in self._columns:
            self._content[column.name][self.rows - self.room :] = column.padding
        self.room = 0

    def batches(self, batch_size: int) -> Arrays:
        """Return the rows as batches, [k, B, ...]."""
        return {name: rows.reshape(-1, batch_size, *rows.shape[1:]) for name, rows in self._content.items()}


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array of any content in memory that TensorFlow takes over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)
