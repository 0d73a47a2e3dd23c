"""Whole batches out of shards: rows are gathered, across shard borders, straight into the memory that training reads.

A block is some consecutive batches in one array a column. Its memory is aligned as TensorFlow wants it, so nothing
copies it again. Each lane of a rank (:mod:`sparton.data.plan`) has its own shards and its own places in every batch.
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

Piece = tuple[Mapping[str, NDArray[Any]], Indices]
"""Values of the columns in a shard, and the rows of it that are wanted, int64[m], in their order."""

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
    lanes: Sequence[Iterable[Piece]], columns: Sequence[Column], batch_size: int, steps: int
) -> Iterator[Arrays]:
    """Yield blocks [k, B, ...] that hold ``steps`` batches in all.

    Parameters
    ----------
    lanes
        The pieces of each lane. All have the same share of each batch, in their order.
    columns
        What the blocks hold.
    batch_size
        Rows of a batch, B.
    steps
        Batches over all blocks; where the pieces of a lane do not fill its places, padding does.
    """
    size = block_steps(columns, batch_size)
    sources = [_Lane(iter(pieces)) for pieces in lanes]
    while steps:
        block = Block(columns, batch_size, min(size, steps), len(sources))
        for lane, source in enumerate(sources):
            source.fill(block, lane)
        yield block.batches()
        steps -= block.steps


class _Lane:
    """The rows of a lane that are still to come."""

    def __init__(self, pieces: Iterator[Piece]) -> None:
        self._pieces = pieces
        self._values: Mapping[str, NDArray[Any]] = {}
        self._rows: Indices = np.zeros(0, np.int64)

    def fill(self, block: Block, lane: int) -> None:
        """Put the next rows into a lane's places of a block, and padding where there are none left."""
        room = block.lane_rows
        while room:
            while not self._rows.size:
                piece = next(self._pieces, None)
                if piece is None:
                    block.pad(lane, block.lane_rows - room)
                    return
                self._values, self._rows = piece
            count = min(room, self._rows.size)
            block.gather(lane, block.lane_rows - room, self._values, self._rows[:count])
            self._rows = self._rows[count:]
            room -= count


class Block:
    """Memory for some batches.

    Parameters
    ----------
    columns
        What it holds.
    batch_size, steps
        Rows of a batch, and how many batches.
    lanes
        Lanes that share each batch.

    Attributes
    ----------
    steps
        How many batches.
    lane_rows
        Rows of each lane in all of them.
    """

    def __init__(self, columns: Sequence[Column], batch_size: int, steps: int, lanes: int) -> None:
        self.steps = steps
        self.lane_rows = steps * batch_size // lanes
        self._columns = columns
        self._batch_size = batch_size
        self._share = batch_size // lanes
        self._content = {column.name: aligned((steps * batch_size, *column.shape), column.dtype) for column in columns}

    def gather(self, lane: int, start: int, values: Mapping[str, NDArray[Any]], rows: Indices) -> None:
        """Put ``values[rows]`` into a lane's places from its row number ``start`` on."""
        places = self._places(lane, start, start + rows.size)
        for name, target in self._content.items():
            if isinstance(places, slice):
                # Other modes than "clip" would fill a buffer first. NumPy lets other threads run meanwhile.
                np.take(values[name], rows, axis=0, out=target[places], mode="clip")
            else:
                target[places] = values[name].take(rows, axis=0)

    def pad(self, lane: int, start: int) -> None:
        """Fill a lane's places from its row number ``start`` on."""
        places = self._places(lane, start, self.lane_rows)
        for column in self._columns:
            self._content[column.name][places] = column.padding

    def batches(self) -> Arrays:
        """Return the rows as batches, [k, B, ...]."""
        return {name: rows.reshape(self.steps, -1, *rows.shape[1:]) for name, rows in self._content.items()}

    def _places(self, lane: int, start: int, stop: int) -> slice | Indices:
        """Return where in the block the rows ``start .. stop - 1`` of a lane are."""
        if self._share == self._batch_size:
            return slice(start, stop)
        step, place = np.divmod(np.arange(start, stop), self._share)
        return np.asarray(step * self._batch_size + lane * self._share + place)


def aligned(shape: tuple[int, ...], dtype: np.dtype[Any]) -> NDArray[Any]:
    """Return an array of any content in memory that TensorFlow takes over without a copy."""
    size = math.prod(shape) * dtype.itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)
