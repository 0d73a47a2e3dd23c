"""Shard files: written by the executors with exact rows and one row group, read back by the driver.

A file is built in memory, written under a hidden name and renamed, so that a failed, repeated or speculative task
leaves either the finished file or none; all attempts write the same bytes.
"""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sparton import storage
from sparton.data.layout import Group
from sparton.data.manifest import VERIFY_THREADS, Shard
from sparton.data.schema import TRAINING_ARROW
from sparton.errors import DataError

RESULT_ARROW = pa.schema(
    [
        pa.field("group", pa.int32()),
        pa.field("shard", pa.int32()),
        pa.field("rows", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("moments", pa.binary()),
        pa.field("duplicates", pa.int64()),
        pa.field("duplicate", pa.int64()),
    ]
)

CLOSING = -1
"""Shard number of the last result of a group, whose ``rows`` are all that arrived."""


@dataclass(frozen=True)
class Result:
    """What a task reports: one per shard, and a closing one per group with the repeated ids that it met."""

    group: int
    shard: int
    rows: int
    size: int = 0
    sha256: str = ""
    moments: bytes = b""
    duplicates: int = 0
    duplicate: int | None = None


@dataclass(frozen=True)
class WriteJob:
    """What the writing tasks need.

    Attributes
    ----------
    folder
        Absolute path or URL of the set.
    groups
        All groups, by number.
    rows_per_shard, compression
        Rows of a full shard, and the codec of the files.
    encode
        Turns a batch that crossed the exchange into rows of the set.
    measured, summarise
        The split that statistics are taken from, and what returns the bytes that a shard's table contributes.
    """

    folder: str
    groups: tuple[Group, ...]
    rows_per_shard: int
    compression: str
    encode: Callable[[pa.RecordBatch], pa.RecordBatch]
    measured: str
    summarise: Callable[[pa.Table], bytes]


def shard_path(split: str, shard: int) -> str:
    """Return a shard's path relative to the set's folder."""
    return f"split={split}/shard-{shard:05d}.parquet"


def write_groups(batches: Iterator[pa.RecordBatch], job: WriteJob) -> Iterator[pa.RecordBatch]:
    """Write the groups of a partition, whose rows come sorted by group and key; yield the results."""
    writer: _GroupWriter | None = None
    for batch in batches:
        group = batch.column("group").to_numpy()
        borders = [0, *(np.flatnonzero(np.diff(group)) + 1).tolist(), batch.num_rows]
        for start, stop in pairwise(borders):
            if stop == start:
                continue
            number = int(group[start])
            if writer is not None and writer.group.number != number:
                yield _results(writer.close())
                writer = None
            writer = writer or _GroupWriter(job, job.groups[number])
            yield _results(writer.add(batch.slice(start, stop - start)))
    if writer is not None:
        yield _results(writer.close())


class _GroupWriter:
    """Cuts the rows of one group into shards; holds no more than one shard's rows and a batch."""

    def __init__(self, job: WriteJob, group: Group) -> None:
        self.group = group
        self._job = job
        self._shard = group.first_shard
        self._seen = 0
        self._pending: list[pa.RecordBatch] = []
        self._pending_rows = 0
        self._last_id: int | None = None
        self._duplicates = 0
        self._duplicate: int | None = None

    def add(self, batch: pa.RecordBatch) -> list[Result]:
        """Take the next rows; return the shards that they completed."""
        start = max(0, self.group.skip - self._seen)
        stop = min(batch.num_rows, self.group.skip + self.group.rows - self._seen)
        self._seen += batch.num_rows
        self._look_for_duplicates(batch.column("jet_id").to_numpy(), slice(start, max(start, stop)))
        if stop <= start:
            return []
        self._pending.append(self._job.encode(batch.slice(start, stop - start)))
        self._pending_rows += stop - start
        return self._cut() if self._pending_rows >= self._job.rows_per_shard else []

    def close(self) -> list[Result]:
        """Write what is left and report how many rows arrived."""
        last = [self._write(pa.Table.from_batches(self._pending))] if self._pending_rows else []
        closing = Result(self.group.number, CLOSING, self._seen, duplicates=self._duplicates, duplicate=self._duplicate)
        return [*last, closing]

    def _look_for_duplicates(self, jet_id: NDArray[np.int64], own: slice) -> None:
        """Count repeated ids among the group's own rows: equal ids have equal keys, so they follow each other."""
        repeated = np.zeros(jet_id.size, bool)
        repeated[1:] = jet_id[1:] == jet_id[:-1]
        repeated[0] = self._last_id is not None and jet_id[0] == self._last_id
        self._last_id = int(jet_id[-1])
        if repeated[own].any():
            self._duplicates += int(np.count_nonzero(repeated[own]))
            self._duplicate = int(jet_id[own][repeated[own]][0])

    def _cut(self) -> list[Result]:
        table, rows = pa.Table.from_batches(self._pending), self._job.rows_per_shard
        whole = table.num_rows - table.num_rows % rows
        results = [self._write(table.slice(start, rows)) for start in range(0, whole, rows)]
        rest = table.slice(whole)
        self._pending, self._pending_rows = rest.to_batches(), rest.num_rows
        return results

    def _write(self, rows: pa.Table) -> Result:
        table = rows.combine_chunks()  # the bytes of the file must not depend on how the rows arrived
        path = storage.join(self._job.folder, shard_path(self.group.split, self._shard))
        size, digest = write_file(path, table, self._job.compression)
        moments = self._job.summarise(table) if self.group.split == self._job.measured else b""
        result = Result(self.group.number, self._shard, table.num_rows, size, digest, moments)
        self._shard += 1
        return result


def write_file(path: str, table: pa.Table, compression: str) -> tuple[int, str]:
    """Write a table as one row group, whole or not at all; return size in bytes and SHA-256 (hex)."""
    sink = pa.BufferOutputStream()
    plain = [field.name for field in table.schema if not pa.types.is_binary(field.type)]
    pq.write_table(
        table,
        sink,
        row_group_size=max(table.num_rows, 1),
        compression=compression,
        use_dictionary=[name for name in plain if pa.types.is_string(table.schema.field(name).type)],
        write_statistics=plain,
    )
    content = sink.getvalue()
    aside = storage.join(storage.parent(path), f".{storage.name(path)}.{uuid.uuid4().hex}")
    try:
        with storage.open_file(aside, "wb") as stream:
            stream.write(content)
        storage.rename(aside, path)
    except BaseException:
        storage.remove(aside)
        raise
    return content.size, hashlib.sha256(content).hexdigest()


def check_footers(folder: str, shards: Sequence[Shard]) -> None:
    """Read the footer of every shard and compare it with what was reported.

    Raises
    ------
    DataError
        Naming the first file that is missing or has other rows, row groups, columns or size.
    """
    with ThreadPoolExecutor(VERIFY_THREADS) as pool:
        for problem in pool.map(lambda shard: _footer_problem(storage.join(folder, shard.path), shard), shards):
            if problem:
                raise DataError(problem)


def _footer_problem(path: str, shard: Shard) -> str | None:
    if not storage.exists(path):
        return (
            f"{path}: written by an executor but not seen by the driver; "
            "the output must lie on storage that all machines share"
        )
    with storage.open_file(path) as stream:
        metadata = pq.read_metadata(stream)
    found = (storage.size(path), metadata.num_rows, metadata.num_row_groups, metadata.schema.to_arrow_schema())
    expected = (shard.bytes, shard.rows, 1, TRAINING_ARROW)
    for name, is_, should in zip(("bytes", "rows", "row groups", "schema"), found, expected, strict=True):
        if is_ != should:
            return f"{path}: {name} read back are {is_}, written were {should}; the storage altered the file"
    return None


def _results(results: list[Result]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([asdict(result) for result in results], schema=RESULT_ARROW)
