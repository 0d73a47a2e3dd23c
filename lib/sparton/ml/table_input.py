"""Columns of a DataFrame that Spark ML stages cluster: a vector, an array or several numbers, as arrays of floats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, NumericType, StructType

from sparton.data.executors import executor_errors
from sparton.data.rows import Wanted, rows_from
from sparton.data.schema import require_columns
from sparton.data.source_files import StoredTable
from sparton.data.table_encoder import any_in_row
from sparton.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Column

FLOATS = "array<float>"
COUNTS, LENGTHS = ("rows", "null", "infinite", "weightless", "weighty"), ("shortest", "longest")
TALLY_ARROW = pa.schema([pa.field(name, pa.int64()) for name in (*COUNTS, *LENGTHS)])
ID, WEIGHT, FEATURES = "sparton_id", "sparton_weight", "sparton_features"


def features_column(schema: StructType, features: str, inputs: Sequence[str]) -> Column:
    """Return the features of a row as an array of floats: the columns ``inputs``, or ``features`` where there are none.

    Raises
    ------
    DataError
        If a column is missing or is not made of numbers.
    """
    require_columns(schema.names, inputs or [features], "the DataFrame")
    if inputs:
        for name in inputs:
            _require(name, schema[name].dataType, isinstance(schema[name].dataType, NumericType), "numbers")
        return F.array(*(_named(name).cast("float") for name in inputs))
    found = schema[features].dataType
    if isinstance(found, VectorUDT):
        vector = _named(features)
        return F.when(vector.isNotNull(), vector_to_array(vector, "float32"))
    numeric = isinstance(found, ArrayType) and isinstance(found.elementType, NumericType)
    _require(features, found, numeric, "a vector or an array of numbers (for several columns set inputCols)")
    return _named(features).cast(FLOATS)


def weight_column(schema: StructType, weight: str | None) -> Column:
    """Return the weight of a row as a float, 1 where no column is named.

    Raises
    ------
    DataError
        If the column is missing or is not numeric.
    """
    if weight is None:
        return F.lit(1.0).cast("float")
    require_columns(schema.names, [weight], "the DataFrame")
    _require(weight, schema[weight].dataType, isinstance(schema[weight].dataType, NumericType), "numbers")
    return _named(weight).cast("float")


def checked_length(table: StoredTable, names: str) -> int:
    """Return the number of features of rows with the columns ``sparton_features`` and ``sparton_weight``.

    Raises
    ------
    DataError
        If there are no rows, lengths differ, or there are nulls, values that are not finite or negative weights.
    """
    if not table.sources:
        raise DataError("the DataFrame is empty; expected rows to cluster")
    rows = rows_from(table, {name: Wanted(name) for name in (FEATURES, WEIGHT)})
    with executor_errors("checking the rows"):
        parts = rows.mapped((FEATURES, WEIGHT), _tally, TALLY_ARROW).collect()
    found = {name: sum(row[name] for row in parts) for name in COUNTS}
    lengths = [row[name] for row in parts for name in LENGTHS if row[name] is not None]
    shortest, longest = (min(lengths), max(lengths)) if lengths else (0, 0)
    total = found["rows"]
    problems = {
        f"{names}: found nulls in {found['null']} of {total} rows, expected numbers": found["null"],
        f"{names}: found NaN or infinity (as float32) in {found['infinite']} of {total} rows, expected neither": (
            found["infinite"]
        ),
        f"weights: found null, negative or infinite ones in {found['weightless']} of {total} rows, expected numbers "
        "from 0": found["weightless"],
        f"{names}: found {shortest} to {longest} values in a row, expected as many in each": shortest != longest,
        f"{names}: found no value in a row, expected at least one": longest == 0,
        f"weights: found 0 in all {total} rows, expected some above": not found["weighty"],
    }
    for problem, count_of_it in problems.items():
        if count_of_it:
            raise DataError(f"{problem}; drop or mend these rows")
    return int(longest)


def _tally(batches: Iterable[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Count what :func:`checked_length` asks of rows."""
    for batch in batches:
        features, weight = batch.column(FEATURES), batch.column(WEIGHT)
        values = features.flatten()
        infinite = pa.array(~np.isfinite(values.fill_null(0.0).to_numpy()))
        heavy = weight.fill_null(np.nan).to_numpy()
        lengths = pc.min_max(pc.list_value_length(features))
        found = [
            batch.num_rows,
            features.null_count + np.count_nonzero(any_in_row(features, values.is_null())),
            np.count_nonzero(any_in_row(features, infinite)),
            np.count_nonzero(~np.isfinite(heavy) | (heavy < 0)),
            np.count_nonzero(heavy > 0),
            lengths["min"].as_py(),
            lengths["max"].as_py(),
        ]
        yield pa.RecordBatch.from_arrays([pa.array([value], pa.int64()) for value in found], schema=TALLY_ARROW)


def _require(name: str, found: DataType, good: bool, expected: str) -> None:
    if not good:
        raise DataError(f"the DataFrame: column {name} is {found.simpleString()}, expected {expected}")


def _named(name: str) -> Column:
    return F.col("`" + name.replace("`", "``") + "`")
