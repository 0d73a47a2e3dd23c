"""Clusters of the rows of a table set, batch by batch on the executors."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparton.data.featurize import decode_features
from sparton.data.schema import TABLE_ASSIGNMENTS_ARROW, TABLE_TYPICALITIES_ARROW
from sparton.sgd.backend import of_task
from sparton.sgd.clusters import Clusters, PossibilisticClusters
from sparton.sgd.compute import own_threads
from sparton.sgd.settings import Device


def schema_of(clusters: Clusters) -> pa.Schema:
    """Return the columns that :func:`assign_batches` yields."""
    possibilistic = isinstance(clusters, PossibilisticClusters)
    return TABLE_TYPICALITIES_ARROW if possibilistic else TABLE_ASSIGNMENTS_ARROW


def assign_batches(
    batches: Iterator[pa.RecordBatch], clusters: Clusters, distances: bool, device: Device = "auto"
) -> Iterator[pa.RecordBatch]:
    """Yield the assignments of rows of a table set, with the columns of :func:`schema_of`.

    Parameters
    ----------
    batches
        With ``id`` and ``features``.
    clusters
        What assigns them.
    distances
        Whether to give the distances to all centroids and the typicalities in all clusters, or null.
    device
        See :func:`sparton.sgd.backend.of_task`.
    """
    schema, backend = schema_of(clusters), of_task(device)
    with own_threads():
        for batch in batches:
            rows = decode_features(batch.column("features"), clusters.coordinates.dimensions)
            cluster, distance = clusters.assign(rows, backend)
            score = clusters.scores(cluster, distance)
            every = clusters.distances(rows, backend) if distances else None
            columns = [batch.column("id"), pa.array(cluster), _lists(every, len(rows)), pa.array(score)]
            if isinstance(clusters, PossibilisticClusters):
                typical = None if every is None else clusters.typicalities(every)
                columns += [_lists(typical, len(rows)), pa.array(clusters.noise(score))]
            yield pa.RecordBatch.from_arrays(columns, schema=schema)


def _lists(values: NDArray[np.float32] | None, rows: int) -> pa.Array:
    """Return values [n, k] as a column of lists, or nulls."""
    if values is None:
        return pa.nulls(rows, pa.list_(pa.float32()))
    offsets = np.arange(rows + 1, dtype=np.int32) * np.int32(values.shape[1])
    return pa.ListArray.from_arrays(pa.array(offsets), pa.array(values.ravel()))
