"""Shard files: written by the executors with exact rows and one row group, read back by the driver.

A file is built in memory, written under a hidden name and renamed, so that a failed, repeated or speculative task
leaves either the finished file or none; all attempts write the same bytes.
"""

from __future__ import annotations

import hashlib
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sparton import storage
from sparton.data.encoder import Encoder, Mask
from sparton.data.layout import Group, bucket_of
from sparton.data.manifest import VERIFY_THREADS, Shard
from sparton.data.packing import ID, KEY, STORED, in_order, packed_schema
from sparton.data.quarantine_writer import Quarantine, QuarantineFile
from sparton.data.settings import TRAIN
from sparton.data.tail import Tail
from sparton.errors import DataError

RESULT_ARROW = pa.schema(
    [
        pa.field("group", pa.int32()),
        pa.field("shard", pa.int32()),
        pa.field("rows", pa.int64()),
        pa.field("size", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("moments", pa.binary()),
        pa.field("codes", pa.binary()),
        pa.field("surplus", pa.binary()),
    ]
)

CLOSING = -1
"""Shard number of the last result of a group, whose ``rows`` are all that arrived, each id once."""


@dataclass(frozen=True)
class Result:
    """What a task reports: one per shard, and a closing one per group.

    ``codes`` and ``surplus`` (int64 as bytes) tell of the closing result in which buckets ids repeat, and how many
    rows there are beside the first of each.
    """

    group: int
    shard: int
    rows: int
    size: int = 0
    sha256: str = ""
    moments: bytes = b""
    codes: bytes = b""
    surplus: bytes = b""


@dataclass(frozen=True)
class WriteJob:
    """What the writing tasks need.

    Attributes
    ----------
    folder
        Absolute path or URL of the set.
    groups
        All groups, by number.
    encoder
        The kind of table.
    rows_per_shard, compression
        Rows of a full shard, and the codec of the files.
    tails
        For each split that gets more rows, the shard whose rows are placed anew among them.
    quarantine
        Where repeated rows go; None where their place in the input is not known.
    """

    folder: str
    groups: tuple[Group, ...]
    encoder: Encoder
    rows_per_shard: int
    compression: str
    tails: Mapping[str, Shard] = field(default_factory=dict)
    quarantine: Quarantine | None = None

    @property
    def schema(self) -> pa.Schema:
        """Columns of the rows that arrive."""
        return packed_schema(self.encoder, bool(self.tails), self.quarantine is not None)


def shard_path(split: str, shard: int) -> str:
    """Return a shard's path relative to the set's folder."""
    return f"split={split}/shard-{shard:05d}.parquet"


def write_groups(batches: Iterator[pa.RecordBatch], job: WriteJob) -> Iterator[pa.RecordBatch]:
    """Write the groups of a partition, whose rows come packed; yield the results.

    There is one group in a partition, see :mod:`sparton.data.routing`; several would be written one after the other.
    """
    blobs: dict[int, list[pa.Buffer]] = {}
    for batch in batches:
        for number, rows in zip(batch.column("group").to_pylist(), batch.column("rows"), strict=True):
            blobs.setdefault(number, []).append(rows.as_buffer())
    for number in sorted(blobs):
        group = job.groups[number]
        writer = _GroupWriter(job, group)
        for ordered in in_order(blobs.pop(number), job.schema, group.skip, job.rows_per_shard):
            yield _results(writer.add(ordered))
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
        self._surplus: Counter[int] = Counter()
        self._tail = Tail.read(job.folder, job.tails[group.split]) if group.split in job.tails else None
        self._quarantine = job.quarantine
        self._repeated = None if job.quarantine is None else QuarantineFile(self._quarantine_path(job.quarantine))

    def add(self, batch: pa.RecordBatch) -> list[Result]:
        """Take the next rows; return the shards that they completed."""
        first = self._first_of_id(batch.column(ID).to_numpy())
        position = self._seen + np.cumsum(first) - 1
        own = (position >= self.group.skip) & (position < self.group.skip + self.group.rows)
        self._seen += int(np.count_nonzero(first))
        if not first.all():
            self._note_repeats(batch, ~first, own)
        rows = np.flatnonzero(own & first)
        if not rows.size:
            return []
        self._pending.append(self._encode(_chosen(batch, rows)))
        self._pending_rows += rows.size
        return self._cut() if self._pending_rows >= self._job.rows_per_shard else []

    def close(self) -> list[Result]:
        """Write what is left and report how many rows arrived."""
        last = [self._write(pa.Table.from_batches(self._pending))] if self._pending_rows else []
        if self._repeated is not None:
            self._repeated.commit()
        codes, surplus = (np.array(list(part), np.int64).tobytes() for part in (self._surplus, self._surplus.values()))
        return [*last, Result(self.group.number, CLOSING, self._seen, codes=codes, surplus=surplus)]

    def _quarantine_path(self, quarantine: Quarantine) -> str:
        return f"{quarantine.start}-repeated-{self.group.number:05d}.parquet"

    def _first_of_id(self, ids: NDArray[np.int64]) -> Mask:
        """Tell which rows are the first with their id: equal ids have equal keys, so they follow each other."""
        first = np.ones(ids.size, bool)
        first[1:] = ids[1:] != ids[:-1]
        first[0] = self._last_id is None or int(ids[0]) != self._last_id
        self._last_id = int(ids[-1])
        return first

    def _note_repeats(self, batch: pa.RecordBatch, repeats: Mask, own: Mask) -> None:
        codes = self.group.base + bucket_of(batch.column(KEY).to_numpy()[repeats])
        self._surplus.update(codes.tolist())
        if self._repeated is not None and self._quarantine is not None:
            # The group that stores the first row with an id reports the others, so that no two groups do.
            rows = self._quarantine.repeated(batch, np.flatnonzero(repeats & own), self._job.encoder.id_name)
            self._repeated.add(rows)

    def _encode(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        if self._tail is None:
            return self._new(batch)
        stored = batch.column(STORED).to_numpy(zero_copy_only=False)
        new = self._new(batch.filter(pa.array(~stored)))
        return self._tail.merged(new, batch.column(ID).to_numpy()[stored], stored)

    def _new(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows of the set that new rows become."""
        encoder = self._job.encoder
        columns = [batch.column(ID), *(batch.column(field.name).cast(field.type) for field in encoder.payload)]
        return encoder.encode(pa.RecordBatch.from_arrays(columns, [ID, *encoder.payload.names]))

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
        moments = self._moments(table) if self.group.split == TRAIN else b""
        result = Result(self.group.number, self._shard, table.num_rows, size, digest, moments)
        self._shard += 1
        return result

    def _moments(self, table: pa.Table) -> bytes:
        new = table if self._tail is None else table.filter(pa.array(~self._tail.holds(table.column(0).to_numpy())))
        return self._job.encoder.moments(new.combine_chunks()).to_bytes()


def _chosen(batch: pa.RecordBatch, rows: NDArray[np.int64]) -> pa.RecordBatch:
    """Return these rows of a batch, without a copy where they follow each other."""
    start, stop = int(rows[0]), int(rows[-1]) + 1
    return batch.slice(start, rows.size) if stop - start == rows.size else batch.take(pa.array(rows))


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


def check_footers(folder: str, shards: Sequence[Shard], schema: pa.Schema) -> None:
    """Read the footer of every shard and compare it with what was reported.

    Raises
    ------
    DataError
        Naming the first file that is missing or has other rows, row groups, columns or size.
    """
    for problem in bad_footers(folder, shards, schema):
        raise DataError(f"{problem}; the storage altered the file")


def bad_footers(folder: str, shards: Sequence[Shard], schema: pa.Schema) -> Iterator[str]:
    """Yield one line for each shard that is missing or has other rows, row groups, columns or size than expected."""
    with ThreadPoolExecutor(VERIFY_THREADS) as pool:
        for problem in pool.map(lambda shard: footer_problem(storage.join(folder, shard.path), shard, schema), shards):
            if problem:
                yield problem


def footer_problem(path: str, shard: Shard, schema: pa.Schema) -> str | None:
    """Return what is wrong with the footer of one shard, or None."""
    if not storage.exists(path):
        return (
            f"{path}: written by an executor but not seen by the driver; "
            "the output must lie on storage that all machines share"
        )
    try:
        with storage.open_file(path) as stream:
            metadata = pq.read_metadata(stream)
        found = (storage.size(path), metadata.num_rows, metadata.num_row_groups, metadata.schema.to_arrow_schema())
    except (OSError, ValueError) as error:
        return f"{path}: not readable as Parquet ({' '.join(str(error).split())})"
    expected = (shard.bytes, shard.rows, 1, schema)
    for name, is_, should in zip(("bytes", "rows", "row groups", "schema"), found, expected, strict=True):
        if is_ != should:
            return f"{path}: {name} read back are {is_}, written were {should}"
    return None


def _results(results: list[Result]) -> pa.RecordBatch:
    return pa.RecordBatch.from_pylist([asdict(result) for result in results], schema=RESULT_ARROW)
