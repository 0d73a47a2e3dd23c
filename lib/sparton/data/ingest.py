"""Files of jets to a jets table on Spark: examined, split over tasks, screened and written, every good jet once.

A file is used whole or not at all: where one turns out bad while it is read, or is replaced meanwhile, or jets share an
identifier, the tasks concerned run again without it. What was rejected lies in the table's folder ``_quarantine``.
"""

from __future__ import annotations

import hashlib
import logging
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pyarrow.parquet as pq
from pydantic import Field

from sparton import __version__, storage
from sparton.config import Config, fingerprint
from sparton.data.ingest_doubles import repeated_ids
from sparton.data.ingest_plan import SourceFile, split_work, with_bits, without_doubles
from sparton.data.ingest_settings import IngestSettings
from sparton.data.ingest_tasks import IngestJob, IngestTask, TaskResult, examine_files, run_tasks
from sparton.data.quarantine import FOLDER, QUARANTINE_ARROW, enforce_limit, rejected_file
from sparton.data.sink import ParquetSink
from sparton.data.sources import identity
from sparton.data.sources.block import Source
from sparton.data.sources.registry import SOURCES, make_source
from sparton.errors import DataError, UsageError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

RECORD = "_ingest.json"
FOOTER_THREADS = 16

logger = logging.getLogger(__name__)


class SourceRecord(Config):
    """One file that was read: where, what, and what became of its rows.

    ``reason`` is empty where it was used; ``bits`` stand for it in identifiers (None in records of earlier versions:
    those of its SHA-256).
    """

    path: str
    bytes: int
    sha256: str
    bits: int | None = None
    rows: int | None
    jets: int = 0
    rejected: dict[str, int] = Field(default_factory=dict)
    repaired: dict[str, int] = Field(default_factory=dict)
    reason: str = ""
    detail: str = ""


class IngestRecord(Config):
    """What an ingested table was made from (``_ingest.json``); ``own_ids``: some files brought identifiers along."""

    format: str
    version: str
    settings: dict[str, Any]
    extra_columns: tuple[str, ...]
    sources: tuple[SourceRecord, ...]
    files: dict[str, int]
    own_ids: bool = False

    def known(self) -> dict[str, str]:
        """Return the paths of the files that were used, by SHA-256."""
        return {source.sha256: source.path for source in self.sources if not source.reason}

    def bits(self) -> set[int]:
        """Return what stands in identifiers for the files that were used."""
        salt = int(self.settings["salt"])
        return {
            identity.file_bits(source.sha256, salt) if source.bits is None else source.bits
            for source in self.sources
            if not source.reason
        }

    def with_changed(self, files: Sequence[SourceFile]) -> list[SourceFile]:
        """Return examined files, with those marked whose jets the table holds as they were before they changed."""
        held = self.known()
        before = {path: sha256 for sha256, path in held.items()}
        return [
            replace(
                file,
                reason="changed",
                detail=f"the table holds its jets as they were at SHA-256 {before[file.path]}; for those of now, "
                "ingest all files anew, without --append",
            )
            if not file.reason and file.sha256 not in held and file.path in before
            else file
            for file in files
        ]

    def unknown(self, files: Sequence[SourceFile]) -> list[SourceFile]:
        """Return those of examined files that the table does not hold, without bad ones that were left out before."""
        held, left_out = self.known(), {(source.path, source.sha256) for source in self.sources if source.reason}
        others = [file for file in files if file.sha256 not in held]
        return [file for file in others if not file.reason or (file.path, file.sha256) not in left_out]


