"""Metrics from the contingency table against scikit-learn and brute force."""

from __future__ import annotations

import itertools

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import adjusted_rand_score, normalized_mutual_info_score

from sparton.errors import DataError
from sparton.report import metrics

TABLES = hnp.arrays(np.int64, st.tuples(st.integers(1, 5), st.integers(1, 5)), elements=st.integers(0, 30)).filter(
    lambda table: table.sum() > 0
)


def rows_of(table: npt.NDArray[np.int64]) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    cluster, label = np.indices(table.shape)
    return np.repeat(cluster.ravel(), table.ravel()), np.repeat(label.ravel(), table.ravel())


def brute_force_accuracy(table: npt.NDArray[np.int64]) -> float:
    tall = table if table.shape[0] >= table.shape[1] else table.T
    choices = itertools.permutations(range(tall.shape[0]), tall.shape[1])
    return max(sum(tall[row, column] for column, row in enumerate(rows)) for rows in choices) / table.sum()


@settings(deadline=None, max_examples=150)
@given(TABLES)
def test_metrics_agree_with_references(table: npt.NDArray[np.int64]) -> None:
    cluster, label = rows_of(table)
    assert metrics.adjusted_rand_index(table) == pytest.approx(adjusted_rand_score(label, cluster), abs=1e-12)
    assert metrics.normalized_mutual_information(table) == pytest.approx(
        normalized_mutual_info_score(label, cluster, average_method="arithmetic"), abs=1e-9
    )
    assert metrics.hungarian_accuracy(table)[0] == pytest.approx(brute_force_accuracy(table), abs=1e-12)


@settings(deadline=None, max_examples=100)
@given(TABLES, st.randoms(use_true_random=False))
def test_metrics_do_not_depend_on_numbering(table: npt.NDArray[np.int64], random) -> None:  # type: ignore[no-untyped-def]
    order = list(range(table.shape[0]))
    random.shuffle(order)
    for metric in (metrics.adjusted_rand_index, metrics.normalized_mutual_information, metrics.purity):
        assert metric(table[order]) == pytest.approx(metric(table), abs=1e-12)
    assert metrics.hungarian_accuracy(table[order])[0] == metrics.hungarian_accuracy(table)[0]
    assert metrics.purity(table) >= metrics.hungarian_accuracy(table)[0]


@settings(deadline=None, max_examples=100)
@given(TABLES)
def test_confusion_keeps_every_row_and_has_the_hits_on_the_diagonal(table: npt.NDArray[np.int64]) -> None:
    accuracy, permutation = metrics.hungarian_accuracy(table)
    matrix = metrics.confusion(table, permutation)
    n_clusters, n_classes = table.shape
    assert matrix.shape == (n_classes, n_classes + max(n_clusters - n_classes, 0))
    np.testing.assert_array_equal(matrix.sum(axis=1), table.sum(axis=0))
    assert np.trace(matrix) == pytest.approx(accuracy * table.sum())


def test_confusion_orders_columns_by_class_then_unmatched_clusters() -> None:
    table = np.array([[0, 9], [2, 3], [8, 0], [1, 1]])
    accuracy, permutation = metrics.hungarian_accuracy(table)
    assert permutation.tolist() == [1, -1, 0, -1]
    assert accuracy == pytest.approx(17 / 24)
    assert metrics.confusion(table, permutation).tolist() == [[8, 0, 2, 1], [0, 9, 3, 1]]


def test_fewer_clusters_than_classes_leave_a_class_without_column() -> None:
    described = metrics.describe_labels([[5, 0, 1], [0, 7, 2]], ("W", "Z", "t"))
    assert described.confusion == ((5, 0, 0), (0, 7, 0), (1, 2, 0))
    assert described.class_recall == (1.0, 1.0, 0.0)
    assert described.accuracy == pytest.approx(12 / 15)
    assert described.purity == pytest.approx(12 / 15)
    assert described.largest_class_fraction == pytest.approx(7 / 15)


def test_one_assignment_over_the_split_exceeds_no_mean_over_batches() -> None:
    batches = np.array([[[6, 1], [2, 5]], [[1, 6], [5, 2]]])
    mean = np.mean([metrics.hungarian_accuracy(batch)[0] for batch in batches])
    assert metrics.hungarian_accuracy(batches.sum(axis=0))[0] < mean


def test_large_counts_are_exact() -> None:
    table = np.array([[3_000_000_000, 1], [0, 3_000_000_000]])
    assert 0.999 < metrics.adjusted_rand_index(table) < 1.0
    assert metrics.adjusted_rand_index(np.diag(np.diag(table))) == 1.0


def test_contingency_counts_rows_and_leaves_out_unlabelled() -> None:
    table = metrics.contingency([0, 1, 1, 2, 0], [1, 0, 0, -1, 1], n_clusters=4, n_classes=3)
    assert table.tolist() == [[0, 2, 0], [2, 0, 0], [0, 0, 0], [0, 0, 0]]


@settings(deadline=None, max_examples=50)
@given(TABLES)
def test_contingency_of_aggregated_rows_equals_that_of_rows(table: npt.NDArray[np.int64]) -> None:
    cluster, label = rows_of(table)
    rows, columns = np.nonzero(table)
    aggregated = metrics.contingency(rows, columns, *table.shape, counts=table[rows, columns])
    np.testing.assert_array_equal(aggregated, table)
    np.testing.assert_array_equal(metrics.contingency(cluster, label, *table.shape), table)


def test_labels_are_encoded_in_class_order_and_missing_ones_are_negative() -> None:
    classes = metrics.order_classes(["t", "new", "W", "Z", "W", "alpha"])
    assert classes == ("W", "Z", "t", "alpha", "new")
    codes = metrics.encode_labels(["t", None, "W", float("nan"), "", "new"], classes)
    assert codes.tolist() == [2, -1, 0, -1, -1, 4]
    assert metrics.encode_labels([], classes).shape == (0,)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.encode_labels(["H"], ["W", "Z"]), "found 'H', expected one of W, Z"),
        (lambda: metrics.contingency([0, 1], [0]), "shapes"),
        (lambda: metrics.contingency([3], [0], n_clusters=3), "cluster: found index 3, expected less than 3"),
        (lambda: metrics.contingency([-1], [0]), "cluster: found -1"),
        (lambda: metrics.hungarian_accuracy(np.zeros((3, 3))), "at least one labelled row"),
        (lambda: metrics.adjusted_rand_index([[1, -1]]), "expected counts"),
        (lambda: metrics.purity([1, 2]), "expected counts"),
        (lambda: metrics.describe_labels([[1, 2]], ("W",)), "found 2 columns, expected 1"),
    ],
)
def test_bad_input_is_named(call, message: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(DataError, match=message):
        call()
