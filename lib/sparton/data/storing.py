"""A DataFrame's rows stored as they are, once: what is read again and again must give the same rows each time."""

from __future__ import annotations

import uuid
from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark import TaskContext
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

from sparton import storage
from sparton.data.executors import executor_errors
from sparton.data.manifest import SourceFile
from sparton.data.pieces import RowGroup
from sparton.data.source_files import Source, StoredTable

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

GROUP_BYTES = 16 << 20
"""Rows that make a row group; a task holds as many."""

FILE_ARROW = pa.schema([pa.field("path", pa.string()), pa.field("groups", pa.binary())])


def store_rows(frame: DataFrame, folder: str) -> StoredTable:
    """Write the rows of a DataFrame as Parquet files, one for each partition that has some, and return them.

    Parameters
    ----------
    frame
        Columns of numbers, texts and lists of them.
    folder
        Empty or missing folder on storage that all machines share.

    Raises
    ------
    DataError
        If a task fails.
    """
    folder = storage.absolute(folder)
    storage.make_dirs(folder)
    with executor_errors(f"storing the rows in {folder}"):
        written = frame.mapInArrow(partial(_write, folder=folder), from_arrow_schema(FILE_ARROW)).collect()
    schema = to_arrow_schema(frame.schema)
    sources = [_source(row["path"], np.frombuffer(row["groups"], np.int64).reshape(-1, 2), schema) for row in written]
    return StoredTable(frame.sparkSession, folder, tuple(sorted(sources, key=lambda source: source.path)))


def _source(path: str, groups: NDArray[np.int64], schema: pa.Schema) -> Source:
    rows, size = groups.sum(axis=0).tolist()
    file = SourceFile(sha256="", bytes=size, rows=rows)  # nobody else sees the file
    return Source(path, file, groups=tuple(RowGroup(*group) for group in groups.tolist()), schema=schema)


def _write(batches: Iterable[pa.RecordBatch], folder: str) -> Iterator[pa.RecordBatch]:
    context = TaskContext.get()
    path = f"part-{context.partitionId() if context else 0:05d}.parquet"
    aside = storage.join(folder, f".{path}.{uuid.uuid4().hex}")
    groups: list[RowGroup] = []
    try:
        with storage.open_file(aside, "wb") as stream:
            writer = None
            for table in _gathered(batches):
                writer = writer or pq.ParquetWriter(
                    stream, table.schema, compression="lz4", use_dictionary=False, write_statistics=False
                )
                writer.write_table(table, row_group_size=table.num_rows)
                groups.append(RowGroup(table.num_rows, table.nbytes))
            if writer is not None:
                writer.close()
        if groups:
            storage.rename(aside, storage.join(folder, path))
    finally:
        storage.remove(aside)
    if groups:
        columns = [pa.array([path]), pa.array([np.array(groups, np.int64).tobytes()])]
        yield pa.RecordBatch.from_arrays(columns, schema=FILE_ARROW)


def _gathered(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.Table]:
    """Yield the rows of batches in tables of about :data:`GROUP_BYTES`."""
    waiting: list[pa.RecordBatch] = []
    size = 0
    for batch in batches:
        if batch.num_rows:
            waiting.append(batch)
            size += batch.nbytes
        if size >= GROUP_BYTES:
            yield pa.Table.from_batches(waiting)
            waiting, size = [], 0
    if waiting:
        yield pa.Table.from_batches(waiting)