def write_jets(
    spark: SparkSession,
    paths: list[str],
    settings: IngestSettings,
    folder: str,
    found: Sequence[SourceFile] | None = None,
) -> IngestRecord:
    """Read files and write the jets table, its quarantine and its record to a folder.

    Parameters
    ----------
    spark
        The session whose executors read and write.
    paths
        Files, on storage that all machines share.
    settings
        Format and limits.
    folder
        Where to write: empty, or a jets table that was ingested before; files whose content it holds are passed over.
    found
        The files as examined; None: they are examined here.

    Raises
    ------
    UsageError
        If the table in the folder has other columns or identifiers than the settings say.
    DataError
        If more is rejected than the settings allow, or nothing is left.
    """
    folder = storage.absolute(folder)
    source = make_source(settings.format, getattr(settings, settings.format))
    previous = read_ingest_record(folder)
    if previous is not None:
        check_alike(previous, source, settings)
    known = previous.known() if previous else {}
    found = examine_files(spark, source, paths) if found is None else list(found)
    if previous is not None:
        found = previous.with_changed(found)
    files = without_doubles([file for file in found if file.reason or file.sha256 not in known])
    files = with_bits(files, settings.salt, previous.bits() if previous else ())
    storage.make_dirs(storage.join(folder, FOLDER))
    own_ids = source.gives_ids or (previous is not None and previous.own_ids)
    job = IngestJob(source, tuple(files), folder, _prefix(files, settings), settings)
    job, results = _write_all(spark, job, own_ids)
    records = _source_records(job, results)
    written = {file.name: file.rows for result in results for file in result.written()}
    _remove_leftovers(job, {*written, *(name for result in results for name in result.quarantine)})
    record = _merge(previous, records, written, source, settings)
    _write_file_quarantine(record, folder)
    _check_limits(records, settings)
    _check_footers(job, written)
    if not record.files:
        raise DataError(f"none of {len(paths)} file(s) holds a jet that can be used; check the input and --format")
    storage.write_json(storage.join(folder, RECORD), record.model_dump(mode="json"))
    return record


def read_ingest_record(folder: str) -> IngestRecord | None:
    """Return the record of an ingested table, None where there is none.

    Raises
    ------
    DataError
        If the record is damaged.
    """
    path = storage.join(folder, RECORD)
    if not storage.exists(path):
        return None
    try:
        return IngestRecord.model_validate(storage.read_json(path))
    except ValueError as error:
        raise DataError(f"{path}: not the record of an ingest ({error}); ingest the files anew") from None


def _write_all(spark: SparkSession, job: IngestJob, own_ids: bool) -> tuple[IngestJob, list[TaskResult]]:
    """Run the tasks until every one has written its part of the usable files and no identifier repeats.

    Those made here never do; where a file has or had identifiers of its own, these may be of jets made here too.
    """
    slots = spark.sparkContext.defaultParallelism
    parts = split_work(job.files, job.settings.task_bytes, slots)
    tasks = {number: IngestTask(number, part) for number, part in enumerate(parts)}
    results: dict[int, TaskResult] = {}
    waiting = list(tasks.values())
    while waiting:
        results |= {result.number: result for result in run_tasks(spark, job, waiting)}
        job, again = _without_failures(job, tasks, results)
        if not again and own_ids:
            again = _without_repeated(spark, job, tasks, results)
        tasks |= {task.number: task for task in again}
        waiting = again
    return job, [results[number] for number in sorted(results)]


def _without_failures(
    job: IngestJob, tasks: dict[int, IngestTask], results: dict[int, TaskResult]
) -> tuple[IngestJob, list[IngestTask]]:
    """Mark files that turned out bad, and return the tasks to run again: those that read them or left out doubles.

    A file of the same content, left out until then, takes the place of a bad one.
    """
    bad = {result.failure.file: result.failure for result in results.values() if result.failure}
    if not bad:
        return job, []
    files = list(job.files)
    heirs: dict[int, int] = {}
    for number, failure in bad.items():
        logger.warning("%s: %s (%s), left out", files[number].path, failure.reason, failure.detail)
        heir = _heir(files, number)
        if heir is not None:
            heirs[number] = heir
            files[heir] = replace(files[heir], reason="", detail="", bits=files[number].bits)
        files[number] = replace(files[number], reason=failure.reason, detail=failure.detail)
    again = []
    for task in tasks.values():
        # Which jets are doubles has to be found anew without those of the bad files.
        if task.excluded.size or any(part.file in bad for part in task.parts):
            moved = (replace(part, file=heirs.get(part.file, part.file)) for part in task.parts)
            again.append(IngestTask(task.number, tuple(part for part in moved if part.file not in bad)))
    return replace(job, files=tuple(files)), again


