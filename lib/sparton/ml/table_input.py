"""Columns of a DataFrame that Spark ML stages cluster: a vector, an array or several numbers, as floats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray
from pyspark.ml.functions import vector_to_array
from pyspark.ml.linalg import VectorUDT
from pyspark.sql import functions as F
from pyspark.sql.types import ArrayType, DataType, NumericType, StructType

from sparton.data.executors import executor_errors
from sparton.data.featurize import FEATURE_DTYPE, MAX_BINARY_BYTES
from sparton.data.rows import Wanted, rows_from
from sparton.data.schema import require_columns
from sparton.data.settings import TRAIN, TableSettings
from sparton.data.source_files import StoredTable
from sparton.data.table_encoder import any_in_row
from sparton.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Column

FLOATS = "array<float>"
ID, WEIGHT = "sparton_id", "sparton_weight"

COUNTS, LENGTHS = ("rows", "null", "infinite", "weightless", "weighty"), ("shortest", "longest")
COLUMN_COUNTS = ("null_in", "infinite_in")
TALLY_ARROW = pa.schema(
    [(name, pa.int64()) for name in (*COUNTS, *LENGTHS)] + [(name, pa.binary()) for name in COLUMN_COUNTS]
)
"""What is counted of rows; the last two for each column, int64 as bytes."""

SHOWN_COLUMNS = 5
"""Columns that a message names, of many."""


@dataclass(frozen=True)
class Inputs:
    """The columns of a DataFrame that are clustered, by the parameters that name them.

    Attributes
    ----------
    features
        ``featuresCol``, read where ``columns`` is empty.
    columns
        ``inputCols``.
    weight
        ``weightCol``, None for weights of 1.
    """

    features: str
    columns: tuple[str, ...] = ()
    weight: str | None = None

    def __post_init__(self) -> None:
        twice = sorted({name for name in self.columns if self.columns.count(name) > 1})
        if twice:
            raise DataError(f"inputCols: column {', '.join(twice)} is named twice; name each once")

    @property
    def named(self) -> str:
        """What messages call the features."""
        return self._named(self.columns)

    def _named(self, columns: Sequence[str]) -> str:
        if not self.columns:
            return f"featuresCol {self.features}"
        others = f" and {len(columns) - SHOWN_COLUMNS} more" if len(columns) > SHOWN_COLUMNS else ""
        return f"inputCols {', '.join(columns[:SHOWN_COLUMNS])}{others}"

    def array(self, schema: StructType) -> Column:
        """Return the features of a row as one array of floats.

        Raises
        ------
        DataError
            If a column is missing or is not made of numbers.
        """
        if self.columns:
            return F.array(*self._floats(schema))
        where = "the DataFrame (featuresCol)"
        require_columns(schema.names, [self.features], where)
        found = schema[self.features].dataType
        column = _column(self.features)
        if isinstance(found, VectorUDT):
            return F.when(column.isNotNull(), vector_to_array(column, "float32"))
        numeric = isinstance(found, ArrayType) and isinstance(found.elementType, NumericType)
        expected = "a vector or an array of numbers (for several columns set inputCols)"
        _require(where, self.features, found, numeric, expected)
        return column.cast(FLOATS)

    def stored(self, schema: StructType) -> list[Column]:
        """Return what is stored of a row: features by their own names, an identity and a weight.

        Raises
        ------
        DataError
            If a column is missing, is not made of numbers, or has a name that is taken.
        """
        names = self.columns or (self.features,)
        taken = sorted({ID, WEIGHT} & {name.lower() for name in names})
        if taken:
            raise DataError(f"{self.named}: the name {', '.join(taken)} is taken; rename the column")
        features = self._floats(schema) if self.columns else [self.array(schema)]
        columns = [column.alias(name) for column, name in zip(features, names, strict=True)]
        return [F.monotonically_increasing_id().alias(ID), *columns, self._weight(schema).alias(WEIGHT)]

    def table(self, length: int) -> TableSettings:
        """Return how a set is made from what was stored, of rows with ``length`` features."""
        features = {"columns": self.columns} if self.columns else {"array": self.features, "length": length}
        shard = TableSettings.model_fields["rows_per_shard"].get_default()
        fitting = MAX_BINARY_BYTES // (length * FEATURE_DTYPE.itemsize)
        return TableSettings(
            **features,
            id=ID,
            weight=WEIGHT,
            splits={TRAIN: 1.0},
            max_rejected=0.0,
            rows_per_shard=max(1, min(shard, fitting)),
        )

    def checked_length(self, table: StoredTable) -> int:
        """Return the number of features of rows that were stored.

        Raises
        ------
        DataError
            If there are no rows, lengths differ, or there are nulls, values that are not finite or negative weights.
        """
        if not table.sources:
            raise DataError("the DataFrame is empty; expected rows to cluster")
        names = self.columns or (self.features,)
        rows = rows_from(table, {name: Wanted(name) for name in (*names, WEIGHT)})
        tally = partial(_tally, names=names, is_array=not self.columns)
        with executor_errors("checking the rows"):
            parts = rows.mapped((*names, WEIGHT), tally, TALLY_ARROW).collect()
        found = {name: sum(row[name] for row in parts) for name in COUNTS}
        columns = {
            name: np.sum([np.frombuffer(row[name], np.int64) for row in parts], axis=0) for name in COLUMN_COUNTS
        }
        lengths = [row[name] for row in parts for name in LENGTHS if row[name] is not None]
        shortest, longest = (min(lengths), max(lengths)) if lengths else (0, 0)
        total = found["rows"]
        if found["null"]:
            bad = self._bad(columns["null_in"])
            problem = f"{bad}: found nulls in {found['null']} of {total} rows, expected numbers"
        elif found["infinite"]:
            bad = self._bad(columns["infinite_in"])
            problem = f"{bad}: found NaN or infinity (as float32) in {found['infinite']} of {total} rows"
        elif found["weightless"]:
            bad = f"found null, negative or infinite ones in {found['weightless']} of {total} rows"
            problem = f"weightCol {self.weight}: {bad}, expected numbers from 0"
        elif shortest != longest:
            problem = f"{self.named}: found {shortest} to {longest} values in a row, expected as many in each"
        elif not longest:
            problem = f"{self.named}: found no value in a row, expected at least one"
        elif not found["weighty"]:
            problem = f"weightCol {self.weight}: found 0 in all {total} rows, expected some above"
        else:
            return int(longest)
        raise DataError(f"{problem}; drop or mend these rows")

    def _floats(self, schema: StructType) -> list[Column]:
        where = "the DataFrame (inputCols)"
        require_columns(schema.names, self.columns, where)
        for name in self.columns:
            found = schema[name].dataType
            _require(where, name, found, isinstance(found, NumericType), "numbers")
        return [_column(name).cast("float") for name in self.columns]

    def _weight(self, schema: StructType) -> Column:
        if self.weight is None:
            return F.lit(1.0).cast("float")
        where = "the DataFrame (weightCol)"
        require_columns(schema.names, [self.weight], where)
        found = schema[self.weight].dataType
        _require(where, self.weight, found, isinstance(found, NumericType), "numbers")
        return _column(self.weight).cast("float")

    def _bad(self, counts: NDArray[np.int64]) -> str:
        """Return the columns that have bad values, by the parameter that names them."""
        if not self.columns:
            return self.named
        return self._named([name for name, bad in zip(self.columns, counts.tolist(), strict=True) if bad])


def _tally(batches: Iterable[pa.RecordBatch], names: Sequence[str], is_array: bool) -> Iterator[pa.RecordBatch]:
    """Count what :meth:`Inputs.checked_length` asks of rows, whose features are columns or one array."""
    for batch in batches:
        null, infinite = np.zeros((2, len(names), batch.num_rows), bool)
        for index, column in enumerate(batch.column(name) for name in names):
            null[index] = column.is_null().to_numpy(zero_copy_only=False)
            values = column.flatten() if is_array else column
            bad = pa.array(~np.isfinite(values.fill_null(0.0).to_numpy()))
            if is_array:
                null[index] |= any_in_row(column, values.is_null())
                infinite[index] = any_in_row(column, bad)
            else:
                infinite[index] = bad.to_numpy(zero_copy_only=False)
        lengths = pc.min_max(pc.list_value_length(batch.column(names[0]))).as_py() if is_array else {}
        weight = batch.column(WEIGHT).fill_null(np.nan).to_numpy()
        found = {
            "rows": batch.num_rows,
            "null": np.count_nonzero(null.any(axis=0)),
            "infinite": np.count_nonzero(infinite.any(axis=0)),
            "weightless": np.count_nonzero(~np.isfinite(weight) | (weight < 0)),
            "weighty": np.count_nonzero(weight > 0),
            "shortest": lengths.get("min", len(names)),
            "longest": lengths.get("max", len(names)),
            "null_in": np.count_nonzero(null, axis=1).tobytes(),
            "infinite_in": np.count_nonzero(infinite, axis=1).tobytes(),
        }
        yield pa.RecordBatch.from_pylist([found], schema=TALLY_ARROW)


def _require(where: str, name: str, found: DataType, good: bool, expected: str) -> None:
    if not good:
        raise DataError(f"{where}: column {name} is {found.simpleString()}, expected {expected}")


def _column(name: str) -> Column:
    return F.col("`" + name.replace("`", "``") + "`")
