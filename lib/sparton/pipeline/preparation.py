"""Stage ``prepare``: a jets table to a training set, or any table of numbers to a table set."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING, Any, Literal

from sparton import publication, storage
from sparton.errors import UsageError
from sparton.pipeline.progress import spark_progress
from sparton.pipeline.record import recorded_sums
from sparton.pipeline.session import spark_session
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, StageResult, run_stage

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

    from sparton.data.manifest import Manifest, TableManifest
    from sparton.data.source_files import Source

Kind = Literal["jets", "table"]


def prepare(
    settings: PipelineSettings,
    *,
    kind: Kind | None = None,
    input: str | None = None,
    output: str | None = None,
    append: bool = False,
    force: bool = False,
) -> StageResult:
    """Select rows, compute features and publish shuffled shards with a manifest.

    Parameters
    ----------
    settings
        The section ``prepare`` (jets) or ``table`` decides the set.
    kind
        What the input is: a jets table, or any table of numbers; None takes the configuration's ``kind``.
    input
        Folder of Parquet files; None takes ``<workspace>/jets`` or ``<workspace>/table``.
    output
        Folder to publish; None takes ``<workspace>/set``.
    append
        Add to the published set the files of the input whose content it does not hold yet. Where nothing is published
        yet, a new set is made.
    force
        Run even where the output is up to date.

    Raises
    ------
    UsageError
        If the input is missing, something that this stage did not make stands at the output, or a set to extend was
        made with other settings.
    DataError
        If a column is missing, no row passes the selection, or more rows are rejected than ``max_rejected`` allows.
    """
    started = time.perf_counter()
    kind = kind or settings.kind
    section = "prepare" if kind == "jets" else "table"
    source = settings.folder(kind, input)
    target = settings.folder("set", output)
    publication.recover(target)
    extend = append and storage.exists(storage.join(target, storage.MANIFEST))
    chosen = settings.prepare if kind == "jets" else settings.table
    call = StageCall("prepare", {section: chosen}, {kind: source}, target, settings, force, extend)
    call.check()
    new = _new_sources(settings, kind, source, target) if extend else None
    if new is not None and not new:
        summary = {"new files": f"none: {target} holds all files of {source}"}
        return StageResult("prepare", target, summary, True, time.perf_counter() - started)

    def body(staging: str) -> dict[str, Any]:
        spark = spark_session(settings.spark, "sparton prepare")
        with spark_progress(spark, "prepare: computing features and shuffling"):
            sources = new if new is not None else _sources(spark, source)
            before = _rows(staging) if extend else {}
            manifest = _write(spark, settings, kind, source, sources, staging, call)
        added = {split: manifest.rows(split) - before[split] for split in before}
        return ({"new files": len(sources), "rows added": added} if extend else {}) | _summary(manifest)

    return run_stage(call, body)


def _sources(spark: SparkSession, folder: str, held: Collection[str] = ()) -> list[Source]:
    """Return the files of the input, which must be those of the record that the stage which made it has left."""
    from sparton.data.source_files import find_sources

    return find_sources(spark, folder, recorded_sums(folder), held)


def _new_sources(settings: PipelineSettings, kind: Kind, folder: str, target: str) -> list[Source]:
    from sparton.data.extension import require_same_settings
    from sparton.data.manifest import KIND, TABLE_KIND, read_set

    manifest = read_set(target)
    expected = KIND if kind == "jets" else TABLE_KIND
    if manifest.kind != expected:
        raise UsageError(f"{target}: it is a {manifest.kind}, expected a {expected}; see --kind")
    if not manifest.sources:
        raise UsageError(f"{target}: it does not say which files it was made from; prepare it again without --append")
    chosen, section = (settings.prepare, "prepare") if kind == "jets" else (settings.table, "table")
    require_same_settings(chosen, manifest, section, target)  # also where nothing is new
    held = {source.sha256 for source in manifest.sources}
    spark = spark_session(settings.spark, "sparton prepare")
    return [source for source in _sources(spark, folder, held) if source.file.sha256 not in held]


def _rows(folder: str) -> dict[str, int]:
    from sparton.data.manifest import read_set

    manifest = read_set(folder)
    return {split: manifest.rows(split) for split in manifest.splits}


def _write(
    spark: SparkSession,
    settings: PipelineSettings,
    kind: Kind,
    source: str,
    sources: Sequence[Source],
    staging: str,
    call: StageCall,
) -> Manifest | TableManifest:
    from sparton.data.prepare import write_training_set
    from sparton.data.source_files import read_sources
    from sparton.data.tables import write_table_set

    rows = read_sources(spark, source, sources)
    inputs = call.input_fingerprints()
    if kind == "jets":
        return write_training_set(spark, rows, settings.prepare, staging, inputs, sources, source, call.extend)
    return write_table_set(spark, rows, settings.table, staging, inputs, sources, source, call.extend)


def _summary(manifest: Manifest | TableManifest) -> dict[str, Any]:
    counts = manifest.counts
    return {
        "rows read": counts.read,
        "rows kept": counts.kept,
        "rejected": counts.rejected or "none",
        "outside the selection": counts.excluded or "none",
        "altered": counts.altered or "none",
        "splits": {split: manifest.rows(split) for split in manifest.splits},
        "shards": {split: len(shards) for split, shards in manifest.splits.items()},
        "rows per shard": manifest.rows_per_shard,
    }
