"""What ``evaluate`` measures of the clusters of a table: sizes, profiles of features, silhouette, other numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from sparton import storage
from sparton.data.featurize import decode_features
from sparton.data.manifest import is_plain
from sparton.data.plain import PlainTable
from sparton.data.schema import TABLE_ARROW, TABLE_ASSIGNMENTS_ARROW, require_columns
from sparton.errors import DataError, TrainingError
from sparton.pipeline.assignment import require_features
from sparton.pipeline.record import recorded_sums

logger = logging.getLogger(__name__)

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql import DataFrame, SparkSession

    from sparton.data.settings import TableSettings
    from sparton.pipeline.evaluation import EvaluateSettings
    from sparton.report.content import ElbowPoint, EvaluationMetrics
    from sparton.report.metrics import LabelMetrics
    from sparton.report.profiles import GroupMoments
    from sparton.report.table_gallery import TableSample
    from sparton.sgd.bundle import Description

MOST_CLASSES = 100
"""Distinct targets up to which a table's targets, all of them whole numbers, are taken for labels."""

SHOWN_FEATURES = 6
"""Features whose statistics the page lists; the others are in ``metrics.json``."""

ROWS_TAKEN = ("scaling", "epochs", "batch_size", "precision", "seed")
"""Settings of another method that k-means takes over for the comparison of numbers of clusters."""

METHODS = {"kmeans": "K-means", "pcm": "Possibilistic c-means"}

ROW_COLUMNS = ("id", "features", "target")

ALL_ROWS = "all"
"""What stands for the split where there are none."""

PARTIAL_ARROW = pa.schema([pa.field("sums", pa.binary())])


@dataclass(frozen=True)
class EvaluatedRows:
    """Rows that the clusters are measured on.

    Attributes
    ----------
    frame, total
        The rows, with :data:`ROW_COLUMNS`, and how many there are.
    split, described, way_out
        Their split, and what messages call them and say where assignments do not fit them.
    """

    frame: DataFrame
    total: int
    split: str
    described: str
    way_out: str


@dataclass(frozen=True)
class TableTally:
    """Sums over all rows of the split: rows [K], sums of features and of their squares [K, d], from a common origin.

    ``labelled`` is a table of cluster, target (None where there is none) and count.
    """

    sizes: NDArray[np.int64]
    totals: NDArray[np.float64]
    squares: NDArray[np.float64]
    origin: NDArray[np.float64]
    labelled: pd.DataFrame

    @property
    def rows(self) -> int:
        """Rows of the split."""
        return int(self.sizes.sum())

    @property
    def deviations(self) -> NDArray[np.float64]:
        """Means of clusters from the mean of all rows, in units of its deviation, [K, d]; NaN of empty clusters."""
        mean = self.totals.sum(axis=0) / self.rows
        spread = np.sqrt(np.maximum(self.squares.sum(axis=0) / self.rows - mean**2, 0))
        with np.errstate(invalid="ignore", divide="ignore"):
            means = self.totals / self.sizes[:, None]
            return np.where(self.sizes[:, None] > 0, (means - mean) / np.where(spread > 0, spread, 1.0), np.nan)


def evaluate_table(
    spark: SparkSession, inputs: dict[str, str], settings: EvaluateSettings, table: TableSettings
) -> tuple[EvaluationMetrics, TableSample]:
    """Measure the clusters of a table on one split of a set, or on all rows of files as they are.

    It also draws the rows that the figures show.

    Parameters
    ----------
    spark
        The session that reads.
    inputs
        Folders of ``assignments``, ``set`` and ``model``.
    settings
        Split, samples and further numbers of clusters.
    table
        Names of columns in files as they are.

    Raises
    ------
    DataError
        If the assignments do not cover the split, or were made with another bundle.
    """
    from sparton.sgd import bundle

    description = bundle.load(inputs["model"])
    rows = _rows(spark, inputs["set"], settings.split, description, table)
    joined = _join(spark, inputs["assignments"], rows.frame).cache()
    try:
        noise = _noise(joined, description)
        kept = joined if noise is None else joined.where("not noise")
        tally = _tally(kept, description)
        found = tally.rows + (noise or 0)
        if found != rows.total:
            raise DataError(
                f"{inputs['assignments']}: {found} assignments for the {rows.total} rows of {rows.described}; "
                f"{rows.way_out}"
            )
        if noise == rows.total:
            raise DataError(
                f"{inputs['assignments']}: all {noise} rows of {rows.described} are noise, expected some "
                "in clusters; raise cluster.gamma_factor or lower cluster.noise_below, cluster and assign again"
            )
        drawn = _sample(kept, settings)
    finally:
        joined.unpersist()
    return _measure(tally, drawn, description, settings.model_copy(update={"split": rows.split}), noise)