def _heir(files: Sequence[SourceFile], number: int) -> int | None:
    """Return the number of a file that was left out only because it has the same content, None without one."""
    alike = (other for other, file in enumerate(files) if file.sha256 == files[number].sha256)
    return next((other for other in alike if files[other].reason == "duplicate_file"), None)


def _without_repeated(
    spark: SparkSession, job: IngestJob, tasks: dict[int, IngestTask], results: dict[int, TaskResult]
) -> list[IngestTask]:
    """Return the tasks whose jets have identifiers of earlier ones, told to leave those out."""
    if any(task.excluded.size for task in tasks.values()):
        return []
    written = {number: [file.name for file in result.written()] for number, result in results.items()}
    # Names with the job's prefix that no result has are left by attempts that ran again.
    stored = filter(_is_table_file, storage.list_files(job.folder))
    others = [name for name in stored if not name.startswith(job.prefix)]
    repeated = repeated_ids(spark, job.folder, written, others)
    return [replace(tasks[number], excluded=places) for number, places in repeated.items()]


def _is_table_file(path: str) -> bool:
    return path.endswith(".parquet") and not path.startswith(("_", "."))


def _prefix(files: list[SourceFile], settings: IngestSettings) -> str:
    """Return how the names of the written files start: the same for the same content and settings."""
    content = sorted(file.sha256 for file in files if not file.reason)
    told = settings.model_dump(mode="json", exclude={"max_rejected", "task_bytes"})
    return "jets-" + hashlib.sha256(fingerprint([content, told]).encode()).hexdigest()[:12]


def _source_records(job: IngestJob, results: list[TaskResult]) -> list[SourceRecord]:
    """Return what became of each file, after checking that its rows were all read once."""
    rows, jets = Counter[int](), Counter[int]()
    rejected: dict[int, Counter[str]] = {}
    repaired: dict[int, Counter[str]] = {}
    for count in (count for result in results for count in result.counts):
        rows[count.file] += count.rows
        jets[count.file] += count.jets
        rejected.setdefault(count.file, Counter()).update(count.rejected)
        repaired.setdefault(count.file, Counter()).update(count.repaired)
    records = []
    for number, file in enumerate(job.files):
        if not file.reason and rows[number] != file.rows:
            raise DataError(f"{file.path}: {rows[number]} rows were read, expected {file.rows}; run it again")
        records.append(
            SourceRecord(
                path=file.path,
                bytes=file.bytes,
                sha256=file.sha256,
                bits=file.bits,
                rows=file.rows,
                jets=jets[number],
                rejected=dict(rejected.get(number, {})),
                repaired=dict(repaired.get(number, {})),
                reason=file.reason,
                detail=file.detail,
            )
        )
    return records


def check_alike(previous: IngestRecord, source: Source, settings: IngestSettings) -> None:
    """Check that a table may hold jets of these settings beside those that it has.

    Raises
    ------
    UsageError
        Naming the first setting that differs.
    """
    if previous.extra_columns != source.extra_columns:
        raise UsageError(
            f"--append: the table has the further columns {', '.join(previous.extra_columns) or 'none'}, "
            f"{settings.format}.jet_columns says {', '.join(source.extra_columns) or 'none'}; they must be the same"
        )
    if previous.settings["salt"] != settings.salt:
        raise UsageError(
            f"--append: the table has ingest.salt {previous.settings['salt']}, the settings {settings.salt}; "
            "they must be the same, or files could share identifiers"
        )
    if previous.format != settings.format:
        logger.warning(
            "--append: the table holds jets of the format %s, those of %s come beside them; what a constituent is, and "
            "what a label means, may differ",
            previous.format,
            settings.format,
        )
    before, now = previous.settings[settings.format], getattr(settings, settings.format).model_dump(mode="json")
    for option in source.decisive if previous.format == settings.format else ():
        if before[option] != now[option]:
            raise UsageError(
                f"--append: the table was made with {settings.format}.{option} {before[option]!r}, the settings say "
                f"{now[option]!r}; they must be the same, or it would hold jets of two kinds"
            )


