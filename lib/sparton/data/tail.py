"""The last shard of a split, whose rows get new places when a set is extended."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sparton import storage
from sparton.data.encoder import Indices, Mask
from sparton.data.manifest import Shard
from sparton.errors import DataError


@dataclass(frozen=True)
class Tail:
    """Rows of a shard with their ids in rising order, and where each of these stands in the shard."""

    path: str
    rows: pa.Table
    ids: Indices
    place: Indices

    @classmethod
    def read(cls, folder: str, shard: Shard) -> Tail:
        """Read a shard.

        Raises
        ------
        DataError
            If it is not what the manifest says.
        """
        path = storage.join(folder, shard.path)
        if storage.sha256(path) != shard.sha256:
            raise DataError(f"{path}: SHA-256 differs from the manifest's; restore the file or prepare the set again")
        with storage.open_file(path) as stream:
            rows = pq.ParquetFile(stream).read().combine_chunks()
        ids = rows.column(0).to_numpy()
        place = np.argsort(ids, kind="stable")
        return cls(path, rows, ids[place], place)

    def holds(self, ids: Indices) -> Mask:
        """Tell which ids are among the shard's, bool of the same shape."""
        return np.isin(ids, self.ids)

    def merged(self, new: pa.RecordBatch, stored_ids: Indices, stored: NDArray[np.bool_]) -> pa.RecordBatch:
        """Return rows in which ``stored`` [n] tells who comes from here (in order, with these ids) and who is new."""
        if not stored.any():
            return new
        found = np.minimum(np.searchsorted(self.ids, stored_ids), self.ids.size - 1)
        if not np.array_equal(self.ids[found], stored_ids):
            raise DataError(f"{self.path}: it changed while the set was extended; run it again")
        old = self.rows.take(pa.array(self.place[found]))
        both = pa.concat_tables([pa.Table.from_batches([new]), old])
        order = np.argsort(np.concatenate([np.flatnonzero(~stored), np.flatnonzero(stored)]))
        return both.take(pa.array(order)).combine_chunks().to_batches()[0]


def read_ids(path: str) -> Indices:
    """Return the ids of a shard, int64[n], as they stand in it."""
    with storage.open_file(path) as stream:
        file = pq.ParquetFile(stream)
        ids: Indices = file.read([file.schema_arrow.names[0]]).column(0).to_numpy()
    return ids
