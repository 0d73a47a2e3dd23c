"""The light pass over the input: rows to store per bucket, and what became of the others.

It also writes the quarantine: rows that cannot be used, each with its place in the input and the reason.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import functions
from pyspark.sql.pandas.types import from_arrow_schema

from sparton.data.encoder import FILE, ROW, Encoder, Indices
from sparton.data.layout import bucket_of, code_of, shuffle_key, split_of
from sparton.data.manifest import Counts
from sparton.data.quarantine_writer import Quarantine, quarantine_file
from sparton.data.settings import SetSettings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

COUNT_ARROW = pa.schema([pa.field("code", pa.int64()), pa.field("rows", pa.int64())])
PACKED_ARROW = pa.schema([pa.field("codes", pa.binary()), pa.field("rows", pa.binary())])


@dataclass(frozen=True)
class Census:
    """Distinct bucket codes in rising order with their rows, int64[k] each, and the tally for the manifest."""

    codes: Indices
    rows: Indices
    counts: Counts

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


def take_census(df: DataFrame, encoder: Encoder, settings: SetSettings, quarantine: Quarantine | None = None) -> Census:
    """Count the rows of a table per bucket, reading it once; only counts travel between machines.

    Parameters
    ----------
    df
        Rows of the input, with :data:`sparton.data.encoder.FILE` and :data:`sparton.data.encoder.ROW`.
    encoder, settings
        The kind of table, and the settings of the set.
    quarantine
        Where rejected rows go, a file for each task that has some; None: nowhere.
    """
    names = _names(encoder)
    columns = dict.fromkeys((*encoder.columns, *(name for name in (FILE, ROW) if name in df.columns)))
    count = partial(_count_batches, encoder=encoder, settings=settings, names=names, quarantine=quarantine)
    counted = df.select(*columns).mapInArrow(count, from_arrow_schema(COUNT_ARROW))
    totals = counted.groupBy("code").agg(functions.sum("rows").alias("rows"))
    packed = totals.mapInArrow(_pack, from_arrow_schema(PACKED_ARROW)).collect()
    codes = np.concatenate([np.frombuffer(row["codes"], np.int64) for row in packed] + [np.zeros(0, np.int64)])
    rows = np.concatenate([np.frombuffer(row["rows"], np.int64) for row in packed] + [np.zeros(0, np.int64)])
    order = np.argsort(codes)
    codes, rows = codes[order], rows[order]
    tally = {names[-1 - code]: number for code, number in zip(codes.tolist(), rows.tolist(), strict=True) if code < 0}
    kept = codes >= 0
    return Census(codes[kept], rows[kept], _counts(encoder, tally, int(rows[kept].sum())))


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
    return ("read", *encoder.reasons, *encoder.criteria, *encoder.alterations)


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
    with quarantine_file(f"{start}-rejected-{task:05d}.parquet") as file:
        for batch in batches:
            sifted = encoder.sift(batch)
            if quarantine is not None and sifted.rejected.row.size:
                file.add(quarantine.rows(batch, encoder.source_ids(batch), sifted.rejected))
            tally = Counter({"read": batch.num_rows}) + sifted.rejected.counts() + sifted.tally
            codes, counts = count_ids(sifted.ids, settings)
            tallied = np.array([-1 - names.index(name) for name in tally], np.int64)
            values = np.array(list(tally.values()), np.int64)
            columns = [np.concatenate([tallied, codes]), np.concatenate([values, counts])]
            yield pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=COUNT_ARROW)


def _pack(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Turn the rows of a partition into one, so that collecting them costs bytes and not objects."""
    table = pa.Table.from_batches(batches, schema=COUNT_ARROW)
    content = [[table.column(name).to_numpy().tobytes()] for name in COUNT_ARROW.names]
    yield pa.RecordBatch.from_arrays([pa.array(column, pa.binary()) for column in content], schema=PACKED_ARROW)


def _counts(encoder: Encoder, tally: dict[str, int], kept: int) -> Counts:
    def part(names: tuple[str, ...]) -> dict[str, int]:
        return {name: tally[name] for name in names if tally.get(name)}

    return Counts(
        read=tally.get("read", 0),
        kept=kept,
        rejected=part(encoder.reasons),
        excluded=part(encoder.criteria),
        altered=part(encoder.alterations),
    )
