"""One task's part of the quarantine: a Parquet file that appears whole at the end; none if nothing was rejected."""

from __future__ import annotations

import contextlib
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import IO, Any
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sparton import storage
from sparton.data.encoder import FILE, ROW, Rejected
from sparton.data.quarantine import QUARANTINE_ARROW
from sparton.data.source_files import at_place

UNKNOWN_FILE = "(not read from files)"


@dataclass(frozen=True)
class Quarantine:
    """Where rejected rows of a table go.

    Attributes
    ----------
    start
        Start of the paths of the files that they are written to.
    checksums
        SHA-256 (hex) of the files that rows come from, by :func:`sparton.data.source_files.place_of` their paths.
    """

    start: str
    checksums: Mapping[str, str] = field(default_factory=dict)

    def rows(self, batch: pa.RecordBatch, ids: pa.Array, rejected: Rejected) -> pa.RecordBatch:
        """Return the quarantine's rows for those of a batch that were rejected; ``ids`` are those of the batch."""
        row = pa.array(rejected.row)
        count = rejected.row.size
        file, number = (_taken(batch, name, row) for name in (FILE, ROW))
        columns = [
            pa.repeat(pa.scalar(UNKNOWN_FILE), count) if file is None else _readable(file),
            pa.nulls(count, pa.int64()) if number is None else number,
            ids.take(row),
            pa.array(rejected.reason, pa.string()),
            pa.array(rejected.detail, pa.string()),
            pa.nulls(count, pa.string()) if file is None else self._checksums(file),
        ]
        return pa.RecordBatch.from_arrays(columns, schema=QUARANTINE_ARROW)

    def repeated(self, batch: pa.RecordBatch, rows: NDArray[np.int64], id_name: str) -> pa.RecordBatch:
        """Return the quarantine's rows for further rows of a batch with an id that another row has."""
        rejected = Rejected.because(duplicate_reason(id_name), rows, f"{id_name} of another row, which is kept")
        return self.rows(batch, batch.column("id"), rejected)

    def _checksums(self, file: pa.Array) -> pa.Array:
        encoded = file.fill_null("").dictionary_encode()
        found = [at_place(url, self.checksums) for url in encoded.dictionary.to_pylist()]
        return pa.array(found, pa.string()).take(encoded.indices)


class QuarantineFile:
    """Takes rejected rows; memory is that of the batches that hold them."""

    def __init__(self, path: str) -> None:
        self._path = path
        self._aside = storage.join(storage.parent(path), f".{storage.name(path)}.{uuid.uuid4().hex}")
        self._stream: IO[Any] | None = None
        self._writer: pq.ParquetWriter | None = None

    def add(self, rows: pa.RecordBatch) -> None:
        """Write rows of the schema :data:`sparton.data.quarantine.QUARANTINE_ARROW`."""
        if rows.num_rows == 0:
            return
        if self._writer is None:
            storage.make_dirs(storage.parent(self._path))
            self._stream = storage.open_file(self._aside, "wb")
            self._writer = pq.ParquetWriter(self._stream, QUARANTINE_ARROW, compression="zstd")
        self._writer.write_batch(rows)

    def commit(self) -> None:
        """Put the file into place; what another attempt of the task wrote is replaced by the same."""
        if self._close():
            storage.rename(self._aside, self._path)

    def abort(self) -> None:
        """Leave nothing behind."""
        if self._close():
            storage.remove(self._aside)

    def _close(self) -> bool:
        if self._writer is None or self._stream is None:
            return False
        self._writer.close()
        self._stream.close()
        self._writer = self._stream = None
        return True


@contextlib.contextmanager
def quarantine_file(path: str) -> Iterator[QuarantineFile]:
    """Yield the file at ``path``: committed when the block ends well, else without a trace."""
    file = QuarantineFile(path)
    try:
        yield file
    except BaseException:
        file.abort()
        raise
    file.commit()


def duplicate_reason(id_name: str) -> str:
    """Return the reason for which all but one of the rows with one id are rejected."""
    return f"duplicate_{id_name}"


def _readable(file: pa.Array) -> pa.Array:
    """Return URLs as a person writes them."""
    encoded = file.fill_null(UNKNOWN_FILE).dictionary_encode()
    return pa.array([unquote(url) for url in encoded.dictionary.to_pylist()], pa.string()).take(encoded.indices)


def _taken(batch: pa.RecordBatch, name: str, rows: pa.Array) -> pa.Array | None:
    index = batch.schema.get_field_index(name)
    if index < 0:
        return None
    found = batch.column(index).take(rows)
    return found.cast(pa.string()) if pa.types.is_dictionary(found.type) else found
