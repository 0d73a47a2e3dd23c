"""Parquet files of one task: under a hidden name until whole, with a deterministic name, of a limited size.

A failed, repeated or speculative task leaves finished files or none; all attempts write the same bytes.
"""

from __future__ import annotations

import contextlib
import uuid
from dataclasses import dataclass
from types import TracebackType
from typing import IO, Any, Self

import pyarrow as pa
import pyarrow.parquet as pq

from sparton import storage

ROW_GROUP_BYTES = 64 << 20


@dataclass(frozen=True)
class WrittenFile:
    """A finished file: name in its folder, rows and bytes."""

    name: str
    rows: int
    bytes: int


class ParquetSink:
    """Writes batches of one schema to ``<stem>-00.parquet``, ``<stem>-01.parquet`` ... in a folder.

    As a context manager it leaves nothing unfinished behind when the block fails.

    Parameters
    ----------
    folder, stem
        Where, and how the names start.
    schema
        Of the batches.
    compression
        Codec of the files. Dictionaries are made for strings alone: momenta do not repeat.
    file_bytes
        Size at which a new file is begun.
    """

    def __init__(self, folder: str, stem: str, schema: pa.Schema, compression: str, file_bytes: int) -> None:
        self._folder = folder
        self._stem = stem
        self._schema = schema
        self._compression = compression
        self._file_bytes = file_bytes
        self._dictionaries = [field.name for field in schema if field.type == pa.string()]
        self._pending: list[pa.RecordBatch] = []
        self._pending_bytes = 0
        self._rows = 0
        self._aside = ""
        self._stream: IO[Any] | None = None
        self._writer: pq.ParquetWriter | None = None
        self._files: list[WrittenFile] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.abort()

    def add(self, batch: pa.RecordBatch) -> None:
        """Take the rows of a batch."""
        if not batch.num_rows:
            return
        self._pending.append(batch)
        self._pending_bytes += batch.nbytes
        if self._pending_bytes >= ROW_GROUP_BYTES:
            self._flush()

    def close(self) -> list[WrittenFile]:
        """Finish the last file and return all of them; none where there were no rows."""
        self._flush()
        self._finish()
        return self._files

    def abort(self) -> None:
        """Leave nothing unfinished behind; files that are whole stay."""
        writer, stream, self._writer, self._stream, self._pending = self._writer, self._stream, None, None, []
        if writer is not None and stream is not None:
            # On a full disk closing fails as writing did.
            for part in (writer, stream):
                with contextlib.suppress(OSError, pa.ArrowException):
                    part.close()
            storage.remove(self._aside)

    def _flush(self) -> None:
        if not self._pending:
            return
        table = pa.Table.from_batches(self._pending, self._schema)
        self._pending, self._pending_bytes = [], 0
        writer = self._writer or self._start()
        writer.write_table(table, row_group_size=table.num_rows)
        self._rows += table.num_rows
        if self._stream is not None and self._stream.tell() >= self._file_bytes:
            self._finish()

    def _start(self) -> pq.ParquetWriter:
        self._aside = storage.join(self._folder, f".{self._stem}.{uuid.uuid4().hex}")
        self._stream = storage.open_file(self._aside, "wb")
        self._writer = pq.ParquetWriter(
            self._stream, self._schema, compression=self._compression, use_dictionary=self._dictionaries
        )
        return self._writer

    def _finish(self) -> None:
        if self._writer is None or self._stream is None:
            return
        self._writer.close()
        size = self._stream.tell()
        self._stream.close()
        self._writer = self._stream = None
        name = f"{self._stem}-{len(self._files):02d}.parquet"
        storage.rename(self._aside, storage.join(self._folder, name))
        self._files.append(WrittenFile(name, self._rows, size))
        self._rows = 0
