"""The light pass over the input: sound and selected rows per bucket, and what became of the others."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.sql import functions
from pyspark.sql.pandas.types import from_arrow_schema

from sparton.data.layout import bucket_of, code_of, shuffle_key, split_of
from sparton.data.manifest import Counts
from sparton.data.screening import REASONS, REQUIRED, JetRows, Mask, Screened, screen
from sparton.data.settings import PrepareSettings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

Indices = NDArray[np.int64]

CRITERIA = ("label", "mass_window")
"""Why a sound jet is not selected, in the order in which it is asked."""

TRUNCATION = ("truncated_jets", "truncated_constituents", "dropped_constituents", "reordered_jets")
TALLIES = ("read", *REASONS, *CRITERIA, *TRUNCATION)

COUNT_ARROW = pa.schema([pa.field("code", pa.int64()), pa.field("rows", pa.int64())])
PACKED_ARROW = pa.schema([pa.field("codes", pa.binary()), pa.field("rows", pa.binary())])


@dataclass(frozen=True)
class Census:
    """Distinct bucket codes in rising order with their rows, int64[k] each, and the tally for the manifest."""

    codes: Indices
    rows: Indices
    counts: Counts


def take_census(df: DataFrame, settings: PrepareSettings) -> Census:
    """Count the rows of a jets table per bucket, reading it once; only counts travel between machines."""
    counted = df.select(*REQUIRED).mapInArrow(
        partial(_count_batches, settings=settings), from_arrow_schema(COUNT_ARROW)
    )
    totals = counted.groupBy("code").agg(functions.sum("rows").alias("rows"))
    packed = totals.mapInArrow(_pack, from_arrow_schema(PACKED_ARROW)).collect()
    codes = np.concatenate([np.frombuffer(row["codes"], np.int64) for row in packed] + [np.zeros(0, np.int64)])
    rows = np.concatenate([np.frombuffer(row["rows"], np.int64) for row in packed] + [np.zeros(0, np.int64)])
    order = np.argsort(codes)
    codes, rows = codes[order], rows[order]
    tally = dict(zip((-1 - codes[codes < 0]).tolist(), rows[codes < 0].tolist(), strict=True))
    kept = codes >= 0
    return Census(codes[kept], rows[kept], _counts([tally.get(index, 0) for index in range(len(TALLIES))], rows[kept]))


def selected(rows: JetRows, settings: PrepareSettings) -> tuple[Mask, Counter[str]]:
    """Return which jets the settings keep, bool[n], and how many are excluded by each of :data:`CRITERIA`."""
    excluded: Counter[str] = Counter()
    kept = np.ones(len(rows), bool)
    if settings.labels is not None:
        wanted = pc.is_in(rows.label, value_set=pa.array(settings.labels, pa.string()))
        kept = wanted.to_numpy(zero_copy_only=False)
        excluded["label"] = int(np.count_nonzero(~kept))
    if settings.mass_window is not None:
        low, high = settings.mass_window
        inside = (rows.jets.jet_mass > low) & (rows.jets.jet_mass < high)
        excluded["mass_window"] = int(np.count_nonzero(kept & ~inside))
        kept = kept & inside
    return kept, excluded


def codes_of(jet_id: Indices, settings: PrepareSettings) -> tuple[Indices, Indices, Indices]:
    """Return (split, bucket, sort key) of jets, int64[n] each."""
    key = shuffle_key(jet_id, settings.seed)
    return split_of(jet_id, tuple(settings.splits.values())), bucket_of(key), key


def _count_batches(batches: Iterable[pa.RecordBatch], settings: PrepareSettings) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        screened = screen(batch)
        kept, excluded = selected(screened.rows, settings)
        tally = {"read": batch.num_rows, **screened.rejected, **excluded, **_truncation(screened, kept, settings)}
        split, bucket, _ = codes_of(screened.rows.jet_id[kept], settings)
        codes, counts = np.unique(code_of(split, bucket), return_counts=True)
        tallied = np.array([-1 - TALLIES.index(name) for name in tally], np.int64)
        columns = [np.concatenate([tallied, codes]), np.concatenate([list(tally.values()), counts]).astype(np.int64)]
        yield pa.RecordBatch.from_arrays([pa.array(column) for column in columns], schema=COUNT_ARROW)


def _truncation(screened: Screened, kept: Mask, settings: PrepareSettings) -> dict[str, int]:
    over = screened.rows.jets.n_constituents[kept].astype(np.int64) - settings.features.n_particles
    values = (
        np.count_nonzero(over > 0),
        over[over > 0].sum(),
        screened.dropped[kept].sum(),
        np.count_nonzero(screened.reordered[kept]),
    )
    return dict(zip(TRUNCATION, map(int, values), strict=True))


def _pack(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Turn the rows of a partition into one, so that collecting them costs bytes and not objects."""
    table = pa.Table.from_batches(batches, schema=COUNT_ARROW)
    content = [[table.column(name).to_numpy().tobytes()] for name in COUNT_ARROW.names]
    yield pa.RecordBatch.from_arrays([pa.array(column, pa.binary()) for column in content], schema=PACKED_ARROW)


def _counts(tally: list[int], rows: Indices) -> Counts:
    values = dict(zip(TALLIES, tally, strict=True))
    return Counts(
        read=values["read"],
        kept=int(rows.sum()),
        rejected={name: values[name] for name in REASONS if values[name]},
        excluded={name: values[name] for name in CRITERIA if values[name]},
        **{name: values[name] for name in TRUNCATION},
    )
