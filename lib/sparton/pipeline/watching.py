"""Files that arrive in a folder to a growing jets table, as a Structured Streaming query.

Spark's file source tells which files are new and remembers them in a checkpoint; every micro-batch is one run of the
stage ``ingest`` that appends to the table. The table itself records the content of each file that it holds, so a
micro-batch that Spark repeats after a crash finds its files there and adds nothing.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from sparton import publication, storage
from sparton.config import fingerprint
from sparton.data.ingest import read_ingest_record
from sparton.data.sources.registry import SOURCES
from sparton.errors import SpartonError, UsageError
from sparton.pipeline.ingestion import ingest, summarise
from sparton.pipeline.session import spark_session
from sparton.pipeline.stage import StageResult

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.streaming.query import StreamingQuery
    from pyspark.sql.streaming.readwriter import DataStreamWriter

    from sparton.pipeline.settings import PipelineSettings

LISTING = "path string, modificationTime timestamp, length long, content binary"
"""Schema of Spark's source for whole files; ``content`` is never read."""

POLL_S = 1  # how often an interrupt is noticed

ANY_AGE = "36500d"
"""Age of files that Spark's source still looks at. Its default, a week before the newest that it has seen, would pass
over files that come with their old times, as out of an archive."""

logger = logging.getLogger(__name__)


@dataclass
class _Batches:
    """What the query's callback has done, for the thread that waits for it."""

    results: list[StageResult] = field(default_factory=list)
    error: Exception | None = None


def watch(
    settings: PipelineSettings,
    folder: str,
    *,
    output: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> StageResult:
    """Ingest the files of a folder, each exactly once over restarts, into one jets table.

    Files must appear whole, by a rename or an upload that does so; names that begin with a dot or an underscore are
    not looked at.

    Parameters
    ----------
    settings
        The section ``ingest`` decides the table, ``watch`` when to look.
    folder
        Folder (or URL) that files of the format arrive in; folders below it count too.
    output
        Table to extend or begin; None takes ``<workspace>/jets``.
    stop
        Asked about every second; the query ends after its micro-batch once this is true.

    Raises
    ------
    UsageError
        If there is no such folder.
    DataError
        If more of a micro-batch is rejected than ``ingest.max_rejected`` allows. What was published before stays; a
        later call goes on with the micro-batch that failed, or without the files of it that were removed meanwhile.
    """
    if not storage.is_folder(folder):
        raise UsageError(f"--watch {folder}: no such folder")
    started = time.perf_counter()
    target = settings.folder("jets", output)
    spark = spark_session(settings.spark, "sparton ingest --watch")
    publication.recover(target)
    batches = _Batches()
    checkpoint = _checkpoint(settings, storage.absolute(folder), target)
    writer = _arrivals(spark, settings, folder).writeStream.option("checkpointLocation", storage.spark_url(checkpoint))
    query = _trigger(writer.foreachBatch(_appender(settings, target, batches)), settings.watch.trigger).start()
    logger.info("ingest: watching %s, output %s", folder, target)
    _wait(query, batches, stop)
    return StageResult("ingest", target, _summary(target, batches), False, time.perf_counter() - started)


def _checkpoint(settings: PipelineSettings, folder: str, target: str) -> str:
    """Return the query's checkpoint, begun anew where the table is not there (any more)."""
    name = f"watch-{fingerprint([folder, target, settings.ingest.format])[:12]}"
    checkpoint = storage.absolute(storage.join(settings.workspace, "checkpoints", name))
    if read_ingest_record(target) is None:
        storage.remove(checkpoint)
    return checkpoint


def _arrivals(spark: SparkSession, settings: PipelineSettings, folder: str) -> DataFrame:
    suffixes = ",".join(suffix.lstrip(".") for suffix in SOURCES[settings.ingest.format].suffixes)
    return (
        spark.readStream.format("binaryFile")
        .schema(LISTING)
        .option("pathGlobFilter", f"*.{{{suffixes}}}")
        .option("recursiveFileLookup", "true")
        .option("maxFilesPerTrigger", settings.watch.files_per_batch)
        .option("maxFileAge", ANY_AGE)
        .load(storage.spark_url(folder))
    )


def _trigger(writer: DataStreamWriter, trigger: str | float) -> DataStreamWriter:
    if trigger == "available-now":
        return writer.trigger(availableNow=True)
    return writer.trigger(processingTime=f"{trigger} seconds")


def _appender(settings: PipelineSettings, target: str, batches: _Batches) -> Callable[[DataFrame, int], None]:
    def append(listing: DataFrame, number: int) -> None:
        found = sorted(storage.absolute(row["path"]) for row in listing.select("path").collect())
        paths = [path for path in found if storage.exists(path)]
        for path in set(found) - set(paths):
            logger.warning("%s: arrived, but was removed before it could be read", path)
        logger.info("ingest: batch %d, %d file(s)", number, len(paths))
        try:
            if paths:
                batches.results.append(ingest(settings, input=paths, output=target, append=True))
        except Exception as error:
            batches.error = error
            raise

    return append


def _wait(query: StreamingQuery, batches: _Batches, stop: Callable[[], bool]) -> None:
    """Wait for the query's end; an interrupt or ``stop`` ends it after the micro-batch that is under way."""
    try:
        while not query.awaitTermination(POLL_S) and not stop():
            pass
        _finish(query)
    except KeyboardInterrupt:
        logger.info("ingest: interrupted, ending after this batch")
        _finish(query)
    except Exception as error:
        if batches.error is None:
            raise SpartonError(f"the query failed: {' '.join(str(error).split())}") from error
        raise batches.error from error
    finally:
        query.stop()


def _finish(query: StreamingQuery) -> None:
    while query.isActive and query.status["isTriggerActive"]:
        query.awaitTermination(POLL_S)


def _summary(target: str, batches: _Batches) -> dict[str, Any]:
    record = read_ingest_record(target)
    done = {"batches": sum(not result.skipped for result in batches.results)}
    return done | (summarise(record) if record else {"jets": 0})