def _rows(
    spark: SparkSession, folder: str, split: str, description: Description, settings: TableSettings
) -> EvaluatedRows:
    """Return the rows of one split of a set, or all rows of files as they are."""
    from pyspark.sql import functions as F

    from sparton.sgd.train import read_table_set

    if is_plain(folder):
        table = PlainTable.open(spark, folder, settings, description.inputs.feature_names, recorded_sums(folder))
        sound = table.sound().select(*ROW_COLUMNS)
        way_out = "assign this table"
        return EvaluatedRows(sound, sound.select("id").count(), ALL_ROWS, folder, way_out)
    manifest = read_table_set(folder)
    require_features(manifest.feature_names, description.inputs.feature_names, folder)
    total = manifest.rows(split)  # a split that is not there is named
    rows = spark.read.parquet(storage.spark_source(folder))
    require_columns(rows.columns, ("split", *TABLE_ARROW.names), folder)
    chosen = rows.where(F.col("split") == split).select(*ROW_COLUMNS)
    return EvaluatedRows(chosen, total, split, f"the split {split!r} of {folder}", "assign this set again")


def _join(spark: SparkSession, folder: str, rows: DataFrame) -> DataFrame:
    assignments = spark.read.parquet(storage.spark_source(folder))
    require_columns(assignments.columns, TABLE_ASSIGNMENTS_ARROW.names, folder)
    found = [name for name in ("cluster", "noise") if name in assignments.columns]
    return rows.join(assignments.select("id", *found), "id")


def _noise(joined: DataFrame, description: Description) -> int | None:
    """Return the rows that are noise; None where the bundle's method knows no noise."""
    if (description.kind == "pcm") != ("noise" in joined.columns):
        raise DataError("noise: the assignments were made with a bundle of another method, assign again")
    return joined.where("noise").count() if description.kind == "pcm" else None


def _tally(joined: DataFrame, description: Description) -> TableTally:
    from pyspark.sql.pandas.types import from_arrow_schema

    n_clusters, origin = len(description.centroids), description.inputs.coordinates.origin
    labelled = joined.groupBy("cluster", "target").count().limit(n_clusters * MOST_CLASSES + 1).toPandas()
    outside = labelled.loc[~labelled["cluster"].between(0, n_clusters - 1), "cluster"]
    if len(outside):
        raise DataError(
            f"cluster: found {outside.iloc[0]}, expected 0..{n_clusters - 1}; "
            "the assignments were made with another bundle, assign again"
        )
    add = partial(_partial_sums, n_clusters=n_clusters, origin=origin)
    parts = joined.select("cluster", "features").mapInArrow(add, from_arrow_schema(PARTIAL_ARROW)).collect()
    shape = (n_clusters, 1 + 2 * len(origin))
    total = np.sum([np.frombuffer(row["sums"], "<f8").reshape(shape) for row in parts] or [np.zeros(shape)], axis=0)
    sizes, totals, squares = np.split(total, [1, 1 + len(origin)], axis=1)
    return TableTally(sizes[:, 0].astype(np.int64), totals, squares, origin, labelled)


def _partial_sums(
    batches: Iterator[pa.RecordBatch], n_clusters: int, origin: NDArray[np.float64]
) -> Iterator[pa.RecordBatch]:
    """Yield rows, sums and sums of squares of each cluster in a partition, [K, 1 + 2 d] as bytes."""
    from scipy import sparse

    total = np.zeros((n_clusters, 1 + 2 * len(origin)))
    for batch in batches:
        rows = decode_features(batch.column("features"), len(origin)) - origin
        n, cluster = len(rows), batch.column("cluster").to_numpy()
        chosen = sparse.csc_matrix((np.ones(n), cluster, np.arange(n + 1)), shape=(n_clusters, n))
        total += chosen @ np.hstack([np.ones((n, 1)), rows, np.square(rows)])
    yield pa.RecordBatch.from_arrays([pa.array([total.astype("<f8").tobytes()], pa.binary())], schema=PARTIAL_ARROW)


def _sample(joined: DataFrame, settings: EvaluateSettings) -> pd.DataFrame:
    """Return at most ``sample_rows`` rows, chosen by a seeded hash of the row's identity."""
    from pyspark.sql import functions as F

    order = F.xxhash64(F.lit(settings.seed), F.col("id"))
    return joined.orderBy(order, "id").limit(settings.sample_rows).toPandas()


