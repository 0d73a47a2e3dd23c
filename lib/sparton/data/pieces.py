"""Pieces of Parquet files: row groups that one task reads, by pyarrow, without Spark's rows in between."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import IO, NamedTuple
from urllib.parse import quote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.sql.types import (
    ArrayType,
    ByteType,
    DataType,
    DoubleType,
    FloatType,
    IntegerType,
    LongType,
    ShortType,
    StringType,
    StructField,
    StructType,
)

from sparton import storage
from sparton.data.encoder import FILE, ROW
from sparton.errors import DataError

MIN_TASK_BYTES, MAX_TASK_BYTES = 16 << 20, 64 << 20
"""Uncompressed bytes of the row groups that one task reads: enough to be worth a task, little to lose when it fails."""

TASKS_PER_SLOT = 3
BATCH_BYTES = 4 << 20
"""Bytes of the rows that are looked at together: they stay in the processor's cache."""

MIN_BATCH_ROWS, MAX_BATCH_ROWS = 512, 65_536
URL_CHARACTERS = "/:!$&'()*+,;=@~"
"""What stays as it is in the URLs of files."""

MAGIC = b"PAR1"
"""What Parquet files begin and end with."""

ARROW_TYPES, NO_ARROW_TYPES = b"\x0cARROW:schema", b"\x0cARROW.schema"
"""The key, after its length, under which footers hold the types that Arrow had, and one that nothing looks for."""

SPARK_TYPES: dict[pa.DataType, DataType] = {
    pa.int8(): ByteType(),
    pa.int16(): ShortType(),
    pa.int32(): IntegerType(),
    pa.int64(): LongType(),
    pa.uint8(): ShortType(),
    pa.uint16(): IntegerType(),
    pa.uint32(): LongType(),
    pa.float32(): FloatType(),
    pa.float64(): DoubleType(),
    pa.string(): StringType(),
    pa.large_string(): StringType(),
}
"""What Spark makes of Arrow's types in Parquet files, of those types whose values both read and cast alike."""


class RowGroup(NamedTuple):
    """Rows of a row group, and its size in bytes before compression."""

    rows: int
    bytes: int


@dataclass(frozen=True)
class Piece:
    """Row groups of a file that follow each other: their numbers, the rows of each, and the number of the first row."""

    path: str
    groups: tuple[int, ...]
    group_rows: tuple[int, ...]
    first_row: int
    batch_rows: int

    @property
    def url(self) -> str:
        """The file as Spark names it."""
        return spark_name(self.path)


class Read(NamedTuple):
    """A column that is read: its name in the file, and the type that it is cast to."""

    name: str
    type: pa.DataType


def spark_name(path: str) -> str:
    """Return the URL that Spark has for a file."""
    return quote(storage.spark_url(path), safe=URL_CHARACTERS)


def spark_type(found: pa.DataType) -> DataType | None:
    """Return what Spark makes of an Arrow type in a Parquet file; None where the two do not read it alike."""
    if isinstance(found, pa.BaseExtensionType):
        return spark_type(found.storage_type)
    if pa.types.is_list(found) or pa.types.is_large_list(found) or pa.types.is_fixed_size_list(found):
        inner = spark_type(found.value_type)
        return None if inner is None else ArrayType(inner)
    if pa.types.is_dictionary(found):
        return spark_type(found.value_type)
    return SPARK_TYPES.get(found)


def spark_schema(schema: pa.Schema) -> StructType | None:
    """Return what Spark makes of the columns of a Parquet file; None where the two do not read them alike."""
    types = [spark_type(field.type) for field in schema]
    folded = {name.casefold() for name in schema.names}
    if len(folded) < len(types):
        return None  # Spark looks at small and capital letters alike
    fields = [StructField(name, kind) for name, kind in zip(schema.names, types, strict=True) if kind is not None]
    return StructType(fields) if len(fields) == len(types) else None


