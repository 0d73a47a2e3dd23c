"""Rows of a micro-batch, in an order that their content alone decides, reduced to sums by the executors.

Spark may cut a micro-batch into other partitions when it repeats it, or read its rows in another order, and a sum of
floats depends on that in its last bits. So rows are dealt to a fixed number of parts by a hash of their content, and
sorted by it within each; tasks sum blocks of a fixed size, and parts are added up in their order.
"""

from __future__ import annotations

import io
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial, reduce
from typing import TYPE_CHECKING, Any, Generic, TypeVar

import numpy as np
import pyarrow as pa
from pyspark import TaskContext
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from sparton import storage
from sparton.data.encoder import FILE, ROW
from sparton.data.executors import executor_errors
from sparton.data.featurize import decode_features
from sparton.data.quarantine_writer import Quarantine, quarantine_file
from sparton.data.settings import TableSettings
from sparton.data.source_files import located
from sparton.data.table_encoder import ARRAY, ID, WEIGHT, TableEncoder
from sparton.data.tables import feature_names, project
from sparton.sgd.batch import Batch
from sparton.sgd.compute import own_threads
from sparton.sgd.method import added
from sparton.sgd.stream_sample import Keys, Sample

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

BLOCK_ROWS = 16_384
"""Rows that are summed at once."""

FOUND_ARROW = pa.schema(
    [
        pa.field("part", pa.int32()),
        pa.field("read", pa.int64()),
        pa.field("rejected", pa.string()),
        pa.field("example", pa.string()),
        pa.field("content", pa.binary()),
    ]
)
"""What a task returns: its part, rows read, those rejected by reason (JSON), one of these, and sums (``npz``)."""

ValueT = TypeVar("ValueT", bound=Any)


@dataclass(frozen=True)
class Reduction(Generic[ValueT]):
    """What rows are reduced to: a named tuple of arrays.

    Attributes
    ----------
    kind
        The named tuple.
    of
        Of a block of rows.
    join
        Of two of them, the rows of the second following those of the first.
    """

    kind: type[ValueT]
    of: Callable[[Batch], ValueT]
    join: Callable[[ValueT, ValueT], ValueT]


@dataclass(frozen=True)
class Found(Generic[ValueT]):
    """What a micro-batch was reduced to, the rows read, those rejected by reason, and what one of these is."""

    value: ValueT
    read: int
    rejected: Counter[str] = field(default_factory=Counter)
    example: str = ""


def sums(method: Any, state: Any, kind: type[Any]) -> Reduction[Any]:
    """Return the reduction to a method's statistics."""
    return Reduction(kind, partial(method.local_statistics, state=state), added)


def sample(count: int, keys: Keys) -> Reduction[Sample]:
    """Return the reduction to the distinct rows of the lowest keys."""

    def lowest(rows: Sample) -> Sample:
        return rows.lowest(count, keys)

    return Reduction(
        Sample,
        lambda batch: lowest(Sample.of(batch)),
        lambda first, second: lowest(Sample.together([first, second])),
    )


def names_of(stream: DataFrame, table: TableSettings, known: Sequence[str] | None = None) -> tuple[str, ...]:
    """Return the names of a stream's features; where the settings leave them open, those of a bundle if it is there.

    Raises
    ------
    DataError
        If no column is left.
    """
    if known and table.columns is None and table.array is None and set(known) <= set(stream.columns):
        return tuple(known)
    return feature_names(stream.schema, table)


def encoder_of(names: tuple[str, ...], table: TableSettings) -> TableEncoder:
    """Return what checks the rows; a hash of their content is their identity."""
    scalars = {ID: "hash of the row"} | ({WEIGHT: table.weight} if table.weight else {})
    return TableEncoder(names, scalars, table.array)


def projected(stream: DataFrame, encoder: TableEncoder) -> DataFrame:
    """Return a stream with the columns that are read, as float32, and the hash of each row.

    The place of a row in its file is kept where it looks broken, for the quarantine.

    Raises
    ------
    DataError
        If a column is missing or has another type.
    """
    array = encoder.array
    if array is not None and array in stream.columns and isinstance(stream.schema[array].dataType, VectorUDT):
        column = F.col("`" + array.replace("`", "``") + "`")
        # Spark's function fails on null, which is a broken row like any other.
        stream = stream.withColumn(array, F.when(column.isNotNull(), vector_to_array(column, "float32")))
    scalars = {key: name for key, name in encoder.scalars.items() if key != ID}
    rows = project(located(stream), replace(encoder, scalars=scalars))
    content = [name for name in rows.columns if name not in (FILE, ROW)]
    broken = _broken(content, len(encoder.names))
    return rows.select(
        F.xxhash64(*content).alias(ID), *content, *(F.when(broken, F.col(name)).alias(name) for name in (FILE, ROW))
    )