def _measure(
    tally: TableTally, drawn: pd.DataFrame, description: Description, settings: EvaluateSettings, noise: int | None
) -> tuple[EvaluationMetrics, TableSample]:
    from sparton.report.content import EvaluationMetrics
    from sparton.report.profiles import cluster_profiles, describe_clusters
    from sparton.report.table_gallery import TableSample, telling_features

    names, clusters = description.inputs.feature_names, description.clusters
    rows = np.frombuffer(b"".join(drawn["features"]), "<f4").reshape(-1, len(names))
    cluster, points = drawn["cluster"].to_numpy(np.int64), clusters.coordinates.points(rows)
    n_clusters = len(clusters.centroids)
    distance = clusters.two_nearest(rows) if n_clusters > 1 else np.zeros((len(rows), 1))
    labels = _label_metrics(tally.labelled, n_clusters)
    telling = telling_features(tally.deviations, tally.sizes)[:SHOWN_FEATURES]
    metrics = EvaluationMetrics(
        split=settings.split,
        rows=tally.rows + (noise or 0),
        n_clusters=n_clusters,
        clusters=describe_clusters(tally.sizes, distance, points, cluster, settings.seed),
        profiles=cluster_profiles(_moments(tally, names, rows, cluster), labels),
        labels=labels,
        method=METHODS[description.kind],
        unit="rows",
        shown=tuple(names[index] for index in telling),
        elbow=_elbow(rows, description, settings),
        noise=noise,
    )
    return metrics, TableSample(points, cluster, clusters.centroids, tally.deviations, names)


def _moments(
    tally: TableTally, names: tuple[str, ...], rows: NDArray[np.float32], cluster: NDArray[np.int64]
) -> dict[str, GroupMoments]:
    """Return each feature's moments by cluster: sums over all rows, medians over the sample."""
    from sparton.report.profiles import GroupMoments, group_moments

    sizes = tally.sizes
    found = {}
    for index, name in enumerate(names):
        median = group_moments(cluster, rows[:, index], len(sizes)).median
        found[name] = GroupMoments(
            sizes, tally.totals[:, index], tally.squares[:, index], median, float(tally.origin[index])
        )
    return found


def _label_metrics(labelled: pd.DataFrame, n_clusters: int) -> LabelMetrics | None:
    """Return the agreement with the table's targets where they are classes: a few whole numbers."""
    from sparton.report.metrics import contingency, describe_labels, encode_labels

    known = labelled.dropna(subset=["target"])
    values = np.unique(known["target"].to_numpy(np.float64))
    if not 2 <= len(values) <= MOST_CLASSES or not np.array_equal(values, np.round(values)):
        return None
    classes = tuple(f"{value:.0f}" for value in values)
    codes = encode_labels([f"{value:.0f}" for value in known["target"]], classes)
    table = contingency(known["cluster"].to_numpy(), codes, n_clusters, len(classes), known["count"].to_numpy())
    return describe_labels(table, classes)


def _elbow(rows: NDArray[np.float32], description: Description, settings: EvaluateSettings) -> tuple[ElbowPoint, ...]:
    """Divide the sample by k-means into each of the numbers of clusters that were asked for."""
    from sparton.config import validate
    from sparton.report.content import ElbowPoint
    from sparton.report.profiles import sampled_silhouette
    from sparton.sgd.settings import KMeansSettings
    from sparton.sgd.train import fit

    names = KMeansSettings.model_fields if description.kind == "kmeans" else ROWS_TAKEN
    # One process needs no lanes, and another machine may compute.
    chosen = {name: value for name, value in description.training.items() if name in names and name != "device"}
    training = validate(KMeansSettings, chosen, "model.json").without("lanes")
    points = []
    distinct = len(np.unique(rows, axis=0))
    for k in settings.elbow:
        if k > distinct:
            logger.warning("evaluate.elbow: %d clusters are left out, the sample has %d distinct rows", k, distinct)
            continue
        logger.info("evaluate.elbow: k-means with %d clusters on the sample", k)
        own = training.model_copy(update={"n_clusters": k})
        # What was enough for the start of the bundle's clusters may be too little for more of them.
        enough = max(own.sample_rows, own.rows_per_cluster * k)
        try:
            found = fit(rows, own.model_copy(update={"start_rows": enough}))
        except TrainingError as error:
            logger.warning("evaluate.elbow: %d clusters are left out: %s", k, error)
            continue
        label = found.clusters.assign(rows)[0]
        silhouette, _ = sampled_silhouette(found.clusters.coordinates.points(rows), label, settings.seed)
        points.append(ElbowPoint(k, found.objective / len(rows), silhouette))
    return tuple(points)
