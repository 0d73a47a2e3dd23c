"""The one shuffle exchange: each row to the group that writes it, packed (:mod:`sparton.data.packing`)."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparton.data.counting import codes_of
from sparton.data.encoder import FILE, ROW, Encoder, Indices
from sparton.data.layout import Layout
from sparton.data.packing import BLOB_ARROW, BLOB_BYTES, ID, KEY, STORED, Packer, packed_schema
from sparton.data.routing import routes
from sparton.data.rows import Rows
from sparton.data.settings import SetSettings
from sparton.data.tail import read_ids
from sparton.data.tasks import each

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

HANDED_BLOBS = 40
"""Blobs that Spark hands to Python together: 8 MB."""

MAX_RECORDS, MAX_BYTES = "spark.sql.execution.arrow.maxRecordsPerBatch", "spark.sql.execution.arrow.maxBytesPerBatch"


def exchange(
    rows: Rows,
    encoder: Encoder,
    settings: SetSettings,
    layout: Layout,
    stored: Sequence[str] = (),
    located: bool = False,
) -> DataFrame:
    """Return the rows that go into the set with one partition per group: its number ``group``, and blobs ``rows``.

    Parameters
    ----------
    rows
        Rows of the input.
    encoder, settings, layout
        The kind of table, the settings of the set, and which group needs which rows.
    stored
        Shards of the set whose rows get a new place; their ids travel without content, marked by the column
        ``stored``.
    located
        Let the rows' place in the input travel along.
    """
    way = _Way(settings, layout, routes(len(layout.groups)), packed_schema(encoder, bool(stored), located))
    columns = (*encoder.columns, FILE, ROW) if located else encoder.columns
    sent = rows.mapped(columns, partial(_send_rows, encoder=encoder, way=way), BLOB_ARROW)
    if stored:
        sent = sent.union(each(sent.sparkSession, tuple(stored), partial(_send_stored, way=way), BLOB_ARROW))
    return sent.repartition(len(layout.groups), "route").drop("route")


@contextlib.contextmanager
def few_blobs_at_once(spark: SparkSession, rows: Rows) -> Iterator[None]:
    """Let Spark hand few blobs at a time to Python while an exchange runs, for the sake of the JVM's memory.

    Spark 3.5 knows only a number of rows, which would hold for rows of a DataFrame too: there they stay as they are.
    Exchanges of several threads, as of models that are fitted at the same time, may overlap.
    """
    if int(spark.version.partition(".")[0]) >= 4:
        name, value = MAX_BYTES, HANDED_BLOBS * BLOB_BYTES
    elif rows.are_files:
        name, value = MAX_RECORDS, HANDED_BLOBS
    else:
        yield
        return
    _LOWERED.enter(spark, name, value)
    try:
        yield
    finally:
        _LOWERED.leave(spark, name)


class _Lowered:
    """Settings of sessions, each held from the first who asks to the last who ends, and then as it was."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._held: dict[tuple[int, str], tuple[int, str]] = {}  # by session and name: holders, value before

    def enter(self, spark: SparkSession, name: str, value: int) -> None:
        with self._lock:
            holders, before = self._held.get((id(spark), name), (0, ""))
            if not holders:
                before = str(spark.conf.get(name))
                spark.conf.set(name, str(value))
            self._held[id(spark), name] = holders + 1, before

    def leave(self, spark: SparkSession, name: str) -> None:
        with self._lock:
            holders, before = self._held.pop((id(spark), name))
            if holders > 1:
                self._held[id(spark), name] = holders - 1, before
            else:
                spark.conf.set(name, before)


_LOWERED = _Lowered()


@dataclass(frozen=True)
class _Way:
    """What a task needs to know where rows go; ``route`` are the values that Spark sends to each group's partition."""

    settings: SetSettings
    layout: Layout
    route: NDArray[np.int32]
    schema: pa.Schema

    def destinations(self, ids: Indices) -> tuple[Indices, Indices, Indices]:
        """Return (rows, groups, keys) by rising group: row indices, a row once for each group that needs it."""
        split, bucket, key = codes_of(ids, self.settings)
        index, group = self.layout.groups_of(split, bucket)
        order = np.argsort(group, kind="stable")
        return index[order], group[order], key[index[order]]

    def rows(self, columns: Mapping[str, pa.Array | Indices], count: int) -> pa.RecordBatch:
        """Return the rows that travel; the columns that are not given are null."""
        arrays = [
            _typed(columns[field.name], field.type) if field.name in columns else pa.nulls(count, field.type)
            for field in self.schema
        ]
        return pa.RecordBatch.from_arrays(arrays, schema=self.schema)


def _send_rows(batches: Iterable[pa.RecordBatch], encoder: Encoder, way: _Way) -> Iterator[pa.RecordBatch]:
    packer = Packer(way.route)
    for batch in batches:
        sifted = encoder.sift(batch)
        index, group, key = way.destinations(sifted.ids)
        place = pa.array(sifted.row[index])
        columns = {KEY: key, ID: sifted.ids[index], STORED: np.zeros(index.size, bool)}
        columns |= dict(zip(encoder.payload.names, encoder.pack(sifted.content, index), strict=True))
        columns |= {name: batch.column(name).take(place) for name in (FILE, ROW) if name in way.schema.names}
        yield from packer.add(way.rows(columns, index.size), group)
    yield from packer.flush()


def _send_stored(path: str, way: _Way) -> Iterator[pa.RecordBatch]:
    packer = Packer(way.route)
    ids = read_ids(path)
    index, group, key = way.destinations(ids)
    columns = {KEY: key, ID: ids[index], STORED: np.ones(index.size, bool)}
    yield from packer.add(way.rows(columns, index.size), group)
    yield from packer.flush()


def _typed(values: pa.Array | NDArray[Any], to: pa.DataType) -> pa.Array:
    array = values if isinstance(values, pa.Array) else pa.array(values)
    return array if array.type == to else array.cast(to)
