"""What an executor does for an ingest: reads its parts, screens the jets, writes good ones and rejected ones."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field
from pyspark.sql.pandas.types import from_arrow_schema

from sparton import storage
from sparton.config import Config
from sparton.data.ingest_plan import Part, SourceFile, examine_file, origin_of
from sparton.data.ingest_settings import IngestSettings
from sparton.data.part_reader import read_part
from sparton.data.quarantine import FOLDER, QUARANTINE_ARROW
from sparton.data.sink import ParquetSink, WrittenFile
from sparton.data.sources.block import BadFileError, Source
from sparton.data.sources.table import Sorted, exclude, sort_out, table_schema

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

EXAMINE_TASKS_PER_SLOT = 3
"""Tasks per slot that examine files: enough to even out their sizes, few enough that starting them costs little."""

RESULT_ARROW = pa.schema([pa.field("number", pa.int64()), pa.field("content", pa.string())])


class FileCount(Config):
    """What a task found in its part of a file: rows read, good jets, rejected and repaired ones by reason."""

    file: int
    rows: int = 0
    jets: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)
    repaired: dict[str, int] = Field(default_factory=dict)


class Failure(Config):
    """A file that turned out bad while it was read."""

    file: int
    reason: str
    detail: str


class TaskResult(Config):
    """What a task reports; with a ``failure`` it has written nothing."""

    number: int
    counts: tuple[FileCount, ...] = ()
    files: tuple[tuple[str, int, int], ...] = ()
    quarantine: tuple[str, ...] = ()
    failure: Failure | None = None

    def written(self) -> list[WrittenFile]:
        """Return the files that the task wrote."""
        return [WrittenFile(*entry) for entry in self.files]


@dataclass(frozen=True)
class IngestTask:
    """Parts to read in this order; ``excluded`` int64: good jets, by their place among them, that others double."""

    number: int
    parts: tuple[Part, ...]
    excluded: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))


@dataclass(frozen=True)
class IngestJob:
    """What all tasks need: the reader, the files, the folder to write to and how names start."""

    source: Source
    files: tuple[SourceFile, ...]
    folder: str
    prefix: str
    settings: IngestSettings


def examine_files(spark: SparkSession, source: Source, paths: list[str]) -> list[SourceFile]:
    """Examine files, several in one task where there are many; the result is in their order."""
    content = _run(spark, len(paths), partial(_examine, source=source, paths=paths), EXAMINE_TASKS_PER_SLOT)
    return [SourceFile(**file) for file in content]


def run_tasks(spark: SparkSession, job: IngestJob, tasks: list[IngestTask]) -> list[TaskResult]:
    """Run tasks on the executors and return their results in order."""
    content = _run(spark, len(tasks), partial(_write, job=job, tasks=tasks))
    return [TaskResult.model_validate(result) for result in content]


def run_task(job: IngestJob, task: IngestTask) -> TaskResult:
    """Read, screen and write what one task is given."""
    schema = table_schema(job.source.extra_columns)
    stem, limit = f"{job.prefix}-{task.number:05d}", job.settings.file_bytes
    quarantine = storage.join(job.folder, FOLDER)
    counts: dict[int, Counter[str]] = {part.file: Counter() for part in task.parts}
    try:
        with (
            ParquetSink(job.folder, stem, schema, job.settings.compression, limit) as jets,
            ParquetSink(quarantine, stem, QUARANTINE_ARROW, "zstd", limit) as rejected,
        ):
            for file, rows, found in _sort_parts(job, task):
                jets.add(found.good)
                rejected.add(found.rejected)
                counts[file].update(_tally(found, rows))
            files, aside = jets.close(), rejected.close()
    except _BadPartError as error:
        return TaskResult(number=task.number, failure=error.failure)
    return TaskResult(
        number=task.number,
        counts=tuple(_file_count(file, tally) for file, tally in counts.items()),
        files=tuple((file.name, file.rows, file.bytes) for file in files),
        quarantine=tuple(storage.join(FOLDER, file.name) for file in aside),
    )


class _BadPartError(Exception):
    def __init__(self, failure: Failure) -> None:
        super().__init__(failure)
        self.failure = failure


def _sort_parts(job: IngestJob, task: IngestTask) -> Iterator[tuple[int, int, Sorted]]:
    """Yield the number of a file, rows read of it and their jets, block by block, without those the task excludes."""
    seen = 0
    for part in task.parts:
        file = job.files[part.file]
        origin = origin_of(job.source, file)
        try:
            for block in read_part(job.source, file, part):
                found = sort_out(block, origin, job.settings.labels)
                inside = (task.excluded >= seen) & (task.excluded < seen + found.good.num_rows)
                yield part.file, block.rows, exclude(found, task.excluded[inside] - seen, origin)
                seen += found.good.num_rows
        except BadFileError as error:
            raise _BadPartError(Failure(file=part.file, reason=error.reason, detail=error.detail)) from error


def _tally(found: Sorted, rows: int) -> Counter[str]:
    tally = Counter({"rows": rows, "jets": found.good.num_rows})
    tally.update({f"rejected {reason}": count for reason, count in found.reasons.items()})
    tally.update({f"repaired {what}": count for what, count in found.repairs.items()})
    return tally


def _file_count(file: int, tally: Counter[str]) -> FileCount:
    def under(kind: str) -> dict[str, int]:
        return {name.removeprefix(kind): count for name, count in sorted(tally.items()) if name.startswith(kind)}

    return FileCount(
        file=file,
        rows=tally["rows"],
        jets=tally["jets"],
        rejected=under("rejected "),
        repaired=under("repaired "),
    )


def _examine(batches: Iterable[pa.RecordBatch], source: Source, paths: list[str]) -> Iterator[pa.RecordBatch]:
    for number in _numbers(batches):
        yield _result(number, json.dumps(asdict(examine_file(source, paths[number]))))


def _write(batches: Iterable[pa.RecordBatch], job: IngestJob, tasks: list[IngestTask]) -> Iterator[pa.RecordBatch]:
    for number in _numbers(batches):
        yield _result(number, run_task(job, tasks[number]).model_dump_json())


def _run(
    spark: SparkSession, count: int, task: Callable[..., Iterator[pa.RecordBatch]], per_slot: int | None = None
) -> list[Any]:
    """Run ``task`` on the numbers below ``count`` and return what it made of them in order.

    Each number is one Spark task; with ``per_slot``, there are at most so many tasks per slot of the cluster.
    """
    if not count:
        return []
    tasks = count if per_slot is None else min(count, per_slot * spark.sparkContext.defaultParallelism)
    numbers = spark.range(0, count, 1, numPartitions=tasks)
    rows = numbers.mapInArrow(task, from_arrow_schema(RESULT_ARROW)).collect()
    return [json.loads(row["content"]) for row in sorted(rows, key=lambda row: row["number"])]


def _numbers(batches: Iterable[pa.RecordBatch]) -> Iterator[int]:
    for batch in batches:
        yield from batch.column("id").to_pylist()


def _result(number: int, content: str) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([number]), pa.array([content])], schema=RESULT_ARROW)
