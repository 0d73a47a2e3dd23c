"""The formats as Spark readers: Python data sources on Spark 4, one function on 3.5, the same jets from both.

After ``register(spark)``, ``spark.read.format("hls4ml").load(path)`` gives the jets table. The format ``parquet`` is
called ``jets`` there, since Spark has a ``parquet`` of its own.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql import functions
from pyspark.sql.pandas.types import from_arrow_schema

from sparton.data.ingest_tasks import examine_files
from sparton.data.sources.reading import ReadPlan, parse_options, plan_read, read_task
from sparton.data.sources.registry import source_paths
from sparton.errors import UsageError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession


def register(spark: SparkSession) -> None:
    """Make the formats known to a session of Spark 4.

    Raises
    ------
    UsageError
        If this Spark has no Python data sources.
    """
    try:
        from sparton.data.sources.data_sources import DATA_SOURCES
    except ImportError:
        raise UsageError(f"Spark {spark.version} has no Python data sources; use read_jets instead") from None
    for data_source in DATA_SOURCES:
        spark.dataSource.register(data_source)


def read_jets(
    spark: SparkSession, paths: str | Sequence[str], format: str, options: Mapping[str, str] | None = None
) -> DataFrame:
    """Return the jets of files as a DataFrame with the columns of the jets table, on every version of Spark.

    Each action on the result reads the files anew. Identifiers that files bring along may repeat:
    :func:`repeated_jet_ids` finds those that do.

    Parameters
    ----------
    spark
        The session.
    paths
        Files, folders or patterns.
    format
        Name of the format.
    options
        As for the data sources: see ``sparton.data.sources.reading``.

    Raises
    ------
    UsageError
        If no file is found or an option is wrong.
    DataError
        If a file is bad and the option ``on_bad`` is not ``drop``.
    """
    inputs = [paths] if isinstance(paths, str) else list(paths)
    source, settings, _ = parse_options(format, dict(options or {}) | {"path": inputs[0]})
    files = examine_files(spark, source, source_paths(inputs, source))
    plan = plan_read(source, settings, files, spark.sparkContext.defaultParallelism)
    numbers = spark.range(0, len(plan.tasks), 1, numPartitions=max(1, len(plan.tasks)))
    return numbers.mapInArrow(partial(_read, plan=plan), from_arrow_schema(plan.schema))


def repeated_jet_ids(jets: DataFrame) -> DataFrame:
    """Return the identifiers that several jets have: ``jet_id`` and ``jets`` (how many), no row where all differ.

    An action on the result reads the jets once and sends their identifiers through an exchange: readers are lazy, so
    what repeats in other partitions cannot be known while one is read. Identifiers made here never repeat.
    """
    counted = jets.groupBy("jet_id").agg(functions.count("*").alias("jets"))
    return counted.where("jets > 1")


def _read(batches: Iterable[pa.RecordBatch], plan: ReadPlan) -> Iterator[pa.RecordBatch]:
    for batch in batches:
        for number in batch.column("id").to_pylist():
            yield from read_task(plan, plan.tasks[number])
