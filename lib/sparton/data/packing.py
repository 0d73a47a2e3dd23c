"""Rows on their way through the exchange: many of them in one binary value, so that Spark moves no single row.

A task of the first side gathers rows until they are worth sending, and packs those of each group into *blobs*: Arrow
record batches as the bytes of an IPC message. The other side puts the blobs of its group into the global order.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sparton.data.encoder import FILE, ROW, Encoder, Indices

KEY, ID, STORED = "key", "id", "stored"

BUFFER_BYTES = 32 << 20
"""Rows that a task gathers before it sends them: the more, the larger are the blobs of each of many groups."""

BLOB_BYTES = 3 << 16
"""Size of a blob, about. Java's collector has its trouble with arrays from half a MB on, and Spark makes some of twice
the size of what they hold."""

HANDED_BYTES = 4 << 20
"""Size of the blobs that are handed on together."""

ORDERED_BYTES = 32 << 20
"""Rows that are taken in order at a time, at most."""

MANY = 1 << 62

BLOB_ARROW = pa.schema([pa.field("route", pa.int32()), pa.field("group", pa.int32()), pa.field("rows", pa.binary())])


def packed_schema(encoder: Encoder, stored: bool, located: bool) -> pa.Schema:
    """Return the columns of packed rows.

    Parameters
    ----------
    encoder
        Whose payload it is; binary columns get wide offsets, since a group may hold more than 2 GiB of them.
    stored
        Tell rows that the set holds already from new ones.
    located
        With the rows' place in the input.
    """
    fields = [pa.field(KEY, pa.int64()), pa.field(ID, pa.int64())]
    if stored:
        fields.append(pa.field(STORED, pa.bool_()))
    fields += [field.with_type(pa.large_binary()) if field.type == pa.binary() else field for field in encoder.payload]
    if located:
        fields += [pa.field(FILE, pa.string()), pa.field(ROW, pa.int64())]
    return pa.schema(fields)


class Packer:
    """Gathers the rows of each group and makes blobs of them."""

    def __init__(self, route: NDArray[np.int32]) -> None:
        self._route = route
        self._rows: dict[int, list[pa.RecordBatch]] = {}
        self._bytes = 0

    def add(self, rows: pa.RecordBatch, group: Indices) -> Iterator[pa.RecordBatch]:
        """Take rows that come by rising ``group`` int64[n]; yield blobs (:data:`BLOB_ARROW`) once there are enough."""
        limits = np.append(np.flatnonzero(np.diff(group, prepend=-1)), group.size)
        for start, stop in pairwise(limits.tolist()):
            self._rows.setdefault(int(group[start]), []).append(rows.slice(start, stop - start))
        self._bytes += rows.nbytes
        if self._bytes >= BUFFER_BYTES:
            yield from self.flush()

    def flush(self) -> Iterator[pa.RecordBatch]:
        """Yield the blobs of what was not sent yet; those that are small come in one batch."""
        waiting: list[tuple[int, pa.Buffer]] = []
        size = 0
        for group in sorted(self._rows):
            for blob in _blobs(self._rows.pop(group)):
                waiting.append((group, blob))
                size += blob.size
                if size >= HANDED_BYTES:
                    yield self._batch(waiting)
                    waiting, size = [], 0
        if waiting:
            yield self._batch(waiting)
        self._bytes = 0

    def _batch(self, blobs: Sequence[tuple[int, pa.Buffer]]) -> pa.RecordBatch:
        group = np.array([number for number, _ in blobs], np.int32)
        limits = np.cumsum([0, *(blob.size for _, blob in blobs)]).astype(np.int32)
        content = pa.py_buffer(b"".join(blob for _, blob in blobs))
        rows = pa.Array.from_buffers(pa.binary(), len(blobs), [None, pa.py_buffer(limits), content])
        return pa.RecordBatch.from_arrays([pa.array(self._route[group]), pa.array(group), rows], schema=BLOB_ARROW)


def in_order(
    blobs: Sequence[pa.Buffer], schema: pa.Schema, first: int = 0, rows: int = MANY
) -> Iterator[pa.RecordBatch]:
    """Yield the rows of all blobs of a group by rising key, those of one key by their content: nulls come first.

    So the order does not hang on where rows came from.

    Parameters
    ----------
    blobs, schema
        The blobs, and their columns.
    first, rows
        Where rows are cut into batches: after the ``first`` ones, and then after so many each; large ones are cut
        further.
    """
    batches = [pa.ipc.read_record_batch(pa.ipc.read_message(blob), schema) for blob in blobs]
    table = pa.Table.from_batches(batches, schema).combine_chunks()
    del batches
    order = _order(table)
    most = max(ORDERED_BYTES * table.num_rows // max(table.nbytes, 1), 1)
    for part in np.split(order, range(first, order.size, rows)):
        for start in range(0, part.size, most):
            yield from table.take(pa.array(part[start : start + most])).to_batches()


def _blobs(rows: Sequence[pa.RecordBatch]) -> Iterator[pa.Buffer]:
    table = pa.Table.from_batches(rows).combine_chunks()
    step = max(BLOB_BYTES * table.num_rows // max(table.nbytes, 1), 1)
    for batch in table.to_batches(max_chunksize=step):
        yield batch.serialize()


def _order(table: pa.Table) -> Indices:
    key = table.column(KEY).to_numpy()
    order = np.argsort(key)
    ranked = key[order]
    same = ranked[1:] == ranked[:-1]
    if same.any():
        tied = np.zeros(key.size, bool)
        tied[1:] |= same
        tied[:-1] |= same
        place = np.flatnonzero(tied)
        behind = [name for name in table.schema.names if name not in (ID, STORED)]
        ties = table.take(pa.array(order[place]))
        inner = pc.sort_indices(ties, [(name, "ascending") for name in behind], null_placement="at_start")
        order[place] = order[place][inner.to_numpy()]
    return order
