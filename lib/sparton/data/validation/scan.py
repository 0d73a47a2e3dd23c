"""The pass over the table, on the executors.

Each task counts its rows in NumPy and hands over a few numbers; one aggregation sums them. Uniqueness is exact: the
column alone goes through one more exchange of the same job.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial, reduce
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from sparton.config import nearest
from sparton.data.validation.drift import merged_quantiles
from sparton.data.validation.profile import MEASURES_ARROW, Profile, Request, finite_numbers, profile_batches
from sparton.data.validation.values import values_of
from sparton.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

POINTS = 257
"""Quantiles of a batch that the edges of a reference are merged from."""

POINTS_ARROW = pa.schema(
    [pa.field("column", pa.string()), pa.field("weight", pa.int64()), pa.field("points", pa.binary())]
)


def profile_table(table: DataFrame, request: Request) -> Profile:
    """Profile a table, in one query.

    Raises
    ------
    DataError
        If a column is missing or of a type that its rule cannot be about.
    """
    return Profile.from_rows(row.asDict() for row in measures(table, request).collect())


def measures(table: DataFrame, request: Request) -> DataFrame:
    """Return the summed rows of :data:`sparton.data.validation.profile.MEASURES_ARROW` of a table.

    Raises
    ------
    DataError
        If a column is missing.
    """
    names = request.rules.profiled
    _require(table, names)
    # A column is needed to tell how many rows there are.
    chosen = tuple(names or table.columns[:1])
    schema = from_arrow_schema(MEASURES_ARROW)
    profile = partial(_with_names, names=chosen, function=partial(profile_batches, request=request))
    parts = [_numbered(table, chosen).mapInArrow(profile, schema)]
    parts += [_repeated(table, name) for name in request.rules.unique]
    together = reduce(lambda first, second: first.unionByName(second), parts)
    sums = (F.sum("count").alias("count"), F.min("low").alias("low"), F.max("high").alias("high"))
    return together.groupBy("measure", "column", "key").agg(*sums)


def reference_edges(table: DataFrame, columns: tuple[str, ...], bins: int) -> dict[str, tuple[float, ...]]:
    """Return for each column the inner edges of bins of about equal population; the counts in them are exact anyway.

    The outermost edges enclose all values, so that those beyond them, which the table has none of, are a bin's own.

    Raises
    ------
    DataError
        If a column is missing or does not hold numbers.
    """
    _require(table, columns)
    quantiles = partial(_with_names, names=columns, function=partial(_points, columns=columns))
    found = _numbered(table, columns).mapInArrow(quantiles, from_arrow_schema(POINTS_ARROW))
    points, weights = defaultdict(list), defaultdict(list)
    for row in found.collect():
        points[row["column"]].append(np.frombuffer(row["points"], np.float64))
        weights[row["column"]].append(row["weight"])
    return {name: _edges(points[name], weights[name], bins) for name in columns}


def _column(name: str) -> Column:
    """Return the column of this very name; Spark would take a dot for the way to a field of a struct."""
    return F.col(f"`{name.replace('`', '``')}`")


def _numbered(table: DataFrame, names: Sequence[str]) -> DataFrame:
    """Return columns under numbers: PySpark's own functions on batches take a dot in a name for such a way."""
    return table.select(*(_column(name).alias(f"c{number}") for number, name in enumerate(names)))


def _with_names(
    batches: Iterable[pa.RecordBatch],
    names: Sequence[str],
    function: Callable[[Iterator[pa.RecordBatch]], Iterator[pa.RecordBatch]],
) -> Iterator[pa.RecordBatch]:
    """Apply a function to batches of :func:`_numbered` columns under their names."""
    return function(pa.RecordBatch.from_arrays(batch.columns, names=list(names)) for batch in batches)


def _require(table: DataFrame, names: Iterable[str]) -> None:
    missing = [name for name in names if name not in table.columns]
    if missing:
        near = nearest(missing[0], table.columns)
        raise DataError(
            f"rules: the table has no column {', '.join(missing)}{f' ({near})' if near else ''}; it has "
            f"{', '.join(table.columns)}. Correct the name in the section rules, or validate another table"
        )


def _edges(points: Sequence[NDArray[np.float64]], weights: Sequence[float], bins: int) -> tuple[float, ...]:
    if not points:
        return ()
    values = np.concatenate(points)  # the smallest and the largest value of each batch are among them
    limits = [values.min(), np.nextafter(values.max(), np.inf)]
    return tuple(np.unique(np.concatenate([limits, merged_quantiles(points, weights, bins)])).tolist())


def _repeated(table: DataFrame, name: str) -> DataFrame:
    """Return one row of measures: how many rows have a value that another row, which counts as the first, has."""
    values = table.where(_column(name).isNotNull()).groupBy(_column(name)).agg(F.count("*").alias("rows"))
    return values.agg(F.coalesce(F.sum(F.col("rows") - 1), F.lit(0)).alias("count")).select(
        F.lit("repeated").alias("measure"),
        F.lit(name).alias("column"),
        F.lit("").alias("key"),
        F.col("count"),
        F.lit(None).cast("double").alias("low"),
        F.lit(None).cast("double").alias("high"),
    )


def _points(batches: Iterable[pa.RecordBatch], columns: tuple[str, ...]) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for name in columns:
            values = finite_numbers(values_of(batch.column(name), name), name)
            if values.size:
                points = np.quantile(values, np.linspace(0, 1, min(POINTS, values.size)), method="nearest")
                row = {"column": name, "weight": values.size, "points": points.tobytes()}
                yield pa.RecordBatch.from_pylist([row], schema=POINTS_ARROW)
