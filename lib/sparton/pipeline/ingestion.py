"""Stage ``ingest``: files of public and own formats to a jets table."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sparton import publication, storage
from sparton.config import Config
from sparton.data.executors import executor_errors
from sparton.data.ingest import IngestRecord, check_alike, read_ingest_record, write_jets
from sparton.data.ingest_plan import SourceFile
from sparton.data.ingest_tasks import examine_files
from sparton.data.sources.block import Source
from sparton.data.sources.registry import make_source, source_paths
from sparton.pipeline.progress import spark_progress
from sparton.pipeline.session import spark_session
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, StageResult, run_stage

STAT_THREADS = 16


class FoundFile(Config):
    """A file to read, as it was when the stage began."""

    path: str
    bytes: int
    modified: str


class FoundFiles(Config):
    """All files to read, and those ``beside`` them; what they are decides whether an output is up to date."""

    files: tuple[FoundFile, ...]
    beside: tuple[FoundFile, ...] = ()


def ingest(
    settings: PipelineSettings,
    *,
    input: str | Sequence[str],
    output: str | None = None,
    append: bool = False,
    force: bool = False,
) -> StageResult:
    """Read files of jets, reject what is broken and publish the rest as a jets table.

    Parameters
    ----------
    settings
        The section ``ingest`` decides the table.
    input
        Files, folders (all files of the format below them) or patterns, local or URLs.
    output
        Folder to publish; None takes ``<workspace>/jets``.
    append
        Add to a table that was ingested before the files whose content it does not hold yet. Where nothing is
        published yet, a new table is made.
    force
        Run even where the output is up to date.

    Raises
    ------
    UsageError
        If no file is found, something that this stage did not make stands at the output, or a table to add to has
        other columns.
    DataError
        If more is rejected than ``ingest.max_rejected`` allows.
    """
    started = time.perf_counter()
    name = settings.ingest.format
    source = make_source(name, getattr(settings.ingest, name))
    files = find_files([input] if isinstance(input, str) else list(input), source)
    target = settings.folder("jets", output)
    publication.recover(target)
    previous = read_ingest_record(target) if append else None
    extend = previous is not None
    sections = {"ingest": settings.ingest, "sources": files}
    call = StageCall("ingest", sections, {}, target, settings, force, extend)
    paths = [file.path for file in files.files]
    found: list[SourceFile] | None = None
    if previous is not None:
        call.check()
        check_alike(previous, source, settings.ingest)
        spark = spark_session(settings.spark, "sparton ingest")
        with spark_progress(spark, "ingest: examining files"), executor_errors("ingest"):
            found = previous.with_changed(examine_files(spark, source, paths))
        if not force and not previous.unknown(found):
            none = {
                "new files": f"none: {target} holds the jets of all {len(found)} file(s) given, or has rejected them"
            }
            return StageResult("ingest", target, none | summarise(previous), True, time.perf_counter() - started)

    def body(staging: str) -> dict[str, Any]:
        spark = spark_session(settings.spark, "sparton ingest")
        with spark_progress(spark, "ingest: reading jets"):
            record = write_jets(spark, paths, settings.ingest, staging, found)
        return summarise(record) if previous is None else added(previous, record) | summarise(record)

    return run_stage(call, body)


def find_files(inputs: Sequence[str], source: Source) -> FoundFiles:
    """Return the files of a format that paths, folders and patterns stand for, as they are now.

    Raises
    ------
    UsageError
        If one of them stands for no file.
    """
    paths = source_paths(inputs, source)
    with ThreadPoolExecutor(STAT_THREADS) as pool:
        beside = sorted({path for found in pool.map(source.beside, paths) for path in found})
        return FoundFiles(files=tuple(pool.map(_found_file, paths)), beside=tuple(pool.map(_found_file, beside)))


def added(previous: IngestRecord, record: IngestRecord) -> dict[str, Any]:
    """Return what an extension has brought; the other figures are of the whole table."""
    known = {(source.path, source.sha256) for source in previous.sources}
    new = [source for source in record.sources if (source.path, source.sha256) not in known]
    return {
        "new files": sum(not source.reason for source in new),
        "jets added": sum(record.files.values()) - sum(previous.files.values()),
        "rejected in new files": sum(sum(source.rejected.values()) for source in new),
    }


def summarise(record: IngestRecord) -> dict[str, Any]:
    """Return the figures for the closing table."""
    used = [source for source in record.sources if not source.reason]
    rejected, repaired = Counter[str](), Counter[str]()
    for source in used:
        rejected.update(source.rejected)
        repaired.update(source.repaired)
    left_out = Counter(source.reason for source in record.sources if source.reason)
    return {
        "source files": len(used),
        "files left out": dict(left_out) or "none",
        "jets": sum(record.files.values()),
        "rejected jets": dict(rejected) or "none",
        "repaired": dict(repaired) or "none",
    }


def _found_file(path: str) -> FoundFile:
    try:
        return FoundFile(path=path, bytes=storage.size(path), modified=storage.modified(path))
    except FileNotFoundError:  # a link to nothing, or removed just now: the quarantine will say so
        return FoundFile(path=path, bytes=0, modified="")
