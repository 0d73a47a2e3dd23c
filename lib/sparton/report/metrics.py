"""Agreement of clusters with true classes, computed from the contingency table alone.

The table counts jets by (cluster, class). It is additive over rows, so Spark aggregates it and every metric below is
exact whatever the number of jets. Labels are read here, after training, and nowhere before.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import linear_sum_assignment

from sparton.errors import DataError

IntArray = npt.NDArray[np.int64]

#: Order in which known jet classes are shown; unknown ones follow by name.
CLASS_ORDER = ("g", "q", "W", "Z", "t", "background", "signal")


@dataclass(frozen=True)
class LabelMetrics:
    """Metrics that need labels, as plain Python values.

    ``permutation[k]`` is the index of the class that cluster ``k`` is matched with, -1 if it has none.
    ``contingency`` has one row a cluster and one column a class. ``confusion`` has one row a class; its columns are
    described at :func:`confusion`.
    """

    classes: tuple[str, ...]
    rows: int
    accuracy: float
    adjusted_rand_index: float
    normalized_mutual_information: float
    purity: float
    largest_class_fraction: float
    class_recall: tuple[float | None, ...]
    permutation: tuple[int, ...]
    contingency: tuple[tuple[int, ...], ...]
    confusion: tuple[tuple[int, ...], ...]


def order_classes(names: Iterable[str]) -> tuple[str, ...]:
    """Return the distinct names, known jet classes first and in physics order, the others sorted."""
    distinct = set(names)
    known = [name for name in CLASS_ORDER if name in distinct]
    return (*known, *sorted(distinct.difference(known)))


def encode_labels(labels: Sequence[object] | npt.NDArray[Any], classes: Sequence[str]) -> IntArray:
    """Return the class index of each label, int64 [n]; -1 where there is none (None, NaN or an empty string).

    Raises
    ------
    DataError
        If a label is not among ``classes``.
    """
    codes, names = pd.factorize(np.asarray(labels, dtype=object))
    lookup = {"": -1} | {name: index for index, name in enumerate(classes)}
    unknown = [name for name in names if name not in lookup]
    if unknown:
        raise DataError(f"label: found {unknown[0]!r}, expected one of {', '.join(classes)}; add it to the classes")
    # Missing labels have the code -1, which picks the last entry.
    indexes: IntArray = np.array([*(lookup[name] for name in names), -1], dtype=np.int64)
    return indexes[codes]


def contingency(
    cluster: npt.ArrayLike,
    label: npt.ArrayLike,
    n_clusters: int | None = None,
    n_classes: int | None = None,
    counts: npt.ArrayLike | None = None,
) -> IntArray:
    """Count rows by (cluster, class).

    Parameters
    ----------
    cluster, label
        Integers [n]: cluster and class index of each row. Rows with a negative label have none and are left out.
    n_clusters, n_classes
        Size of the table; by default as large as the indexes need.
    counts
        Integers [n]: how many jets each row stands for (rows of a Spark ``groupBy(cluster, label).count()``).

    Returns
    -------
    int64 [n_clusters, n_classes]

    Raises
    ------
    DataError
        If the shapes differ or an index lies outside the table.
    """
    rows, columns = np.asarray(cluster, dtype=np.int64), np.asarray(label, dtype=np.int64)
    weights = np.ones_like(rows) if counts is None else np.asarray(counts, dtype=np.int64)
    if not rows.shape == columns.shape == weights.shape or rows.ndim != 1:
        shapes = f"{rows.shape}, {columns.shape} and {weights.shape}"
        raise DataError(f"contingency: cluster, label and counts have shapes {shapes}; expected the same [n]")
    labelled = columns >= 0
    rows, columns, weights = rows[labelled], columns[labelled], weights[labelled]
    shape = (_extent(rows, n_clusters, "cluster"), _extent(columns, n_classes, "label"))
    table = np.zeros(shape, dtype=np.int64)
    np.add.at(table, (rows, columns), weights)
    return table


def hungarian_accuracy(table: npt.ArrayLike) -> tuple[float, IntArray]:
    """Match clusters with classes one to one so that most rows agree.

    One assignment over the whole split (Kuhn-Munkres): the accuracy of unsupervised classification. With more
    clusters than classes, rows of unmatched clusters count as wrong; with fewer, rows of unmatched classes do.

    Returns
    -------
    accuracy
        Matched rows divided by all rows.
    permutation
        int64 [n_clusters]: the class of each cluster, -1 if it is matched with none.
    """
    counts = _checked(table)
    clusters, classes = linear_sum_assignment(counts, maximize=True)
    permutation = np.full(counts.shape[0], -1, dtype=np.int64)
    permutation[clusters] = classes
    return float(counts[clusters, classes].sum() / counts.sum()), permutation


def adjusted_rand_index(table: npt.ArrayLike) -> float:
    """Return the Rand index corrected for chance: 1 for equal partitions, 0 on average for random ones.

    Hubert and Arabie, J. Classification 2 (1985) 193, eq. 5. Pairs are counted in Python integers, which are exact.
    """
    counts = _checked(table)
    total = _pairs([int(counts.sum())])
    both = _pairs(counts.ravel().tolist())
    rows, columns = _pairs(counts.sum(axis=1).tolist()), _pairs(counts.sum(axis=0).tolist())
    if both == rows == columns:
        return 1.0
    expected = rows * columns / total
    return float((both - expected) / ((rows + columns) / 2 - expected))


def normalized_mutual_information(table: npt.ArrayLike) -> float:
    """Return the mutual information over the arithmetic mean of the two entropies, in [0, 1]."""
    counts = _checked(table)
    joint = counts / counts.sum()
    entropies = _entropy(joint.sum(axis=1)), _entropy(joint.sum(axis=0))
    if max(entropies) == 0.0:
        return 1.0
    information = sum(entropies) - _entropy(joint.ravel())
    return float(np.clip(2.0 * information / sum(entropies), 0.0, 1.0))


def purity(table: npt.ArrayLike) -> float:
    """Return the share of rows that belong to the most frequent class of their cluster."""
    counts = _checked(table)
    return float(counts.max(axis=1).sum() / counts.sum())


def confusion(table: npt.ArrayLike, permutation: npt.ArrayLike) -> IntArray:
    """Count rows by true class and matched class.

    Returns
    -------
    int64 [n_classes, n_classes + unmatched clusters]
        Row: true class. Column c: the cluster matched with class c (zero if there is none); then one column for each
        unmatched cluster, in the order of the clusters.
    """
    counts, matched = _checked(table), np.asarray(permutation, dtype=np.int64)
    result = np.zeros((counts.shape[1], counts.shape[1]), dtype=np.int64)
    result[:, matched[matched >= 0]] = counts[matched >= 0].T
    return np.concatenate([result, counts[matched < 0].T], axis=1)


def describe_labels(table: npt.ArrayLike, classes: Sequence[str]) -> LabelMetrics:
    """Compute every metric that needs labels from a table [n_clusters, n_classes].

    Raises
    ------
    DataError
        If the table is empty, has negative counts, or another number of columns than there are classes.
    """
    counts = _checked(table)
    if counts.shape[1] != len(classes):
        raise DataError(f"contingency: found {counts.shape[1]} columns, expected {len(classes)} ({', '.join(classes)})")
    accuracy, permutation = hungarian_accuracy(counts)
    matrix = confusion(counts, permutation)
    sizes, hits = counts.sum(axis=0), np.diagonal(matrix)
    return LabelMetrics(
        classes=tuple(classes),
        rows=int(counts.sum()),
        accuracy=accuracy,
        adjusted_rand_index=adjusted_rand_index(counts),
        normalized_mutual_information=normalized_mutual_information(counts),
        purity=purity(counts),
        largest_class_fraction=float(sizes.max() / counts.sum()),
        class_recall=tuple(float(hit / size) if size else None for hit, size in zip(hits, sizes, strict=True)),
        permutation=tuple(permutation.tolist()),
        contingency=tuple(tuple(row) for row in counts.tolist()),
        confusion=tuple(tuple(row) for row in matrix.tolist()),
    )


def _checked(table: npt.ArrayLike) -> IntArray:
    counts = np.asarray(table, dtype=np.int64)
    if counts.ndim != 2 or counts.size == 0 or counts.min() < 0 or counts.sum() == 0:
        raise DataError(
            f"contingency: found shape {counts.shape} with {counts.sum()} rows, expected counts [clusters, classes] "
            "of at least one labelled row; evaluate without labels instead"
        )
    return counts


def _extent(indexes: IntArray, size: int | None, name: str) -> int:
    needed = int(indexes.max()) + 1 if indexes.size else 0
    if indexes.size and indexes.min() < 0:
        raise DataError(f"{name}: found {indexes.min()}, expected indexes from 0")
    if size is not None and needed > size:
        raise DataError(f"{name}: found index {needed - 1}, expected less than {size}")
    return needed if size is None else size


def _pairs(counts: Iterable[int]) -> int:
    return sum(count * (count - 1) // 2 for count in counts)


def _entropy(probability: npt.NDArray[np.float64]) -> float:
    positive = probability[probability > 0]
    return float(-(positive * np.log(positive)).sum()) + 0.0