def _merge(
    previous: IngestRecord | None,
    records: list[SourceRecord],
    written: dict[str, int],
    source: Source,
    settings: IngestSettings,
) -> IngestRecord:
    """Return the record of the table as it is now; a file that was tried again stands there once."""
    again = {(record.path, record.sha256) for record in records}
    kept = [old for old in previous.sources if (old.path, old.sha256) not in again] if previous else []
    return IngestRecord(
        format=settings.format,
        version=__version__,
        settings=settings.model_dump(mode="json"),
        extra_columns=source.extra_columns,
        sources=(*kept, *records),
        files=(previous.files if previous else {}) | written,
        own_ids=source.gives_ids or (previous is not None and previous.own_ids),
    )


def _write_file_quarantine(record: IngestRecord, folder: str) -> None:
    """Write the rows of the quarantine for whole files; remove its folder where nothing was rejected."""
    quarantine = storage.join(folder, FOLDER)
    with ParquetSink(quarantine, "files", QUARANTINE_ARROW, "zstd", record.settings["file_bytes"]) as sink:
        for file in record.sources:
            if file.reason:
                sink.add(rejected_file(file.path, file.reason, file.detail, file.sha256 or None))
        sink.close()
    if not storage.list_files(quarantine):
        storage.remove(quarantine)


def _check_limits(records: list[SourceRecord], settings: IngestSettings) -> None:
    """Check rejected jets, the rows of bad files among them, and files that are bad against the limit."""
    files = Counter(record.reason for record in records if record.reason and record.reason != "duplicate_file")
    rejected, total = Counter[str](), 0
    for record in records:
        if not record.reason:
            rejected.update(record.rejected)
            total += record.jets + sum(record.rejected.values())
        elif record.reason != "duplicate_file":
            rejected[record.reason] += record.rows or 0
            total += record.rows or 0
    what = f"{len(records)} file(s) of format {settings.format}"
    unit = "events and jets" if SOURCES[settings.format].several else "jets"
    first = next((f"in {record.path}" for record in records if record.rejected or record.reason in files), "")
    enforce_limit(+rejected, total, settings.max_rejected, what, unit, first)
    bad = next((f"{record.path}: {record.detail}" for record in records if record.reason in files), "")
    enforce_limit(files, len(records), settings.max_rejected, what, "files", bad)


def _remove_leftovers(job: IngestJob, expected: set[str]) -> None:
    """Remove what tasks left that were killed or that ran again."""
    for path in storage.list_files(job.folder):
        if storage.name(path).lstrip(".").startswith(job.prefix) and path not in expected:
            storage.remove(storage.join(job.folder, path))


def _check_footers(job: IngestJob, written: dict[str, int]) -> None:
    """Read the footers back and compare their rows with those written."""

    def rows(name: str) -> int:
        with storage.open_file(storage.join(job.folder, name)) as stream:
            return int(pq.read_metadata(stream).num_rows)

    with ThreadPoolExecutor(FOOTER_THREADS) as pool:
        found = dict(zip(written, pool.map(rows, written), strict=True))
    if found != written:
        wrong = next(name for name in written if found[name] != written[name])
        raise DataError(f"{wrong}: {found[wrong]} rows on storage, written were {written[wrong]}; run again")
