"""Jets with identifiers of their own that repeat: which ones come later in the order of files and rows."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pyspark.sql import functions
from pyspark.sql.pandas.types import from_arrow_schema

from sparton import storage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

BEFORE = -1
"""Stands for the task of jets that were in the table before."""

PLACE_ARROW = pa.schema([pa.field("jet_id", pa.int64()), pa.field("task", pa.int64()), pa.field("place", pa.int64())])


def repeated_ids(
    spark: SparkSession, folder: str, written: dict[int, list[str]], others: list[str]
) -> dict[int, NDArray[np.int64]]:
    """Find jets whose identifier an earlier one has.

    Parameters
    ----------
    spark
        The session whose executors read the identifiers.
    folder
        The table.
    written
        Names of the files of each task, in the order of their rows.
    others
        Names of the files that were there before; their jets come first.

    Returns
    -------
    dict
        By task: places of such jets among those that the task wrote, int64 rising.
    """
    files = sorted(written.items()) + [(BEFORE, [name]) for name in others]
    numbers = spark.range(0, len(files), 1, numPartitions=max(1, len(files)))
    task = partial(_places, folder=folder, files=files)
    places = numbers.mapInArrow(task, from_arrow_schema(PLACE_ARROW))
    groups = places.groupBy("jet_id").agg(
        functions.sort_array(functions.collect_list(functions.struct("task", "place"))).alias("all")
    )
    later = groups.where(functions.size("all") > 1).select(
        functions.explode(functions.expr("slice(all, 2, size(all))")).alias("one")
    )
    rows = (
        later.select("one.*")
        .where(functions.col("task") != BEFORE)
        .groupBy("task")
        .agg(functions.collect_list("place").alias("places"))
        .collect()
    )
    return {row["task"]: np.sort(np.asarray(row["places"], np.int64)) for row in rows}


def _places(
    batches: Iterable[pa.RecordBatch], folder: str, files: list[tuple[int, list[str]]]
) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch.column("id").to_pylist():
            task, names = files[number]
            seen = 0
            for name in names:
                with storage.open_file(storage.join(folder, name)) as stream:
                    for found in pq.ParquetFile(stream).iter_batches(columns=["jet_id"]):
                        count = found.num_rows
                        columns = [found.column(0), pa.repeat(task, count), pa.array(np.arange(seen, seen + count))]
                        yield pa.RecordBatch.from_arrays(
                            [column.cast(pa.int64()) for column in columns], schema=PLACE_ARROW
                        )
                        seen += count
