"""Stage ``evaluate``: assignments and a set to metrics and a report."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import numpy as np
import yaml
from pydantic import Field

from sparton import storage
from sparton.config import Config
from sparton.data.manifest import is_plain
from sparton.errors import DataError
from sparton.pipeline.bundles import DESCRIPTION, bundle_kind
from sparton.pipeline.progress import spark_progress
from sparton.pipeline.session import spark_session
from sparton.pipeline.stage import StageCall, StageResult, run_stage
from sparton.pipeline.times import recorded_figures
from sparton.versions import installed_versions

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame, SparkSession

    from sparton.pipeline.settings import PipelineSettings
    from sparton.report.content import EvaluationMetrics, ReportFigure
    from sparton.report.metrics import LabelMetrics
    from sparton.report.profiles import GroupMoments
    from sparton.ucluster.bundle import Description

PROFILED = ("jet_mass", "n_constituents")
"""Columns of the training set that the cluster profiles describe."""


class EvaluateSettings(Config):
    """What to evaluate.

    Attributes
    ----------
    split
        Split of the set that the metrics are computed on, over all its rows.
    sample_rows
        Rows drawn for figures, silhouette, medians of a table's features and the baselines' fits; a smaller split is
        taken whole.
    seed
        Seed of the sample and of the baselines.
    elbow
        Of a table: further numbers of clusters that k-means divides the sample into, to compare their inertia and
        silhouette. Each number costs a training on the sample, with the passes of the bundle's and as many tries of its
        start (``cluster.start_tries``).
    """

    split: str = "test"
    sample_rows: int = Field(default=200_000, ge=100)
    seed: int = Field(default=1, ge=0)
    elbow: tuple[Annotated[int, Field(ge=1)], ...] = ()


@dataclass(frozen=True)
class Tally:
    """What one pass over the joined split counts.

    ``labelled`` is a table of cluster, label (None for unlabelled) and count; ``moments`` are by profiled column.
    """

    rows: int
    sizes: np.ndarray[Any, np.dtype[np.int64]]
    labelled: pd.DataFrame
    moments: dict[str, GroupMoments]


def evaluate(
    settings: PipelineSettings,
    *,
    input: str | None = None,
    table: str | None = None,
    model: str | None = None,
    output: str | None = None,
    force: bool = False,
) -> StageResult:
    """Measure the clusters on one split, or all rows of plain files; publish ``metrics.json`` and ``report.html``.

    Labels are read here only. Without them the label-free part remains. Of a table, targets that are a few whole
    numbers count as labels.

    Parameters
    ----------
    settings
        The section ``evaluate`` decides the split and the samples.
    input, table, model
        Assignments, set and bundle; None takes them from the workspace. ``table`` may be a folder of Parquet files, as
        of ``assign``, all rows of which are then taken.
    output
        Folder to publish; None takes ``<workspace>/report``.
    force
        Run even where the output is up to date.

    Raises
    ------
    UsageError
        If an input is missing, or something that this stage did not make stands at the output.
    DataError
        If the assignments do not cover the split.
    """
    inputs = {
        "assignments": settings.folder("assignments", input),
        "set": settings.folder("set", table),
        "model": settings.folder("model", model),
    }
    target = settings.folder("report", output)
    sections: dict[str, Config] = {"evaluate": settings.evaluate}
    if is_plain(inputs["set"]):
        sections |= {"table": settings.table}
    call = StageCall("evaluate", sections, inputs, target, settings, force)

    def body(staging: str) -> dict[str, Any]:
        from sparton.report.page import write_report

        spark = spark_session(settings.spark, "sparton evaluate")
        of_table = bundle_kind(inputs["model"]) == "table"
        metrics, figures = (_of_table if of_table else _of_jets)(spark, inputs, settings)
        content = _content(metrics, figures, call, settings)
        storage.write_json(storage.join(staging, "metrics.json"), metrics.to_json())
        write_report(staging, content)
        return _summary(metrics) | {"report": "report.html"}

    return run_stage(call, body)


def _of_table(
    spark: SparkSession, inputs: dict[str, str], settings: PipelineSettings
) -> tuple[EvaluationMetrics, tuple[ReportFigure, ...]]:
    from sparton.pipeline.table_evaluation import evaluate_table
    from sparton.report.table_gallery import table_gallery

    with spark_progress(spark, "evaluate: joining assignments and rows"):
        metrics, rows = evaluate_table(spark, inputs, settings.evaluate, settings.table)
    return metrics, table_gallery(rows, metrics, _curve(inputs["model"]), settings.evaluate.seed)


def _of_jets(
    spark: SparkSession, inputs: dict[str, str], pipeline: PipelineSettings
) -> tuple[EvaluationMetrics, tuple[ReportFigure, ...]]:
    from sparton.report.gallery import gallery
    from sparton.ucluster.bundle import read_description

    model, settings = read_description(inputs["model"]), pipeline.evaluate
    with spark_progress(spark, "evaluate: joining assignments and jets"):
        joined = _join(spark, inputs, settings.split).cache()
        try:
            tally = _tally(joined, len(model.centroids))
            _check_cover(inputs, settings.split, tally.rows)
            drawn = _sample(joined, settings)
        finally:
            joined.unpersist()
    metrics, jets = _measure(tally, drawn, model, settings)
    return metrics, gallery(jets, metrics, _curve(inputs["model"]), settings.seed)


def _curve(folder: str) -> Any:
    from sparton.report.curve import parse_curve

    path = storage.join(folder, "training_curve.csv")
    return parse_curve(storage.read_text(path)) if storage.exists(path) else None


def _join(spark: SparkSession, inputs: dict[str, str], split: str) -> DataFrame:
    from pyspark.sql import functions as F

    from sparton.data.schema import ASSIGNMENTS_ARROW, require_columns

    assignments = spark.read.parquet(storage.spark_source(inputs["assignments"]))
    require_columns(assignments.columns, ASSIGNMENTS_ARROW.names, inputs["assignments"])
    jets = spark.read.parquet(storage.spark_source(inputs["set"]))
    require_columns(jets.columns, ("split", "label", *PROFILED), inputs["set"])
    columns = ("jet_id", "label", *PROFILED)
    return jets.where(F.col("split") == split).select(*columns).join(assignments, "jet_id")


def _tally(joined: DataFrame, n_clusters: int) -> Tally:
    from pyspark.sql import functions as F

    from sparton.report.profiles import GroupMoments

    labelled = joined.groupBy("cluster", "label").count().toPandas()
    outside = labelled.loc[~labelled["cluster"].between(0, n_clusters - 1), "cluster"]
    if len(outside):
        raise DataError(
            f"cluster: found {outside.iloc[0]}, expected 0..{n_clusters - 1}; "
            "the assignments were made with another bundle, assign again"
        )
    aggregates = [
        expression
        for name in PROFILED
        for expression in (
            F.sum(F.col(name).cast("double")).alias(f"{name}_total"),
            F.sum(F.col(name).cast("double") ** 2).alias(f"{name}_squares"),
            F.percentile_approx(F.col(name).cast("double"), 0.5).alias(f"{name}_median"),
        )
    ]
    found = joined.groupBy("cluster").agg(F.count("*").alias("size"), *aggregates).toPandas().set_index("cluster")
    by_cluster = found.reindex(range(n_clusters))
    sizes = by_cluster["size"].fillna(0).to_numpy(np.int64)
    moments = {
        name: GroupMoments(
            size=sizes,
            total=by_cluster[f"{name}_total"].fillna(0.0).to_numpy(np.float64),
            squares=by_cluster[f"{name}_squares"].fillna(0.0).to_numpy(np.float64),
            median=by_cluster[f"{name}_median"].to_numpy(np.float64),
        )
        for name in PROFILED
    }
    return Tally(int(sizes.sum()), sizes, labelled, moments)


def _check_cover(inputs: dict[str, str], split: str, found: int) -> None:
    from sparton.data.manifest import read_manifest

    expected = read_manifest(inputs["set"]).rows(split)
    if found != expected:
        raise DataError(
            f"{inputs['assignments']}: {found} assignments for the {expected} jets of the split {split!r} of "
            f"{inputs['set']}; assign this set again"
        )


def _sample(joined: DataFrame, settings: EvaluateSettings) -> pd.DataFrame:
    """Return at most ``sample_rows`` rows, chosen by a seeded hash of the jet's identity."""
    from pyspark.sql import functions as F

    order = F.xxhash64(F.lit(settings.seed), F.col("jet_id"))
    return joined.orderBy(order, "jet_id").limit(settings.sample_rows).toPandas()


