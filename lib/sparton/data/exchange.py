"""The rows as they cross the one shuffle exchange: jets with packed constituents, the group that writes them, a key.

Constituents travel as one binary column (float32 px, py, pz, energy per constituent), which is several times smaller
than the padded feature tensor and costs no work per element on the way between Spark and Python.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql.pandas.types import from_arrow_schema

from sparton.data.counting import codes_of, selected
from sparton.data.featurize import MAX_BINARY_BYTES
from sparton.data.layout import Layout
from sparton.data.routing import routes
from sparton.data.screening import JET_VALUES, MOMENTA, REQUIRED, JetRows, screen
from sparton.data.settings import PrepareSettings
from sparton.errors import DataError
from sparton.physics.jets import Jets

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

CONSTITUENT_BYTES = len(MOMENTA) * 4

EXCHANGE_ARROW = pa.schema(
    [
        pa.field("route", pa.int32()),
        pa.field("group", pa.int32()),
        pa.field("key", pa.int64()),
        pa.field("jet_id", pa.int64()),
        pa.field("label", pa.string()),
        *(pa.field(name, pa.float32()) for name in JET_VALUES),
        pa.field("constituents", pa.binary()),
    ]
)


def exchange(df: DataFrame, settings: PrepareSettings, layout: Layout) -> DataFrame:
    """Return the sound, selected rows of a jets table with one partition per group, in the global order."""
    assign = partial(_assign_batches, settings=settings, layout=layout, route=routes(len(layout.groups)))
    rows = df.select(*REQUIRED).mapInArrow(assign, from_arrow_schema(EXCHANGE_ARROW))
    exchanged = rows.repartition(len(layout.groups), "route")
    return exchanged.sortWithinPartitions("group", "key", "jet_id").drop("route")


def unpack(batch: pa.RecordBatch) -> JetRows:
    """Return the jets of a batch that crossed the exchange."""
    packed = batch.column("constituents")
    limits = np.frombuffer(packed.buffers()[1], np.int32)[packed.offset : packed.offset + len(packed) + 1]
    content = np.frombuffer(packed.buffers()[2] or b"", "<f4")[limits[0] // 4 : limits[-1] // 4]
    momenta = content.reshape(-1, len(MOMENTA))
    jets = Jets(
        event_index=np.zeros(len(packed), np.int64),
        pdg_id=np.zeros(len(momenta), np.int32),
        offsets=((limits - limits[0]) // CONSTITUENT_BYTES).astype(np.int64),
        **{name: batch.column(name).to_numpy() for name in JET_VALUES},
        **{name: np.ascontiguousarray(momenta[:, index]) for index, name in enumerate(MOMENTA)},
    )
    return JetRows(batch.column("jet_id").to_numpy(), batch.column("label"), jets)


def _assign_batches(
    batches: Iterator[pa.RecordBatch], settings: PrepareSettings, layout: Layout, route: NDArray[np.int32]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        rows = screen(batch).rows
        rows = rows.select(selected(rows, settings)[0])
        split, bucket, key = codes_of(rows.jet_id, settings)
        index, group = layout.groups_of(split, bucket)
        copied = rows if index.size == len(rows) else rows.take(index)
        yield _pack(copied, key[index], group, route[group])


def _pack(rows: JetRows, key: NDArray[np.int64], group: NDArray[np.int64], route: NDArray[np.int32]) -> pa.RecordBatch:
    jets = rows.jets
    columns = [pa.array(route), pa.array(group.astype(np.int32)), pa.array(key), pa.array(rows.jet_id), rows.label]
    columns += [pa.array(getattr(jets, name)) for name in JET_VALUES]
    return pa.RecordBatch.from_arrays([*columns, _pack_constituents(jets)], schema=EXCHANGE_ARROW)


def _pack_constituents(jets: Jets) -> pa.Array:
    momenta = np.stack([getattr(jets, name) for name in MOMENTA], axis=1).astype("<f4", copy=False)
    if momenta.nbytes > MAX_BINARY_BYTES:
        raise DataError(
            f"a batch of {len(jets)} jets holds {momenta.nbytes} bytes of constituents, over 2 GiB; "
            "lower spark.sql.execution.arrow.maxRecordsPerBatch"
        )
    offsets = (jets.offsets * CONSTITUENT_BYTES).astype(np.int32)
    return pa.Array.from_buffers(pa.binary(), len(jets), [None, pa.py_buffer(offsets), pa.py_buffer(momenta)])
