"""Spark tasks over parts of work that the driver has cut: one task for each part, no shuffle to deal them out."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, TypeVar

import pyarrow as pa
from pyspark.sql.pandas.types import from_arrow_schema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

Part = TypeVar("Part")


def each(
    spark: SparkSession, parts: Sequence[Part], task: Callable[[Part], Iterator[pa.RecordBatch]], schema: pa.Schema
) -> DataFrame:
    """Return what ``task`` yields for each of the parts, a partition for each; its columns are those of ``schema``."""
    run = partial(_run, parts=tuple(parts), task=task)
    return spark.range(0, len(parts), 1, max(len(parts), 1)).mapInArrow(run, from_arrow_schema(schema))


def dealt(items: Sequence[Part], tasks: int) -> list[tuple[Part, ...]]:
    """Return the items in at most ``tasks`` parts, neighbours in different ones."""
    count = min(len(items), max(tasks, 1))
    return [tuple(items[start::count]) for start in range(count)]


def _run(
    batches: Iterator[pa.RecordBatch], parts: tuple[Part, ...], task: Callable[[Part], Iterator[pa.RecordBatch]]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch.column(0).to_pylist():
            yield from task(parts[number])
