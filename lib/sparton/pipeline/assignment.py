"""Stage ``assign``: a training set or a jets table, and a bundle, to the cluster of every jet."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from sparton import storage
from sparton.data.schema import ASSIGNMENTS_ARROW, JETS_ARROW, TRAINING_ARROW, require_columns
from sparton.errors import DataError
from sparton.pipeline.progress import spark_progress
from sparton.pipeline.session import spark_session
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, StageResult, run_stage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

    from sparton.ml.ucluster import UClusterModel


def assign(
    settings: PipelineSettings,
    *,
    input: str | None = None,
    model: str | None = None,
    output: str | None = None,
    force: bool = False,
) -> StageResult:
    """Assign every jet to a cluster and publish the assignments.

    Parameters
    ----------
    settings
        The section ``assign`` decides the batch of the network.
    input
        Training set (all its splits) or jets table; None takes ``<workspace>/set``.
    model
        Bundle; None takes ``<workspace>/model``.
    output
        Folder to publish; None takes ``<workspace>/assignments``.
    force
        Run even where the output is up to date.

    Raises
    ------
    UsageError
        If an input is missing, or something that this stage did not make stands at the output.
    DataError
        If the input has not the features that the bundle was trained on.
    """
    inputs = {"jets": settings.folder("set", input), "model": settings.folder("model", model)}
    target = settings.folder("assignments", output)
    call = StageCall("assign", {"assign": settings.assign}, inputs, target, settings, force)

    def body(staging: str) -> dict[str, Any]:
        from sparton.ml.ucluster import UClusterModel

        started = time.perf_counter()
        spark = spark_session(settings.spark, "sparton assign")
        url = storage.spark_url(staging)
        with spark_progress(spark, "assign: assigning jets"):
            clusterer = UClusterModel.from_bundle(inputs["model"]).setBatchSize(settings.assign.batch_size)
            rows = _features(spark.read.parquet(storage.spark_source(inputs["jets"])), inputs["jets"], clusterer)
            assigned = clusterer.transform(rows.select("jet_id", "features", "n_particles"))
            assigned.select(*ASSIGNMENTS_ARROW.names).write.mode("overwrite").parquet(url)
        seconds = time.perf_counter() - started
        sizes = spark.read.parquet(storage.spark_source(staging)).groupBy("cluster").count().collect()
        counts = {row["cluster"]: row["count"] for row in sizes}
        total = sum(counts.values())
        return {
            "jets": total,
            "cluster sizes": {str(cluster): counts[cluster] for cluster in sorted(counts)},
            "jets/s": round(total / seconds, 1),
        }

    return run_stage(call, body)


def _features(table: DataFrame, path: str, clusterer: UClusterModel) -> DataFrame:
    """Return rows with the features that the bundle reads, computed where ``table`` is a jets table."""
    from sparton.data.featurize import featurize
    from sparton.data.manifest import read_manifest

    if set(JETS_ARROW.names).issubset(table.columns):
        return featurize(table, clusterer.feature_spec)
    require_columns(table.columns, TRAINING_ARROW.names, path)
    manifest, spec = read_manifest(path), clusterer.feature_spec
    found = f"{manifest.n_particles} particles with {', '.join(manifest.feature_names)}"
    expected = f"{spec.n_particles} particles with {', '.join(clusterer.feature_names)}"
    if found != expected:
        raise DataError(
            f"{path}: {found}; the bundle was trained on {expected}. "
            "Prepare the set with the bundle's settings, or assign the jets table"
        )
    return table