def reduced(
    batch: DataFrame,
    encoder: TableEncoder,
    reduction: Reduction[ValueT],
    parts: int,
    quarantine: str | None,
    what: str,
) -> Found[ValueT]:
    """Return what the rows of a micro-batch are reduced to.

    Parameters
    ----------
    batch
        Of a stream that :func:`projected` returned.
    encoder, reduction
        What checks the rows, and what they are reduced to.
    parts
        Parts that rows are dealt to.
    quarantine
        Folder for the rows that are rejected, which is emptied first; None: nowhere.
    what
        The micro-batch, for messages.

    Raises
    ------
    DataError
        If a file cannot be read, or a task fails.
    """
    if quarantine is not None:
        storage.remove(quarantine)
    content = [name for name in batch.columns if name not in (ID, FILE, ROW)]
    # The number is given, so Spark does not put parts together.
    dealt = batch.repartition(parts, ID).sortWithinPartitions(ID, *content, FILE, ROW)
    task = partial(_task, encoder=encoder, reduction=reduction, quarantine=quarantine)
    with executor_errors(what):
        rows = dealt.mapInArrow(task, from_arrow_schema(FOUND_ARROW)).collect()
    rows.sort(key=lambda row: row["part"])
    values = [_unpacked(row["content"], reduction.kind) for row in rows]
    return Found(
        reduce(reduction.join, values) if values else reduction.of(Batch.nothing(encoder.n_features)),
        sum(row["read"] for row in rows),
        sum((Counter(json.loads(row["rejected"])) for row in rows), Counter()),
        next((row["example"] for row in rows if row["example"]), ""),
    )


def _broken(content: Iterable[str], length: int) -> Column:
    """Return whether a row looks as if it will be rejected; the encoder says whether and why."""

    def is_bad(value: Column) -> Column:
        return value.isNull() | F.isnan(value) | (F.abs(value) == float("inf"))

    found = F.lit(False)
    for name in content:
        value = F.col(name)
        if name == ARRAY:
            found = found | value.isNull() | (F.size(value) != length) | F.exists(value, is_bad)
        else:
            found = found | is_bad(value) | ((value < 0) if name == WEIGHT else F.lit(False))
    return found


def _task(
    batches: Iterator[pa.RecordBatch], encoder: TableEncoder, reduction: Reduction[Any], quarantine: str | None
) -> Iterator[pa.RecordBatch]:
    context = TaskContext.get()
    part = context.partitionId() if context else 0
    told = _Told()
    value = None
    with own_threads(), quarantine_file(f"{quarantine}/part-{part:05d}.parquet") as file:
        for block in _blocks(_sound(batches, encoder, told, file if quarantine else None)):
            own = reduction.of(block)
            value = own if value is None else reduction.join(value, own)
    if told.read:
        if value is None:
            width = len(encoder.names)
            value = reduction.of(
                Batch(np.zeros((0, width), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
            )
        columns = [part, told.read, json.dumps(told.rejected), told.example, _packed(value._asdict())]
        arrays = [pa.array([column], kind) for column, kind in zip(columns, FOUND_ARROW.types, strict=True)]
        yield pa.RecordBatch.from_arrays(arrays, schema=FOUND_ARROW)


@dataclass
class _Told:
    """What a task tells of its rows beside their sums."""

    read: int = 0
    rejected: Counter[str] = field(default_factory=Counter)
    example: str = ""


def _sound(
    batches: Iterator[pa.RecordBatch], encoder: TableEncoder, told: _Told, file: Any
) -> Iterator[tuple[np.ndarray[Any, Any], ...]]:
    """Yield rows, weights and identities of the sound rows."""
    for batch in batches:
        sifted = encoder.sift(batch)
        told.read += batch.num_rows
        if sifted.rejected.row.size:
            told.rejected += sifted.rejected.counts()
            told.example = told.example or str(sifted.rejected.detail[0])
            if file is not None:
                file.add(Quarantine("").rows(batch, pa.nulls(batch.num_rows, pa.int64()), sifted.rejected))
        features, _, weight = encoder.pack(sifted.content, np.arange(sifted.row.size))
        yield decode_features(features, encoder.n_features), weight.to_numpy(zero_copy_only=False), sifted.ids


def _blocks(pieces: Iterator[tuple[np.ndarray[Any, Any], ...]]) -> Iterator[Batch]:
    """Yield rows in blocks of :data:`BLOCK_ROWS`, however Spark cut them; the last one may be shorter."""
    waiting: list[tuple[np.ndarray[Any, Any], ...]] = []
    rows = 0
    for piece in pieces:
        waiting.append(piece)
        rows += len(piece[0])
        while rows >= BLOCK_ROWS:
            joined = [np.concatenate(columns) for columns in zip(*waiting, strict=True)]
            yield Batch(*(column[:BLOCK_ROWS] for column in joined))
            waiting = [tuple(column[BLOCK_ROWS:] for column in joined)]
            rows -= BLOCK_ROWS
    if rows:
        yield Batch(*(np.concatenate(columns) for columns in zip(*waiting, strict=True)))


def _packed(arrays: Mapping[str, Any]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


def _unpacked(content: bytes, kind: type[ValueT]) -> ValueT:
    with np.load(io.BytesIO(content), allow_pickle=False) as arrays:
        return kind(*(arrays[name] for name in kind._fields))
