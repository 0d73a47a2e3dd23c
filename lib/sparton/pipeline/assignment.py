"""Stage ``assign``: a set or a jets table, and a bundle, to the cluster of every jet or row."""

from __future__ import annotations

import time
from collections.abc import Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from sparton import storage
from sparton.config import Config
from sparton.data.in_memory import LIMIT_OPTION
from sparton.data.manifest import is_plain
from sparton.data.plain import PlainTable
from sparton.data.quarantine import FOLDER as QUARANTINE
from sparton.data.quarantine import enforce_limit, rejected_by_reason
from sparton.data.schema import (
    ASSIGNMENTS_ARROW,
    JETS_ARROW,
    TRAINING_ARROW,
    require_columns,
)
from sparton.errors import DataError
from sparton.pipeline.bundles import bundle_kind
from sparton.pipeline.progress import spark_progress
from sparton.pipeline.record import recorded_sums
from sparton.pipeline.session import spark_session
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, StageResult, run_stage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

    from sparton.ml.ucluster import UClusterModel


def assign(
    settings: PipelineSettings,
    *,
    input: str | None = None,
    model: str | None = None,
    output: str | None = None,
    force: bool = False,
) -> StageResult:
    """Assign every jet, or every row of a table, to a cluster and publish the assignments.

    Parameters
    ----------
    settings
        The section ``assign`` decides the batch of the network, and whether rows of a table get all distances;
        ``cluster.device`` what computes these. Of Parquet files as they are, ``table.id`` names the rows, and
        ``table.max_rejected`` says how many may be left out since they hold no numbers.
    input
        Training set (all its splits) or jets table, or with a bundle of clusters a table set, or a folder of Parquet
        files with the columns that the bundle names; None takes ``<workspace>/set``.
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
        If the input has not the features that the bundle was trained on, or too many of its rows are rejected.
    """
    inputs = {"rows": settings.folder("set", input), "model": settings.folder("model", model)}
    target = settings.folder("assignments", output)
    sections: dict[str, Config] = {"assign": settings.assign}
    if is_plain(inputs["rows"]):
        sections |= {"table": settings.table}
    call = StageCall("assign", sections, inputs, target, settings, force)

    def body(staging: str) -> dict[str, Any]:
        started = time.perf_counter()
        of_table = bundle_kind(inputs["model"]) == "table"
        if not of_table:
            _check_set(inputs["rows"], inputs["model"])
        unit = "rows" if of_table else "jets"
        spark = spark_session(settings.spark, "sparton assign")
        with spark_progress(spark, f"assign: assigning {unit}"):
            left_out = (_assign_rows if of_table else _assign_jets)(spark, inputs, settings, staging)
        seconds = time.perf_counter() - started
        counts = _counts(spark.read.parquet(storage.spark_source(staging)))
        total = sum(counts.values())
        return {unit: total, **left_out, "cluster sizes": counts, f"{unit}/s": round(total / seconds, 1)}

    return run_stage(call, body)


def _counts(assigned: DataFrame) -> dict[str, int]:
    """Return the rows of each cluster, and those that are noise where the method knows such."""
    from pyspark.sql import functions as F

    noise = F.col("noise") if "noise" in assigned.columns else F.lit(False)
    found = assigned.groupBy(F.when(~noise, F.col("cluster")).alias("cluster")).count().collect()
    counts = {row["cluster"]: row["count"] for row in found}
    named = {str(cluster): counts[cluster] for cluster in sorted(counts.keys() - {None})}
    return named | ({"noise": counts[None]} if None in counts else {})


def _assign_jets(
    spark: SparkSession, inputs: dict[str, str], settings: PipelineSettings, staging: str
) -> dict[str, Any]:
    from sparton.ml.ucluster import UClusterModel

    clusterer = UClusterModel.from_bundle(inputs["model"]).setBatchSize(settings.assign.batch_size)
    rows = _features(spark.read.parquet(storage.spark_source(inputs["rows"])), inputs["rows"], clusterer)
    assigned = clusterer.transform(rows.select("jet_id", "features", "n_particles")).select(*ASSIGNMENTS_ARROW.names)
    _write(assigned, staging)
    return {}