def _measure(
    tally: Tally, drawn: pd.DataFrame, model: Description, settings: EvaluateSettings
) -> tuple[EvaluationMetrics, Any]:
    from sparton.report.baselines import mass_baselines
    from sparton.report.content import EvaluationMetrics
    from sparton.report.gallery import JetSample
    from sparton.report.metrics import encode_labels
    from sparton.report.profiles import cluster_profiles, describe_clusters

    centroids = np.asarray(model.centroids)
    labels = _label_metrics(tally, len(centroids))
    codes = encode_labels(drawn["label"].to_numpy(), labels.classes) if labels else None
    cluster, mass = drawn["cluster"].to_numpy(np.int64), drawn["jet_mass"].to_numpy(np.float64)
    embedding = np.array(drawn["embedding"].tolist(), np.float64)
    distance = np.array(drawn["distance"].tolist(), np.float64)
    n_classes = len(labels.classes) if labels else 0
    metrics = EvaluationMetrics(
        split=settings.split,
        rows=tally.rows,
        n_clusters=len(centroids),
        clusters=describe_clusters(tally.sizes, distance, embedding, cluster, settings.seed),
        profiles=cluster_profiles(tally.moments, labels),
        baselines=mass_baselines(mass, len(centroids), settings.seed, codes, n_classes),
        labels=labels,
        even_sizes=model.training.get("balance", 0.0) > 0,
    )
    jets = JetSample(mass, drawn["n_constituents"].to_numpy(np.int64), cluster, embedding, centroids, codes)
    return metrics, jets


