"""Written shards read back: footers and checksums, by the executors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING

import pyarrow as pa

from sparton import storage
from sparton.data.executors import executor_errors
from sparton.data.manifest import Shard
from sparton.data.shards import footer_problem
from sparton.data.tasks import dealt, each
from sparton.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

PROBLEM_ARROW = pa.schema([pa.field("problem", pa.string())])


def verify_written(spark: SparkSession, folder: str, shards: Sequence[Shard], schema: pa.Schema) -> None:
    """Read every shard back and compare footer and checksum with what its writer reported.

    Raises
    ------
    DataError
        Naming a file that differs.
    """
    check = partial(_problems, folder=folder, schema=schema)
    parts = dealt(shards, spark.sparkContext.defaultParallelism)
    with executor_errors(f"reading back the shards in {folder}"):
        problems = each(spark, parts, check, PROBLEM_ARROW).collect()
    if problems:
        raise DataError(f"{min(row['problem'] for row in problems)}; the storage altered the file")


def shard_problem(folder: str, shard: Shard, schema: pa.Schema) -> str | None:
    """Return what is wrong with a shard's footer or content, or None."""
    path = storage.join(folder, shard.path)
    found = footer_problem(path, shard, schema)
    if found is None and storage.sha256(path) != shard.sha256:
        return f"{path}: SHA-256 differs from that of what was written"
    return found


def _problems(shards: tuple[Shard, ...], folder: str, schema: pa.Schema) -> Iterator[pa.RecordBatch]:
    found = [shard_problem(folder, shard, schema) for shard in shards]
    yield pa.RecordBatch.from_pylist([{"problem": line} for line in found if line], schema=PROBLEM_ARROW)
