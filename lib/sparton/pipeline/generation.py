"""Stage ``generate``: Pythia 8 on the executors to a jets table."""

from __future__ import annotations

import time
from typing import Any

from sparton import storage
from sparton.errors import DataError
from sparton.pipeline.progress import spark_progress
from sparton.pipeline.session import spark_session
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, StageResult, run_stage

METADATA = "_generation.json"


def generate(settings: PipelineSettings, *, output: str | None = None, force: bool = False) -> StageResult:
    """Simulate jets and publish them as a jets table.

    Parameters
    ----------
    settings
        The section ``generate`` decides the table.
    output
        Folder to publish; None takes ``<workspace>/jets``.
    force
        Run even where the output is up to date.

    Raises
    ------
    UsageError
        If something that this stage did not make stands at the output.
    DataError
        If the settings select too few events.
    """
    call = StageCall("generate", {"generate": settings.generate}, {}, settings.folder("jets", output), settings, force)

    def body(staging: str) -> dict[str, Any]:
        from sparton.data.generation import generate_table, generation_metadata, tagged

        started = time.perf_counter()
        spark = spark_session(settings.spark, "sparton generate")
        url = storage.spark_url(staging)
        metadata = generation_metadata(settings.generate)
        with spark_progress(spark, "generate: simulating jets"):
            tagged(generate_table(spark, settings.generate), metadata).write.mode("overwrite").parquet(url)
        seconds = time.perf_counter() - started
        rows = spark.read.parquet(storage.spark_source(staging)).groupBy("label").count().collect()
        jets = {row["label"]: row["count"] for row in sorted(rows, key=lambda row: str(row["label"]))}
        _check_counts(jets, settings)
        storage.write_json(storage.join(staging, METADATA), metadata)
        return {"jets": jets, "seed": settings.generate.seed, "jets/s": round(sum(jets.values()) / seconds, 1)}

    return run_stage(call, body)


def _check_counts(jets: dict[str, int], settings: PipelineSettings) -> None:
    expected = len(settings.generate.processes) * settings.generate.jets_per_process
    found = sum(jets.values())
    if found != expected:
        raise DataError(f"generate: the table holds {found} jets, expected {expected}; a task lost or doubled its part")