def _assign_rows(
    spark: SparkSession, inputs: dict[str, str], settings: PipelineSettings, staging: str
) -> dict[str, Any]:
    """Write the assignments of rows, and return what is to be said of those that were left out."""
    from pyspark.sql.pandas.types import from_arrow_schema

    from sparton.sgd import bundle
    from sparton.sgd.predict import assign_batches, schema_of
    from sparton.sgd.train import read_table_set

    description, folder = bundle.load(inputs["model"]), inputs["rows"]
    names, clusters = description.inputs.feature_names, description.clusters
    assign = partial(
        assign_batches, clusters=clusters, distances=settings.assign.distances, device=settings.cluster.device
    )
    schema = from_arrow_schema(schema_of(clusters))
    if not is_plain(folder):
        require_features(read_table_set(folder).feature_names, names, folder)
        rows = spark.read.parquet(storage.spark_source(folder)).select("id", "features")
        _write(rows.mapInArrow(assign, schema), staging)
        return {}
    table = PlainTable.open(spark, folder, settings.table, names, recorded_sums(folder))
    quarantine = storage.join(staging, QUARANTINE)
    _write(table.sound(quarantine).select("id", "features").mapInArrow(assign, schema), staging)
    table.require_unchanged()
    rejected = rejected_by_reason(quarantine)
    enforce_limit(rejected, table.total, settings.table.max_rejected, folder, option=LIMIT_OPTION)
    _require_unique(spark, staging, settings.table.id, folder)
    return {"rejected": rejected or "none"}


def _require_unique(spark: SparkSession, staging: str, column: str | None, folder: str) -> None:
    """Check that ids which the table brings name one row each."""
    from pyspark.sql import functions as F

    if column is None:
        return
    assigned = spark.read.parquet(storage.spark_source(staging))
    repeated = assigned.groupBy("id").count().where(F.col("count") > 1).count()
    if repeated:
        raise DataError(
            f"{folder}: {repeated} values of the column {column} (table.id) belong to several rows; make them unique, "
            "or leave table.id out"
        )


def _write(assigned: DataFrame, staging: str) -> None:
    assigned.write.mode("overwrite").parquet(storage.spark_url(staging))


def require_features(found: Sequence[str], expected: Sequence[str], path: str) -> None:
    """Check that a table set has the features that a bundle was made from.

    Raises
    ------
    DataError
        Naming both.
    """
    if tuple(found) != tuple(expected):
        raise DataError(
            f"{path}: features {', '.join(found)}; the bundle was made from {', '.join(expected)}. Prepare the table "
            "with these columns in this order (table.columns)"
        )


def _features(table: DataFrame, path: str, clusterer: UClusterModel) -> DataFrame:
    """Return rows with the features that the bundle reads, computed where ``table`` is a jets table."""
    from sparton.data.featurize import featurize

    if set(JETS_ARROW.names).issubset(table.columns):
        return featurize(table, clusterer.feature_spec)
    require_columns(table.columns, TRAINING_ARROW.names, path)
    _require_inputs(path, clusterer)
    return table


def _check_set(path: str, bundle: str) -> None:
    """Check a training set before Spark starts; other tables show what they are when they are read."""
    from sparton.ml.ucluster import UClusterModel

    if storage.exists(storage.join(path, storage.MANIFEST)):
        _require_inputs(path, UClusterModel.from_bundle(bundle))


def _require_inputs(path: str, clusterer: UClusterModel) -> None:
    """Check that a training set has the tensors that a bundle reads.

    Raises
    ------
    DataError
        Naming what differs.
    """
    from sparton.data.manifest import read_manifest

    manifest = read_manifest(path)
    slots = (manifest.n_particles, clusterer.feature_spec.n_particles)
    names = tuple(", ".join(found) for found in (manifest.feature_names, clusterer.feature_names))
    for what, (found, expected) in {"particles": slots, "features": names}.items():
        if found != expected:
            raise DataError(
                f"{path}: {what} {found}; the bundle was trained on {what} {expected}. Prepare the set with the "
                "bundle's settings, or assign the jets table"
            )
