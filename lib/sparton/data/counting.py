"""The light pass over the input: rows to store per bucket, and what became of the others.

It also writes the quarantine: rows that cannot be used, each with its place in the input and the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql.pandas.types import from_arrow_schema

from sparton.data.encoder import FILE, ROW, Encoder, Indices
from sparton.data.layout import bucket_of, code_of, shuffle_key, split_of
from sparton.data.manifest import Counts
from sparton.data.quarantine_writer import Quarantine, quarantine_file
from sparton.data.rows import Rows
from sparton.data.settings import SetSettings

COUNTS_ARROW = pa.schema([pa.field("range", pa.int32()), pa.field("codes", pa.binary()), pa.field("rows", pa.binary())])
"""Counts of the codes in a range: distinct codes in rising order, less the first of the range, as uint16; and their
rows, as the smallest whole numbers without sign that hold them."""

RANGE_BITS = 14
"""Codes that differ in these bits alone are added up together: 64 ranges for each split."""

ADD_CODES = 1 << 22
"""Counts that a task gathers before it adds up those of each code."""

READ, PACKED = "read", "packed"
"""Names under which rows, and bytes of rows to store, are counted."""


@dataclass(frozen=True)
class Census:
    """What the input holds.

    Attributes
    ----------
    codes, rows
        Distinct bucket codes in rising order, and the rows to store of each, int64[k].
    counts
        The tally for the manifest.
    row_bytes
        Size of a packed row, on average.
    """

    codes: Indices
    rows: Indices
    counts: Counts
    row_bytes: int = 0

    def changed_by(self, codes: Indices, rows: Indices) -> tuple[Indices, Indices]:
        """Return codes and rows after ``rows`` [m] more (negative: fewer) in the buckets ``codes`` [m]."""
        merged, place = np.unique(np.concatenate([self.codes, codes]), return_inverse=True)
        totals = np.zeros(merged.size, np.int64)
        np.add.at(totals, place, np.concatenate([self.rows, rows]))
        return merged[totals > 0], totals[totals > 0]

    def without(self, codes: Indices, surplus: Indices, reason: str) -> Census:
        """Return the census after ``surplus`` [m] rows of the buckets ``codes`` [m] were rejected for a reason."""
        kept_codes, kept_rows = self.changed_by(codes, -surplus)
        rejected = Counter(self.counts.rejected) + Counter({reason: int(surplus.sum())})
        counts = self.counts.model_copy(update={"kept": int(kept_rows.sum()), "rejected": dict(rejected)})
        return replace(self, codes=kept_codes, rows=kept_rows, counts=counts)


def take_census(rows: Rows, encoder: Encoder, settings: SetSettings, quarantine: Quarantine | None = None) -> Census:
    """Count the rows of a table per bucket, reading it once; only counts travel between machines.

    Parameters
    ----------
    rows
        Rows of the input.
    encoder, settings
        The kind of table, and the settings of the set.
    quarantine
        Where rejected rows go, a file for each task that has some; None: nowhere.
    """
    names = _names(encoder)
    count = partial(_count_batches, encoder=encoder, settings=settings, names=names, quarantine=quarantine)
    counted = rows.mapped((*encoder.columns, FILE, ROW), count, COUNTS_ARROW)
    # Without a number of partitions Spark puts small ones together.
    found = counted.repartition("range").mapInArrow(_add, from_arrow_schema(COUNTS_ARROW)).collect()
    codes, totals = _added(*_unpacked(tuple(row) for row in found))
    tallied = int(np.searchsorted(codes, 0))
    named = zip(codes[:tallied].tolist(), totals[:tallied].tolist(), strict=True)
    tally = {names[-1 - code]: number for code, number in named}
    codes, totals = codes[tallied:], totals[tallied:]
    kept = int(totals.sum())
    return Census(codes, totals, _counts(encoder, tally, kept), tally.get(PACKED, 0) // max(kept, 1))


def codes_of(ids: Indices, settings: SetSettings) -> tuple[Indices, Indices, Indices]:
    """Return (split, bucket, sort key) of rows by their ids, int64[n] each."""
    key = shuffle_key(ids, settings.seed)
    return split_of(ids, tuple(settings.splits.values())), bucket_of(key), key


def count_ids(ids: Indices, settings: SetSettings) -> tuple[Indices, Indices]:
    """Return the distinct bucket codes of rows, and how many rows each has."""
    split, bucket, _ = codes_of(ids, settings)
    codes, counts = np.unique(code_of(split, bucket), return_counts=True)
    return codes, counts.astype(np.int64)


def _names(encoder: Encoder) -> tuple[str, ...]:
    return (READ, PACKED, *encoder.reasons, *encoder.criteria, *encoder.alterations)


def _count_batches(
    batches: Iterable[pa.RecordBatch],
    encoder: Encoder,
    settings: SetSettings,
    names: tuple[str, ...],
    quarantine: Quarantine | None,
) -> Iterator[pa.RecordBatch]:
    context = TaskContext.get()
    task = context.partitionId() if context else 0
    start = quarantine.start if quarantine else ""
    tally: Counter[str] = Counter()
    found = _Found()
    with quarantine_file(f"{start}-rejected-{task:05d}.parquet") as file:
        for batch in batches:
            sifted = encoder.sift(batch)
            if quarantine is not None and sifted.rejected.row.size:
                file.add(quarantine.rows(batch, encoder.source_ids(batch), sifted.rejected))
            tally += Counter({READ: batch.num_rows, PACKED: encoder.packed_bytes(sifted.content)})
            tally += sifted.rejected.counts() + sifted.tally
            split, bucket, _ = codes_of(sifted.ids, settings)
            found.add(code_of(split, bucket), np.ones(bucket.size, np.int64))
    numbers = np.array([-1 - names.index(name) for name in tally], np.int64)
    found.add(numbers, np.array(list(tally.values()), np.int64))
    yield from _packed(*found.added())


class _Found:
    """Counts of codes, added up once many have come."""

    def __init__(self) -> None:
        self._codes: list[Indices] = []
        self._rows: list[Indices] = []
        self._waiting = 0

    def add(self, codes: Indices, rows: Indices) -> None:
        self._codes.append(codes)
        self._rows.append(rows)
        self._waiting += codes.size
        if self._waiting > ADD_CODES:
            codes, rows = self.added()
            self._codes, self._rows, self._waiting = [codes], [rows], 0

    def added(self) -> tuple[Indices, Indices]:
        return _added(np.concatenate(self._codes), np.concatenate(self._rows))


def _added(codes: Indices, rows: Indices) -> tuple[Indices, Indices]:
    """Return distinct codes in rising order and the sum of the rows of each."""
    order = np.argsort(codes)
    ranked = codes[order]
    first = _starts(ranked)
    return ranked[first], np.add.reduceat(rows[order], first) if first.size else rows


def _starts(ranked: Indices) -> Indices:
    """Return where in rising values another one than before begins."""
    return np.flatnonzero(np.diff(ranked, prepend=ranked[:1] - 1))


def _packed(codes: Indices, rows: Indices) -> Iterator[pa.RecordBatch]:
    """Yield counts of rising codes, packed for each range that has some."""
    part = codes >> RANGE_BITS
    starts = _starts(part)
    if starts.size:
        within = np.split((codes & ((1 << RANGE_BITS) - 1)).astype(np.uint16), starts[1:])
        counted = [
            piece.astype(np.min_scalar_type(piece.max())) for piece in np.split(rows.astype(np.uint64), starts[1:])
        ]
        columns = [[piece.tobytes() for piece in pieces] for pieces in (within, counted)]
        arrays = [pa.array(part[starts], pa.int32()), *(pa.array(column, pa.binary()) for column in columns)]
        yield pa.RecordBatch.from_arrays(arrays, schema=COUNTS_ARROW)


def _unpacked(counts: Iterable[tuple[int, Any, Any]]) -> tuple[Indices, Indices]:
    """Return codes and rows, int64, of ranges with their packed counts."""
    codes, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for number, within, counted in counts:
        place = np.frombuffer(within, np.uint16)
        codes.append((number << RANGE_BITS) + place.astype(np.int64))
        rows.append(np.frombuffer(counted, f"u{len(counted) // place.size}").astype(np.int64))
    return np.concatenate(codes), np.concatenate(rows)


def _add(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Add up what tasks counted of the same codes."""
    counts = (
        (number, within.as_buffer(), counted.as_buffer())
        for batch in batches
        for number, within, counted in zip(batch.column(0).to_pylist(), *batch.columns[1:], strict=True)
    )
    yield from _packed(*_added(*_unpacked(counts)))


def _counts(encoder: Encoder, tally: dict[str, int], kept: int) -> Counts:
    def part(names: tuple[str, ...]) -> dict[str, int]:
        return {name: tally[name] for name in names if tally.get(name)}

    return Counts(
        read=tally.get(READ, 0),
        kept=kept,
        rejected=part(encoder.reasons),
        excluded=part(encoder.criteria),
        altered=part(encoder.alterations),
    )
