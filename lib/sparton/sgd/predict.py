"""Clusters of the rows of a table set, batch by batch on the executors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparton.data.featurize import decode_features
from sparton.data.schema import TABLE_ASSIGNMENTS_ARROW
from sparton.sgd.clusters import Clusters
from sparton.sgd.compute import own_threads


def assign_batches(batches: Iterator[pa.RecordBatch], clusters: Clusters, distances: bool) -> Iterator[pa.RecordBatch]:
    """Yield the assignments of rows of a table set, as :data:`sparton.data.schema.TABLE_ASSIGNMENTS_ARROW`.

    Parameters
    ----------
    batches
        With ``id`` and ``features``.
    clusters
        What assigns them; one thread is used, since Spark runs a task on every core already.
    distances
        Whether to give the distances to all centroids, or null.
    """
    with own_threads():
        for batch in batches:
            rows = decode_features(batch.column("features"), clusters.coordinates.dimensions)
            cluster, score = clusters.assign(rows, threads=1)
            every = _lists(clusters.distances(rows)) if distances else pa.nulls(len(rows), pa.list_(pa.float32()))
            columns = [batch.column("id"), pa.array(cluster), every, pa.array(score)]
            yield pa.RecordBatch.from_arrays(columns, schema=TABLE_ASSIGNMENTS_ARROW)


def _lists(values: NDArray[np.float32]) -> pa.Array:
    """Return values [n, k] as a column of lists."""
    offsets = np.arange(len(values) + 1, dtype=np.int32) * np.int32(values.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))