def _label_metrics(tally: Tally, n_clusters: int) -> LabelMetrics | None:
    from sparton.report.metrics import contingency, describe_labels, encode_labels, order_classes

    labelled = tally.labelled.dropna(subset=["label"])
    if labelled.empty:
        return None
    classes = order_classes(labelled["label"])
    codes = encode_labels(labelled["label"].to_numpy(), classes)
    table = contingency(labelled["cluster"].to_numpy(), codes, n_clusters, len(classes), labelled["count"].to_numpy())
    return describe_labels(table, classes)


def _content(metrics: EvaluationMetrics, figures: Any, call: StageCall, settings: PipelineSettings) -> Any:
    from sparton.report.content import Provenance, ReportContent

    provenance = Provenance(
        created=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        seed=settings.evaluate.seed,
        versions=installed_versions(),
        inputs=call.input_fingerprints(),
        settings=_settings_of(call, settings),
        training=_training_times(call.inputs["model"]),
    )
    title = "Jet clusters" if metrics.unit == "jets" else "Clusters of a table"
    return ReportContent(title, metrics, figures, provenance)


def _settings_of(call: StageCall, settings: PipelineSettings) -> dict[str, str]:
    """Return as YAML what bundle and set were made with, which this configuration need not say, and what is of it."""
    model = storage.read_json(storage.join(call.inputs["model"], DESCRIPTION))
    data = call.inputs["set"]
    plain = is_plain(data)
    described = {
        "Settings of the model": {name: model[name] for name in ("model", "training") if name in model},
        "Settings of the table": settings.table.model_dump(mode="json") if plain else None,
        "Settings of the set": None if plain else storage.read_json(storage.join(data, storage.MANIFEST))["settings"],
        "Settings of this evaluation": settings.evaluate.model_dump(mode="json"),
    }
    return {title: yaml.safe_dump(one, sort_keys=False, allow_unicode=True) for title, one in described.items() if one}


def _training_times(folder: str) -> dict[str, str]:
    path = storage.join(folder, "metrics.json")
    return recorded_figures(storage.read_json(path)) if storage.exists(path) else {}


def _summary(metrics: EvaluationMetrics) -> dict[str, Any]:
    sizes = list(metrics.clusters.sizes)
    summary: dict[str, Any] = {f"{metrics.split} {metrics.unit}": metrics.rows, "cluster sizes": sizes}
    if metrics.noise is not None:
        summary["noise"] = metrics.noise
    if metrics.labels:
        summary["clustering accuracy"] = metrics.labels.accuracy
        for item in metrics.baselines:
            note = " reads labels" if item.reads_labels else ""
            summary[f"  {item.name}{note}"] = item.accuracy
        summary["ARI"] = metrics.labels.adjusted_rand_index
        summary["NMI"] = metrics.labels.normalized_mutual_information
    elif metrics.clusters.silhouette is not None:
        summary["silhouette"] = metrics.clusters.silhouette
    return summary
