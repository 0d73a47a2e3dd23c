"""Stage ``stream-cluster``: Parquet files that arrive in a folder to clusters that follow them.

Spark's file source tells which files are new; each micro-batch is one step of the method. The bundle is published now
and then, and when the query ends.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sparton import storage
from sparton.errors import ConfigError, DataError, UsageError
from sparton.pipeline.queries import ANY_AGE, Batches, interrupts, triggered, wait
from sparton.pipeline.run_folder import run_folder_of
from sparton.pipeline.session import spark_session
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, StageResult, check_alone, write_record

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

    from sparton.ml.streaming import StreamClustering
    from sparton.sgd.stream_state import StreamState

STAGE = "stream-cluster"
PARQUET = ".parquet"

logger = logging.getLogger(__name__)


def stream_cluster(
    settings: PipelineSettings,
    *,
    input: str | None = None,
    model: str | None = None,
    output: str | None = None,
    state: str | None = None,
    stop: Callable[[], bool] = lambda: False,
) -> StageResult:
    """Cluster the rows of files as they arrive in a folder, each row once over restarts, and publish bundles.

    Files must appear whole, by a rename or an upload that does so, and their names end in ``.parquet``; names that
    begin with a dot or an underscore are not looked at.

    Parameters
    ----------
    settings
        The sections ``stream``, ``cluster`` and ``table`` (columns and ``max_rejected``).
    input
        Folder (or URL) that files arrive in, those of folders below it included; None takes ``<workspace>/table``.
    model
        Bundle whose clusters go on; None finds the first centroids on the first rows.
    output
        Folder to publish bundles at; None takes ``<workspace>/model``.
    state
        Folder of the states, of Spark's checkpoint, metrics and quarantine; None takes ``<workspace>/stream``.
    stop
        Asked about every second; the query ends after its micro-batch once this is true.

    Raises
    ------
    UsageError
        If there is no such folder, no file tells its columns, or something else stands at the output.
    DataError
        If the states are of another stream, another run is at them, a column is missing or not numeric, a file cannot
        be read, or more rows of a micro-batch are rejected than ``table.max_rejected`` allows. What was published
        before stays; a later call goes on with the micro-batch that failed.
    TrainingError
        If sums are not finite, or of possibilistic c-means a cluster has no width, or all have died. What was published
        before stays.
    KeyboardInterrupt
        After Ctrl-C, when the micro-batch that is under way has ended and the bundle is published; a second one ends
        the process at once.
    """
    from sparton.ml.streaming import StreamClustering

    check_alone(STAGE)
    started = time.perf_counter()
    data = settings.folder("table", input)
    if not storage.is_folder(data):
        what = "a file, expected a folder" if storage.exists(data) else "no such folder"
        raise UsageError(f"{data}: {what}; name the one that Parquet files arrive in (--input)")
    target, states = settings.folder("model", output), settings.folder("stream", state)
    sections = {"cluster": settings.cluster.deciding(), "stream": settings.stream.deciding()}
    call = StageCall(STAGE, sections, {}, target, settings)
    call.check()
    published: list[int] = []

    def finish(staging: str, reached: StreamState) -> None:
        write_record(call, staging, {"source": data, "batches": reached.batches, "rows": reached.rows})
        published.append(reached.batch)

    with run_folder_of(STAGE, settings) as run_folder:
        spark = spark_session(settings.spark, f"sparton {STAGE}")
        stream = _arrivals(spark, settings, data, states)
        clustering = StreamClustering(
            stream, states, target, settings.cluster, settings.table, settings.stream.online(), model, data, finish
        )
        with clustering, interrupts() as pressed:
            before = clustering.state.batch
            logger.info("%s: watching %s, output %s", STAGE, data, target)
            _run(clustering, settings, lambda: pressed.is_set() or stop())
            clustering.publish()
            summary = _summary(clustering, before)
            storage.write_json(storage.join(run_folder, "summary.json"), summary)
            if pressed.is_set():
                raise KeyboardInterrupt
    nothing_done = clustering.state.batch == before and not published
    return StageResult(STAGE, target, summary, nothing_done, time.perf_counter() - started, run_folder)


def _run(clustering: StreamClustering, settings: PipelineSettings, stop: Callable[[], bool]) -> None:
    batches = Batches()
    query = triggered(clustering.writer(batches.guarded), settings.stream.trigger).start()
    wait(query, batches, stop, STAGE)


def _summary(clustering: StreamClustering, before: int) -> dict[str, Any]:
    return {
        "new batches": clustering.state.batch - before,
        **clustering.figures(),
        "states": clustering.folder,
    }


def _arrivals(spark: SparkSession, settings: PipelineSettings, folder: str, states: str) -> DataFrame:
    """Return the rows of files that arrive, with the columns that the stream was begun with."""
    from pyspark.errors import PySparkException

    reader = (
        spark.readStream.option("recursiveFileLookup", "true")
        .option("pathGlobFilter", f"*{PARQUET}")
        .option("maxFilesPerTrigger", settings.stream.files_per_batch)
        .option("maxFileAge", ANY_AGE)
        .option("ignoreCorruptFiles", "false")
        .option("ignoreMissingFiles", "false")
    )
    schema = _schema(spark, settings, folder, states)
    try:
        return reader.schema(schema).parquet(storage.spark_source(folder))
    except PySparkException as error:
        if not isinstance(schema, str):
            raise
        reason = " ".join(str(error).split())
        raise ConfigError(f"stream.source_schema: {schema!r} is not a list of columns and types ({reason})") from None


def _schema(spark: SparkSession, settings: PipelineSettings, folder: str, states: str) -> StructType | str:
    """Return the columns of the files: those that the stream was begun with, those declared, or the first file's."""
    import json

    from pyspark.sql.types import StructType

    from sparton.data.executors import executor_errors
    from sparton.ml import stream_identity

    known = stream_identity.read(states)
    if known is not None:
        return StructType.fromJson(json.loads(known.schema))
    if settings.stream.source_schema is not None:
        return settings.stream.source_schema
    first = next((path for path in storage.expand(folder) if path.endswith(PARQUET)), None)
    if first is None:
        raise UsageError(
            f"{folder}: no Parquet file in it yet, which would tell the columns; put one there, or name the columns "
            "and their types (stream.source_schema)"
        )
    with executor_errors(STAGE):
        found = spark.read.parquet(storage.spark_source(first)).schema
    if not found.fields:
        raise DataError(f"{first}: no columns in it")
    return found
