"""The rows as they cross the one shuffle exchange: the group that writes them, a sort key, an id and their content."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql.pandas.types import from_arrow_schema

from sparton.data.counting import codes_of
from sparton.data.encoder import FILE, ROW, Encoder, Indices, ids_of
from sparton.data.layout import Layout
from sparton.data.routing import routes
from sparton.data.settings import SetSettings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

KEYS = (("route", pa.int32()), ("group", pa.int32()), ("key", pa.int64()), ("id", pa.int64()))
STORED = ("stored", pa.bool_())
PLACE = ((FILE, pa.string()), (ROW, pa.int64()))


def exchange(
    df: DataFrame,
    encoder: Encoder,
    settings: SetSettings,
    layout: Layout,
    stored: DataFrame | None = None,
    located: bool = False,
) -> DataFrame:
    """Return the rows that go into the set with one partition per group, in the global order.

    Parameters
    ----------
    df
        Rows of the input, with :data:`sparton.data.encoder.FILE` and :data:`sparton.data.encoder.ROW`.
    encoder, settings, layout
        The kind of table, the settings of the set, and which group needs which rows.
    stored
        Ids (one column) of rows that the set has and that get a new place; they travel without content, marked by the
        column ``stored``.
    located
        Let the rows' place in the input travel along.
    """
    schema = _schema(encoder, stored is not None, located)
    shared = partial(
        _assign_batches, encoder=encoder, settings=settings, layout=layout, route=routes(len(layout.groups)), to=schema
    )
    columns = (*encoder.columns, FILE, ROW) if located else encoder.columns
    rows = df.select(*dict.fromkeys(columns)).mapInArrow(shared, from_arrow_schema(schema))
    if stored is not None:
        rows = rows.union(stored.mapInArrow(partial(shared, stored=True), from_arrow_schema(schema)))
    exchanged = rows.repartition(len(layout.groups), "route")
    # The columns behind the key tell doubles apart, so that their order does not hang on where they came from.
    behind = [*encoder.payload.names, *([FILE, ROW] if located else [])]
    # The key comes first, since Spark compares the first column without touching the rows.
    return exchanged.sortWithinPartitions("key", *behind).drop("route")


def _schema(encoder: Encoder, stored: bool, located: bool) -> pa.Schema:
    fields = [*KEYS, *([STORED] if stored else [])]
    place = PLACE if located else ()
    return pa.schema([pa.field(*pair) for pair in fields] + list(encoder.payload) + [pa.field(*pair) for pair in place])


def _assign_batches(
    batches: Iterator[pa.RecordBatch],
    encoder: Encoder,
    settings: SetSettings,
    layout: Layout,
    route: NDArray[np.int32],
    to: pa.Schema,
    stored: bool = False,
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        sifted = None if stored else encoder.sift(batch)
        ids = ids_of(batch, batch.schema.names[0]).to_numpy() if sifted is None else sifted.ids
        split, bucket, key = codes_of(ids, settings)
        index, group = layout.groups_of(split, bucket)
        columns = {
            "route": pa.array(route[group]),
            "group": pa.array(group.astype(np.int32)),
            "key": pa.array(key[index]),
            "id": pa.array(ids[index]),
            "stored": pa.repeat(pa.scalar(stored), index.size),
        }
        if sifted is not None:
            columns |= dict(zip(encoder.payload.names, encoder.pack(sifted.content, index), strict=True))
            columns |= _place(batch, sifted.row[index])
        yield pa.RecordBatch.from_arrays([_column(columns, field, index) for field in to], schema=to)


def _place(batch: pa.RecordBatch, rows: Indices) -> dict[str, pa.Array]:
    present = [name for name in (FILE, ROW) if name in batch.schema.names]
    return {name: batch.column(name).take(pa.array(rows)) for name in present}


def _column(columns: dict[str, pa.Array], field: pa.Field, index: Indices) -> pa.Array:
    return columns[field.name] if field.name in columns else pa.nulls(index.size, field.type)
