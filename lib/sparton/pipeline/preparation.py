"""Stage ``prepare``: a jets table to a training set."""

from __future__ import annotations

from typing import Any

from sparton import storage
from sparton.pipeline.progress import spark_progress
from sparton.pipeline.session import spark_session
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, StageResult, run_stage


def prepare(
    settings: PipelineSettings, *, input: str | None = None, output: str | None = None, force: bool = False
) -> StageResult:
    """Select jets, compute features and publish shuffled shards with a manifest.

    Parameters
    ----------
    settings
        The section ``prepare`` decides the set.
    input
        Jets table; None takes ``<workspace>/jets``.
    output
        Folder to publish; None takes ``<workspace>/set``.
    force
        Run even where the output is up to date.

    Raises
    ------
    UsageError
        If the input is missing, or something that this stage did not make stands at the output.
    DataError
        If a column is missing or no jet passes the selection.
    """
    jets = settings.folder("jets", input)
    call = StageCall(
        "prepare",
        {"prepare": settings.prepare},
        {"jets": jets},
        settings.folder("set", output),
        settings.workspace,
        force,
    )

    def body(staging: str) -> dict[str, Any]:
        from sparton.data.prepare import write_training_set

        spark = spark_session(settings.spark, "sparton prepare")
        with spark_progress(spark, "prepare: featurising and shuffling"):
            table = spark.read.parquet(storage.spark_url(jets))
            manifest = write_training_set(spark, table, settings.prepare, staging, call.input_fingerprints())
        counts = manifest.counts
        return {
            "jets read": counts.read,
            "jets kept": counts.kept,
            "rejected": counts.rejected or "none",
            "outside the selection": counts.excluded or "none",
            "altered": counts.altered or "none",
            "splits": {split: manifest.rows(split) for split in manifest.splits},
            "shards": {split: len(shards) for split, shards in manifest.splits.items()},
            "rows per shard": manifest.rows_per_shard,
        }

    return run_stage(call, body)
