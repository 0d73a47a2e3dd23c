"""What each cluster looks like, and how good a clustering is without labels."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from sklearn.metrics import silhouette_score

from sparton.errors import DataError
from sparton.report.metrics import LabelMetrics

FloatArray = npt.NDArray[np.float64]
IntArray = npt.NDArray[np.int64]

#: A jet whose nearest centroid is at least this share of the way to the second nearest counts as ambiguous.
AMBIGUOUS_RATIO = 0.8

#: Rows of the sample whose silhouette is computed; the cost grows with the square.
SILHOUETTE_ROWS = 4000


@dataclass(frozen=True)
class GroupMoments:
    """A column's sums by cluster, from arrays (:func:`group_moments`) or aggregated by Spark.

    ``size`` is int64 [K]; ``total`` (sum of values), ``squares`` (sum of squared values) and ``median`` are
    float64 [K], in the column's unit. The sums are those of the values less ``origin``, so that squares of values far
    from zero do not cancel.
    """

    size: IntArray
    total: FloatArray
    squares: FloatArray
    median: FloatArray
    origin: float = 0.0


@dataclass(frozen=True)
class ColumnStatistics:
    """Mean, standard deviation (population) and median of one column in one cluster; None if it is empty."""

    mean: float | None
    std: float | None
    median: float | None


@dataclass(frozen=True)
class ClusterProfile:
    """One cluster: its size, the statistics of each column and, with labels, the class that it is matched with."""

    cluster: int
    size: int
    fraction: float
    columns: dict[str, ColumnStatistics]
    matched_class: str | None = None
    matched_fraction: float | None = None


@dataclass(frozen=True)
class LabelFreeMetrics:
    """Quality of a clustering without labels.

    ``balance`` is the entropy of the sizes over its maximum, 1 for equal clusters. The distance ratio is nearest over
    second nearest centroid, 0 at a centroid and 1 half way between two; ``ambiguous_fraction`` is the share above
    :data:`AMBIGUOUS_RATIO`. Silhouette and distance ratio come from samples whose sizes are given.
    """

    sizes: tuple[int, ...]
    balance: float
    smallest_fraction: float
    distance_ratio: float | None
    ambiguous_fraction: float | None
    distance_rows: int
    silhouette: float | None
    silhouette_rows: int


def group_moments(cluster: npt.ArrayLike, values: npt.ArrayLike, n_clusters: int) -> GroupMoments:
    """Sum a column [n] by cluster index [n] and take its median in each cluster (NaN if it is empty).

    Raises
    ------
    DataError
        If the shapes differ or a cluster lies outside 0..n_clusters-1.
    """
    groups, column = np.asarray(cluster, dtype=np.int64), np.asarray(values, dtype=np.float64)
    if groups.shape != column.shape or groups.ndim != 1:
        raise DataError(f"profiles: cluster and values have shapes {groups.shape} and {column.shape}; expected [n]")
    if groups.size and not 0 <= groups.min() <= groups.max() < n_clusters:
        raise DataError(f"cluster: found {groups.min()}..{groups.max()}, expected 0..{n_clusters - 1}")
    size = np.bincount(groups, minlength=n_clusters)
    total, squares = np.zeros(n_clusters), np.zeros(n_clusters)
    np.add.at(total, groups, column)
    np.add.at(squares, groups, column * column)
    return GroupMoments(
        size=size,
        total=total,
        squares=squares,
        median=_medians(groups, column, size),
    )


def cluster_profiles(
    columns: Mapping[str, GroupMoments], labels: LabelMetrics | None = None
) -> tuple[ClusterProfile, ...]:
    """Describe each cluster by the columns' moments and, if there are labels, by its matched class.

    Parameters
    ----------
    columns
        Moments of each column (``jet_mass`` in GeV, ``n_constituents``, ...); all with the same cluster sizes.
    labels
        Metrics against the true classes; None without labels.

    Raises
    ------
    DataError
        If there is no column or the columns' sizes differ.
    """
    if not columns:
        raise DataError("profiles: found no column, expected at least one such as jet_mass")
    size = next(iter(columns.values())).size
    for name, moments in columns.items():
        if not np.array_equal(moments.size, size):
            raise DataError(f"profiles: column {name} counts {moments.size} rows by cluster, expected {size}")
    total = max(int(size.sum()), 1)
    return tuple(
        ClusterProfile(
            cluster=index,
            size=int(size[index]),
            fraction=float(size[index] / total),
            columns={name: _statistics(moments, index) for name, moments in columns.items()},
            matched_class=_matched_class(labels, index),
            matched_fraction=_matched_fraction(labels, index),
        )
        for index in range(len(size))
    )


def distance_ratio(distance: npt.ArrayLike) -> FloatArray:
    """Return nearest over second-nearest centroid distance, float64 [n] in [0, 1], from distances [n, K], K >= 2.

    Two centroids at distance zero make the ratio 1: nothing tells them apart.
    """
    values = np.asarray(distance, dtype=np.float64)
    if values.ndim != 2 or values.shape[1] < 2:
        raise DataError(f"distance: found shape {values.shape}, expected [n, K] with at least 2 clusters")
    nearest = np.partition(values, 1, axis=1)[:, :2]
    return np.divide(nearest[:, 0], nearest[:, 1], out=np.ones(len(values)), where=nearest[:, 1] > 0)


def sampled_silhouette(
    embedding: npt.ArrayLike, cluster: npt.ArrayLike, seed: int, sample_rows: int = SILHOUETTE_ROWS
) -> tuple[float | None, int]:
    """Return the mean silhouette (Rousseeuw 1987) on a seeded sample of rows, and the sample's size.

    None if the sample holds fewer than two clusters, or as many clusters as rows.
    """
    points, groups = np.asarray(embedding, dtype=np.float64), np.asarray(cluster)
    rows = sample(len(groups), sample_rows, seed)
    found = len(np.unique(groups[rows]))
    if not 2 <= found < len(rows):
        return None, len(rows)
    return float(silhouette_score(points[rows], groups[rows])), len(rows)


def describe_clusters(
    sizes: npt.ArrayLike, distance: npt.ArrayLike, embedding: npt.ArrayLike, cluster: npt.ArrayLike, seed: int
) -> LabelFreeMetrics:
    """Compute the label-free metrics.

    Parameters
    ----------
    sizes
        Rows of each cluster over the whole split, int [K].
    distance, embedding, cluster
        A sample of rows: distances to the centroids [n, K], embeddings [n, D] and cluster indexes [n].
    seed
        Seed of the silhouette's sample.
    """
    counts = np.asarray(sizes, dtype=np.int64)
    if counts.ndim != 1 or counts.sum() == 0:
        raise DataError(f"sizes: found {counts}, expected the rows of each cluster, at least one in all")
    share = counts / counts.sum()
    positive = share[share > 0]
    ratio = distance_ratio(distance) if len(counts) > 1 and len(np.asarray(cluster)) else None
    silhouette, silhouette_rows = sampled_silhouette(embedding, cluster, seed)
    return LabelFreeMetrics(
        sizes=tuple(counts.tolist()),
        balance=float(-(positive * np.log(positive)).sum() / np.log(len(counts))) if len(counts) > 1 else 1.0,
        smallest_fraction=float(share.min()),
        distance_ratio=None if ratio is None else float(ratio.mean()),
        ambiguous_fraction=None if ratio is None else float((ratio >= AMBIGUOUS_RATIO).mean()),
        distance_rows=0 if ratio is None else len(ratio),
        silhouette=silhouette,
        silhouette_rows=silhouette_rows,
    )


def sample(rows: int, limit: int, seed: int) -> IntArray:
    """Return at most ``limit`` distinct row indexes out of ``rows``, in random order, fixed by the seed."""
    return np.random.default_rng(seed).permutation(rows)[:limit]


def _medians(groups: IntArray, column: FloatArray, size: IntArray) -> FloatArray:
    ordered = column[np.lexsort((column, groups))]
    start = np.cumsum(size) - size
    medians = np.full(len(size), np.nan)
    full = size > 0
    low, high = start[full] + (size[full] - 1) // 2, start[full] + size[full] // 2
    medians[full] = (ordered[low] + ordered[high]) / 2
    return medians


def _statistics(moments: GroupMoments, index: int) -> ColumnStatistics:
    size, median = int(moments.size[index]), float(moments.median[index])
    if size == 0:
        return ColumnStatistics(None, None, None)
    mean = float(moments.total[index]) / size
    variance = max(float(moments.squares[index]) / size - mean * mean, 0.0)
    return ColumnStatistics(moments.origin + mean, variance**0.5, None if np.isnan(median) else median)


def _matched_class(labels: LabelMetrics | None, index: int) -> str | None:
    if labels is None or labels.permutation[index] < 0:
        return None
    return labels.classes[labels.permutation[index]]


def _matched_fraction(labels: LabelMetrics | None, index: int) -> float | None:
    if labels is None or labels.permutation[index] < 0 or not sum(labels.contingency[index]):
        return None
    row = labels.contingency[index]
    return row[labels.permutation[index]] / sum(row)