def split_pieces(files: Sequence[tuple[str, Sequence[RowGroup]]], slots: int) -> list[tuple[Piece, ...]]:
    """Return the pieces that each task reads: all row groups once, in order, evenly by bytes.

    Parameters
    ----------
    files
        Path and row groups of each.
    slots
        Tasks that can run at a time; there will be several times as many where the input is large.
    """
    total = sum(group.bytes for _, groups in files for group in groups)
    target = min(max(total // (slots * TASKS_PER_SLOT), MIN_TASK_BYTES), MAX_TASK_BYTES)
    tasks: list[tuple[Piece, ...]] = []
    pieces: list[Piece] = []
    size = 0
    for path, groups in files:
        first_row, start = 0, 0
        for number, group in enumerate(groups):
            size += group.bytes
            full = size >= target
            if full or number + 1 == len(groups):
                pieces.append(_piece(path, groups, start, number + 1, first_row))
                first_row += sum(pieces[-1].group_rows)
                start = number + 1
            if full:
                tasks.append(tuple(pieces))
                pieces, size = [], 0
    return [*tasks, tuple(pieces)] if pieces else tasks


def read_piece(
    piece: Piece, columns: Mapping[str, Read], file: bool = False, row: bool = False
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of a piece in order.

    Parameters
    ----------
    piece
        What to read.
    columns
        The columns, by the names that they get.
    file, row
        Add the columns :data:`sparton.data.encoder.FILE` (as a dictionary) and :data:`sparton.data.encoder.ROW`.

    Raises
    ------
    DataError
        If the file is damaged, gone, or another one than the piece was cut from.
    ConnectionError
        If remote storage fails to deliver it.
    """
    try:
        with storage.open_input(piece.path) as stream:
            source = pq.ParquetFile(stream)
            _require_same(source, piece, columns)
            if any(_is_of_arrow(source.schema_arrow.field(read.name).type) for read in columns.values()):
                source = pq.ParquetFile(stream, metadata=_of_parquet(stream))
            names = list(dict.fromkeys(read.name for read in columns.values()))
            first, url = piece.first_row, piece.url
            for batch in source.iter_batches(piece.batch_rows, list(piece.groups), names, use_threads=False):
                read = {name: _cast(batch.column(wanted.name), wanted.type) for name, wanted in columns.items()}
                if file:
                    read[FILE] = pa.DictionaryArray.from_arrays(np.zeros(batch.num_rows, np.int32), [url])
                if row:
                    read[ROW] = pa.array(np.arange(first, first + batch.num_rows))
                first += batch.num_rows
                yield pa.RecordBatch.from_arrays(list(read.values()), list(read))
    except ConnectionError:
        raise
    except (FileNotFoundError, PermissionError) as error:
        raise DataError(f"{piece.path}: {error.strerror or error}; it was there before: run it again") from error
    except (OSError, ValueError, pa.ArrowException) as error:
        reason = " ".join(str(error).split())
        raise DataError(
            f"{piece.path}: cannot be read, it is damaged ({reason}); restore it or make it again"
        ) from error
    if first != piece.first_row + sum(piece.group_rows):
        raise DataError(
            f"{piece.path}: {first - piece.first_row} rows were read, its footer says {sum(piece.group_rows)}; "
            "it is damaged: restore it or make it again"
        )


def _piece(path: str, groups: Sequence[RowGroup], start: int, stop: int, first_row: int) -> Piece:
    rows = tuple(group.rows for group in groups[start:stop])
    row_bytes = max(sum(group.bytes for group in groups[start:stop]) // max(sum(rows), 1), 1)
    batch_rows = min(max(BATCH_BYTES // row_bytes, MIN_BATCH_ROWS), MAX_BATCH_ROWS)
    return Piece(path, tuple(range(start, stop)), rows, first_row, batch_rows)


def _require_same(source: pq.ParquetFile, piece: Piece, columns: Mapping[str, Read]) -> None:
    """Check that a file has the row groups and the columns of the one that the piece was cut from."""
    metadata = source.metadata
    known = metadata.num_row_groups > piece.groups[-1]
    same = known and piece.group_rows == tuple(metadata.row_group(number).num_rows for number in piece.groups)
    if not same or any(source.schema_arrow.get_field_index(read.name) < 0 for read in columns.values()):
        raise DataError(f"{piece.path}: it was replaced while it was read; run it again")


def _is_of_arrow(found: pa.DataType) -> bool:
    """Tell whether a type is one that Parquet has not: the file has lists, or what the type is stored as."""
    return pa.types.is_fixed_size_list(found) or isinstance(found, pa.BaseExtensionType)


def _of_parquet(stream: IO[bytes]) -> pq.FileMetaData:
    """Return a file's footer without the types that Arrow had, so that the columns are those that Spark sees.

    Of lists of a fixed size pyarrow reads no null, although others write such: as the lists that they are, it does.
    """
    end = stream.seek(-len(MAGIC) - 4, os.SEEK_END)
    size = int.from_bytes(stream.read(4), "little")
    stream.seek(end - size)
    footer = stream.read(size).replace(ARROW_TYPES, NO_ARROW_TYPES)
    return pq.read_metadata(pa.BufferReader(b"".join((MAGIC, footer, size.to_bytes(4, "little"), MAGIC))))


def _cast(column: pa.Array, to: pa.DataType) -> pa.Array:
    """Return values in another type as Spark casts them: rounded, infinite where they are too large."""
    return column if column.type == to else column.cast(to, safe=False)
