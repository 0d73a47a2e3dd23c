"""Files that arrive in a folder to a growing jets table, as a Structured Streaming query.

Spark's file source tells which files are new and remembers them in a checkpoint; every micro-batch is one run of the
stage ``ingest`` that appends to the table. The table itself records the content of each file that it holds, so a
micro-batch that Spark repeats after a crash finds its files there and adds nothing. Spark takes a file of 0 bytes for
seen, and never looks again: those that have content later are looked for here, when a query begins and ends.
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
from sparton.errors import UsageError
from sparton.pipeline.ingestion import ingest, summarise
from sparton.pipeline.queries import ANY_AGE, Batches, Callback, interrupts, triggered, wait
from sparton.pipeline.session import spark_session
from sparton.pipeline.stage import StageResult

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from sparton.pipeline.settings import PipelineSettings

LISTING = "path string, modificationTime timestamp, length long, content binary"
"""Schema of Spark's source for whole files. The stream takes ``path`` alone, so that ``content`` is never read."""

logger = logging.getLogger(__name__)


@dataclass
class _Batches(Batches):
    """Also the results of its micro-batches."""

    results: list[StageResult] = field(default_factory=list)


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
    KeyboardInterrupt
        After Ctrl-C, when the micro-batch that is under way has ended; a second one ends the process at once.
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
    begun = storage.exists(checkpoint)
    with interrupts() as pressed:
        if begun:
            _take_late(settings, folder, target, batches)
        appender = batches.guarded(_appender(settings, target, batches))
        query = triggered(writer.foreachBatch(appender), settings.watch.trigger).start()
        logger.info("ingest: watching %s, output %s", folder, target)
        wait(query, batches, lambda: pressed.is_set() or stop(), "ingest")
        if pressed.is_set():
            raise KeyboardInterrupt
    _take_late(settings, folder, target, batches)
    return StageResult("ingest", target, _summary(target, batches), False, time.perf_counter() - started)


def _take_late(settings: PipelineSettings, folder: str, target: str, batches: _Batches) -> None:
    """Ingest files that Spark has seen without content and that have some now; name those that still have none."""
    record = read_ingest_record(target)
    known = {source.path for source in record.sources} if record else set()
    arrived = [path for path in _files(folder, SOURCES[settings.ingest.format].suffixes) if path not in known]
    empty = [path for path in arrived if not storage.size(path)]
    late = sorted(set(arrived) - set(empty))
    for path in empty:
        logger.warning("%s: 0 bytes, passed over; a later query takes it when it has content", path)
    if late:
        logger.info("ingest: %d file(s) that have content by now", len(late))
        batches.results.append(ingest(settings, input=late, output=target, append=True))


def _files(folder: str, suffixes: tuple[str, ...]) -> list[str]:
    """Return the files of a format below a folder that Spark looks at."""
    found = storage.list_files(folder)
    seen = [path for path in found if not any(part[0] in "_." for part in path.split("/"))]
    return [storage.absolute(storage.join(folder, path)) for path in seen if path.lower().endswith(suffixes)]


def _in_any_case(text: str) -> str:
    """Return a pattern of a text in small or capital letters."""
    return "".join(f"[{letter.lower()}{letter.upper()}]" if letter.isalpha() else letter for letter in text)


def _checkpoint(settings: PipelineSettings, folder: str, target: str) -> str:
    """Return the query's checkpoint, begun anew where the table is not there (any more)."""
    name = f"watch-{fingerprint([folder, target, settings.ingest.format])[:12]}"
    checkpoint = storage.absolute(storage.join(settings.workspace, "checkpoints", name))
    if read_ingest_record(target) is None:
        storage.remove(checkpoint)
    return checkpoint


def _arrivals(spark: SparkSession, settings: PipelineSettings, folder: str) -> DataFrame:
    suffixes = ",".join(_in_any_case(suffix.lstrip(".")) for suffix in SOURCES[settings.ingest.format].suffixes)
    return (
        spark.readStream.format("binaryFile")
        .schema(LISTING)
        .option("pathGlobFilter", f"*.{{{suffixes}}}")
        .option("recursiveFileLookup", "true")
        .option("maxFilesPerTrigger", settings.watch.files_per_batch)
        .option("maxFileAge", ANY_AGE)
        .load(storage.spark_source(folder))
        .select("path")
    )


def _appender(settings: PipelineSettings, target: str, batches: _Batches) -> Callback:
    def append(listing: DataFrame, number: int) -> None:
        paths = _paths(listing)
        logger.info("ingest: batch %d, %d file(s)", number, len(paths))
        if paths:
            batches.results.append(ingest(settings, input=paths, output=target, append=True))

    return append


def _paths(listing: DataFrame) -> list[str]:
    """Return the files of a micro-batch that are there."""
    found = sorted(storage.absolute(row["path"]) for row in listing.collect())
    paths = [path for path in found if storage.exists(path)]
    for path in set(found) - set(paths):
        logger.warning("%s: arrived, but was removed before it could be read", path)
    return paths


def _summary(target: str, batches: _Batches) -> dict[str, Any]:
    record = read_ingest_record(target)
    done = {"batches": sum(not result.skipped for result in batches.results)}
    return done | (summarise(record) if record else {"jets": 0})
