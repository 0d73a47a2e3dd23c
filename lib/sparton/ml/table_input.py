"""Columns of a DataFrame that Spark ML stages cluster: a vector, an array or several numbers, as arrays of floats."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, NumericType, StructType

from sparton.data.schema import require_columns
from sparton.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Column, DataFrame

FLOATS = "array<float>"
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


def checked_length(rows: DataFrame, names: str) -> int:
    """Return the number of features of rows with the columns ``sparton_features`` and ``sparton_weight``.

    Raises
    ------
    DataError
        If there are no rows, lengths differ, or there are nulls, values that are not finite or negative weights.
    """
    features, weight = F.col(FEATURES), F.col(WEIGHT)

    def count(condition: Column) -> Column:
        return F.count(F.when(condition, True))

    def is_bad(value: Column) -> Column:
        return F.isnan(value) | (F.abs(value) == float("inf"))

    lengths = F.size(features)
    found = rows.select(
        F.count("*").alias("rows"),
        count(features.isNull() | F.exists(features, lambda value: value.isNull())).alias("null"),
        count(F.exists(features, is_bad)).alias("infinite"),
        F.min(F.when(features.isNotNull(), lengths)).alias("shortest"),
        F.max(F.when(features.isNotNull(), lengths)).alias("longest"),
        count(weight.isNull() | is_bad(weight) | (weight < 0)).alias("weightless"),
        count(weight > 0).alias("weighty"),
    ).first()
    assert found is not None  # an aggregate has one row
    total = found["rows"]
    if not total:
        raise DataError("the DataFrame is empty; expected rows to cluster")
    problems = {
        f"{names}: found nulls in {found['null']} of {total} rows, expected numbers": found["null"],
        f"{names}: found NaN or infinity (as float32) in {found['infinite']} of {total} rows, expected neither": (
            found["infinite"]
        ),
        f"weights: found null, negative or infinite ones in {found['weightless']} of {total} rows, expected numbers "
        "from 0": found["weightless"],
        f"{names}: found {found['shortest']} to {found['longest']} values in a row, expected as many in each": (
            found["shortest"] != found["longest"]
        ),
        f"{names}: found no value in a row, expected at least one": found["longest"] == 0,
        f"weights: found 0 in all {total} rows, expected some above": not found["weighty"],
    }
    for problem, count_of_it in problems.items():
        if count_of_it:
            raise DataError(f"{problem}; drop or mend these rows")
    return int(found["longest"])


def _require(name: str, found: DataType, good: bool, expected: str) -> None:
    if not good:
        raise DataError(f"the DataFrame: column {name} is {found.simpleString()}, expected {expected}")


def _named(name: str) -> Column:
    return F.col("`" + name.replace("`", "``") + "`")
