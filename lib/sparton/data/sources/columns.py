"""Parquet files on any storage: chosen columns in blocks of rows, lists as jagged NumPy arrays."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sparton import storage
from sparton.data.sources.block import BLOCK_BYTES, BadFileError, Extent, require_rows

ERRORS: tuple[type[Exception], ...] = (pa.ArrowException, ValueError, KeyError)
SUFFIXES = (".parquet", ".parq")
BUFFER_BYTES = 1 << 20
VALUE_BYTES = {"INT32": 4, "FLOAT": 4, "INT64": 8, "DOUBLE": 8}
"""Bytes of a value by its physical type."""


@contextlib.contextmanager
def open_parquet(path: str) -> Iterator[pq.ParquetFile]:
    """Yield the open file, which reads a column chunk in steps and not at once."""
    with storage.open_input(path) as stream:
        yield pq.ParquetFile(stream, buffer_size=BUFFER_BYTES)


def extent(
    file: pq.ParquetFile,
    lists: Sequence[str],
    scalars: Sequence[str],
    texts: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> Extent:
    """Check that a file has these columns of lists of numbers, numbers, anything readable as text, and integers.

    Identifiers must be integers: as floating-point numbers different ones may have become equal.

    Raises
    ------
    BadFileError
        ``missing_key`` or ``wrong_dtype``.
    """
    schema = file.schema_arrow
    kinds = [(lists, "lists of numbers", _is_list), (scalars, "numbers", _is_number), (texts, "text", _is_text)]
    kinds.append((whole, "integers", pa.types.is_integer))
    wanted = [*lists, *scalars, *texts, *whole]
    missing = [name for name in wanted if name not in schema.names]
    if missing:
        raise BadFileError("missing_key", f"no column {', '.join(missing)}; found {', '.join(schema.names)}")
    for names, expected, fits in kinds:
        for name in names:
            found = schema.field(name).type
            if not fits(found):
                raise BadFileError("wrong_dtype", f"column {name}: {found}, expected {expected}")
    metadata = file.metadata
    step = metadata.row_group(0).num_rows if metadata.num_row_groups else 1
    return Extent(metadata.num_rows, max(1, step), max(1, _bytes(metadata, wanted) // max(1, metadata.num_rows)))


def batches(
    file: pq.ParquetFile, columns: Sequence[str], start: int, stop: int
) -> Iterator[tuple[int, pa.RecordBatch]]:
    """Yield the first row and a batch of columns, for the rows from ``start`` up to ``stop``.

    Raises
    ------
    BadFileError
        If the file has no such rows.
    """
    metadata = file.metadata
    require_rows(metadata.num_rows, stop)
    ends = np.cumsum([metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)])
    first, last = np.searchsorted(ends, [start, stop - 1], side="right")
    position = int(ends[first - 1]) if first else 0
    size = max(1, BLOCK_BYTES // max(1, _bytes(metadata, columns) // max(1, metadata.num_rows)))
    groups = list(range(int(first), int(last) + 1))
    for batch in file.iter_batches(batch_size=size, row_groups=groups, columns=list(columns)):
        low, high = max(start - position, 0), min(stop - position, batch.num_rows)
        if high > low:
            yield position + low, batch.slice(low, high - low)
        position += batch.num_rows


def flat(batch: pa.RecordBatch, name: str) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return the values of a list column, end to end (null: NaN), and each list's length int64[n] (null: 0)."""
    column = batch.column(name)
    counts = pc.fill_null(pc.list_value_length(column), 0).to_numpy(zero_copy_only=False).astype(np.int64)
    return column.flatten().to_numpy(zero_copy_only=False), counts


def scalar(batch: pa.RecordBatch, name: str) -> NDArray[Any]:
    """Return a column of numbers [n] (null: NaN)."""
    return np.asarray(batch.column(name).to_numpy(zero_copy_only=False))


def integers(batch: pa.RecordBatch, name: str) -> NDArray[np.int64]:
    """Return a column of whole numbers, int64[n] (null: 0)."""
    filled = pc.fill_null(batch.column(name).cast(pa.int64()), 0)
    return filled.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)


def any_null(batch: pa.RecordBatch, names: Sequence[str]) -> NDArray[np.bool_]:
    """Tell for each row whether any of these columns is null, bool[n]."""
    missing = np.zeros(batch.num_rows, bool)
    for name in names:
        column = batch.column(name)
        if column.null_count:
            missing |= column.is_null().to_numpy(zero_copy_only=False)
    return missing


def text(batch: pa.RecordBatch, name: str, names: dict[str, str] | None = None) -> pa.Array:
    """Return a column as strings, with those in ``names`` replaced."""
    column = batch.column(name)
    found = (column.dictionary_decode() if pa.types.is_dictionary(column.type) else column).cast(pa.string())
    result = found
    for old, new in (names or {}).items():
        result = pc.if_else(pc.fill_null(pc.equal(found, old), False), new, result)
    return result


def _bytes(metadata: pq.FileMetaData, columns: Sequence[str]) -> int:
    """Return the bytes of columns in memory, where repeated values are no longer stored once."""
    total = 0
    for group in range(metadata.num_row_groups):
        row_group = metadata.row_group(group)
        for index in range(row_group.num_columns):
            chunk = row_group.column(index)
            if any(f"{chunk.path_in_schema}.".startswith(f"{name}.") for name in columns):  # names may have dots
                width = VALUE_BYTES.get(chunk.physical_type, 1)
                total += max(chunk.total_uncompressed_size, chunk.num_values * width)
    return total


def _is_list(kind: pa.DataType) -> bool:
    return (pa.types.is_list(kind) or pa.types.is_large_list(kind)) and _is_number(kind.value_type)


def _is_number(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind)


def _is_text(kind: pa.DataType) -> bool:
    value = kind.value_type if pa.types.is_dictionary(kind) else kind
    return pa.types.is_string(value) or pa.types.is_large_string(value) or pa.types.is_integer(value)
