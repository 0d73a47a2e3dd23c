"""Clusters of a table set by one or many workers, or of arrays in memory."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparton.config import fingerprint
from sparton.data.in_memory import MemoryTable
from sparton.data.manifest import TABLE_KIND, TableManifest, bad_shards, read_set
from sparton.data.settings import TRAIN
from sparton.data.statistics import CONSTANT_TOLERANCE, CONSTANT_TOLERANCE_64, Moments, merge_all
from sparton.distributed import agreement
from sparton.distributed.resumption import Checkpoints
from sparton.distributed.times import WorkerTimes
from sparton.distributed.world import Connection
from sparton.errors import ConfigError, DataError, TrainingError
from sparton.sgd import bundle, rounding
from sparton.sgd.backend import chosen
from sparton.sgd.clusters import Clusters
from sparton.sgd.compute import each_part, n_threads, part_limits
from sparton.sgd.coordinates import Coordinates
from sparton.sgd.curve import CurveRow, mean_speed, to_csv
from sparton.sgd.feed import ArrayFeed, Feed, SetFeed
from sparton.sgd.kmeans import KMeans
from sparton.sgd.method import Method, Outcome
from sparton.sgd.possibilistic import PossibilisticCMeans
from sparton.sgd.settings import ClusterSettings, DescentSettings, KMeansSettings
from sparton.sgd.stopping import Rule
from sparton.sgd.trainer import Schedule, Trained, Trainer
from sparton.versions import installed_versions

Array = NDArray[Any]

logger = logging.getLogger(__name__)

MOMENT_ROWS = 4096
"""Rows whose moments are computed at once, in the cache."""


@dataclass(frozen=True)
class _Places:
    """Where rank 0 writes, and what checkpoints must be of to be gone on from."""

    checkpoints: str
    bundle: str
    identity: str


@dataclass(frozen=True)
class ClusterSummary:
    """Steps and epochs in all, mean speed (rows/s over all ranks), figures and sizes over all rows, and times."""

    steps: int
    epochs: int
    rows_per_second: float
    figures: dict[str, float]
    sizes: tuple[float, ...]
    times: WorkerTimes


@dataclass(frozen=True)
class Fit:
    """Clusters found in arrays.

    Attributes
    ----------
    clusters
        What assigns rows.
    objective
        Over all rows: of k-means the inertia, which is the weighted sum of the squared distances from the nearest
        centroid, among the points; of possibilistic c-means the cost.
    sizes
        Sums of the weights in each cluster float64 [k], of possibilistic c-means those of weighted typicalities.
    figures
        Further numbers by name.
    curve
        One row an epoch.
    state
        The last state of the training, with all centroids that it began with.
    """

    clusters: Clusters
    objective: float
    sizes: NDArray[np.float64]
    figures: dict[str, float]
    curve: tuple[CurveRow, ...]
    state: Any


def train(
    connection: Connection, set_folder: str, checkpoint_folder: str, bundle_folder: str, settings: ClusterSettings
) -> ClusterSummary:
    """Cluster the train split of a table set and write the bundle.

    Parameters
    ----------
    connection
        This rank's place in the world; every rank calls with the same arguments.
    set_folder
        Table set, readable by all ranks; its targets are not read.
    checkpoint_folder, bundle_folder
        Where rank 0 writes.
    settings
        Number of clusters, by which method and how they are found.

    Raises
    ------
    TrainingError
        If there are fewer distinct rows than clusters, a cluster of possibilistic c-means has no width, ranks disagree,
        or the checkpoint is of other settings or data.
    DataError
        If the set is of another kind, damaged, or its train split is empty.
    """
    manifest = read_table_set(set_folder)
    check_rows(manifest, set_folder)
    given = {
        "the section cluster": fingerprint(settings.deciding().model_dump(mode="json")),
        f"the table set {set_folder}": fingerprint(manifest.model_dump(mode="json")),
    }
    agreement.check_given(connection, given)
    _verify_shards(connection, set_folder, manifest)
    inputs = bundle.TableInputs.of(manifest, settings.scaling)
    feed = SetFeed(connection.world, set_folder, manifest, TRAIN, settings.batch_size, settings.seed, settings.lanes)
    identity = fingerprint([settings.lasting().model_dump(mode="json"), manifest.model_dump(mode="json")])
    variance = mean_variance(*manifest.moments.std(), inputs.coordinates)
    return _train(connection, feed, inputs, variance, settings, _Places(checkpoint_folder, bundle_folder, identity))


def train_rows(
    connection: Connection,
    table: MemoryTable,
    identity: str,
    checkpoint_folder: str,
    bundle_folder: str,
    settings: ClusterSettings,
) -> ClusterSummary:
    """Cluster a table in memory and write the bundle, by one process alone.

    Parameters
    ----------
    connection
        The place of this process, which is alone.
    table
        All rows.
    identity
        What tells one table from another: its checkpoints are not taken for those of another one.
    checkpoint_folder, bundle_folder, settings
        As of :func:`train`.

    Raises
    ------
    TrainingError
        As of :func:`train`.
    DataError
        If no feature varies, or all weights are 0.
    """
    weight = np.ones(len(table.rows), np.float32) if table.weight is None else table.weight
    feed = ArrayFeed.of(connection.world, table.rows, settings.batch_size, settings.seed, weight, settings.lanes)
    moments = _moments(feed.rows, None if table.weight is None else feed.weight)
    std, constant = moments.std()
    _require_varying(constant, table.names, "the table: no feature varies")
    mean = tuple(moments.mean.tolist())
    inputs = bundle.TableInputs(
        feature_names=table.names, feature_mean=mean, feature_std=tuple(std.tolist()), scaling=settings.scaling
    )
    identity = fingerprint([settings.lasting().model_dump(mode="json"), identity])
    variance = mean_variance(std, constant, inputs.coordinates)
    return _train(connection, feed, inputs, variance, settings, _Places(checkpoint_folder, bundle_folder, identity))


def fit(
    rows: ArrayLike, settings: ClusterSettings, weight: ArrayLike | None = None, connection: Connection | None = None
) -> Fit:
    """Cluster rows in memory.

    Parameters
    ----------
    rows
        Finite numbers [n, d]: an array, lists or a DataFrame of pandas. What is neither float32 nor float64 is copied
        as one of these (:func:`sparton.sgd.arrays.as_rows`). Every rank gives all of them.
    settings
        Number of clusters and how they are found.
    weight
        Weights [n] from 0, which count in mean and deviation too; 1 by default.
    connection
        This rank's place in the world; None is alone.

    Raises
    ------
    DataError
        If there are no rows, they are no numbers, not finite or too large or small for float32, or weights are negative
        or all 0.
    ConfigError
        If the settings are of another kind.
    TrainingError
        If there are fewer distinct rows than clusters, a cluster of possibilistic c-means has no width, or ranks
        disagree.
    """
    if not isinstance(settings, DescentSettings):
        expected = "KMeansSettings or PossibilisticSettings"
        raise ConfigError(f"settings: found {type(settings).__name__}, expected {expected} (sparton.sgd.settings)")
    connection = connection or Connection.local()
    feed = ArrayFeed.of(connection.world, rows, settings.batch_size, settings.seed, weight, settings.lanes)
    with np.errstate(over="ignore", invalid="ignore"):  # what is out of range is named
        moments = _moments(feed.rows, None if weight is None else feed.weight)
        std, constant = moments.std(CONSTANT_TOLERANCE_64 if feed.rows.dtype == np.float64 else CONSTANT_TOLERANCE)
        scale = std.tolist() if settings.scaling == "standard" else None
        coordinates = Coordinates.of(moments.mean.tolist(), scale)
    _check_scale(moments.mean, std, coordinates)
    variance = mean_variance(std, constant, coordinates)
    run = _run(connection, feed, coordinates, variance, settings, None)
    found = run.outcome
    return Fit(found.clusters, found.objective, found.sizes, found.figures, run.trained.rows, run.trained.state)


def mean_variance(std: NDArray[np.float64], constant: NDArray[np.bool_], coordinates: Coordinates) -> float:
    """Return the mean variance of the points' coordinates, from what :meth:`Moments.std` tells of the features."""
    return float(np.square(np.where(constant, 0.0, std) * coordinates.factor).mean())


def _check_scale(mean: NDArray[np.float64], std: NDArray[np.float64], coordinates: Coordinates) -> None:
    """Check that origin and factor are numbers: float64 has larger and smaller ones than float32, which they are."""
    sound = np.isfinite(std) & np.isfinite(coordinates.origin) & np.isfinite(coordinates.factor)
    bad = np.flatnonzero(~sound | (coordinates.factor == 0))
    if bad.size:
        raise DataError(
            f"rows: column {bad[0]} has mean {mean[bad[0]]:.3g} and deviation {std[bad[0]]:.3g}, expected sizes from "
            "1e-38 to 1e38; take another unit for it"
        )


def _moments(rows: Array, weight: Array | None) -> Moments:
    """Return the moments of rows, the same bits on any number of threads."""
    limits = part_limits(len(rows), -(-len(rows) // MOMENT_ROWS))
    parts = [Moments(0, np.zeros(0), np.zeros(0))] * (len(limits) - 1)

    def run(low: int, high: int, part: int) -> None:
        parts[part] = Moments.of(rows[low:high], None if weight is None else weight[low:high])

    each_part(limits, run, n_threads())
    return merge_all(parts, rows.shape[1])


def read_table_set(folder: str) -> TableManifest:
    """Read the manifest of a table set.

    Raises
    ------
    DataError
        If there is none, or it is damaged, of another kind or of another version.
    """
    manifest = read_set(folder)
    if not isinstance(manifest, TableManifest):
        raise DataError(
            f"{folder}: kind is {manifest.kind!r}, expected {TABLE_KIND!r}; make one by 'sparton prepare --kind table'"
        )
    return manifest


def check_rows(manifest: TableManifest, folder: str) -> None:
    """Check that there is something to cluster.

    Raises
    ------
    DataError
        If the train split is empty, or no feature varies over it.
    """
    if not manifest.rows(TRAIN):
        raise DataError(f"{folder}: the train split is empty; prepare a larger table")
    _require_varying(
        manifest.moments.std()[1], manifest.feature_names, f"{folder}: no feature varies over the train split"
    )


def _require_varying(constant: NDArray[np.bool_], names: Sequence[str], problem: str) -> None:
    if constant.all():
        raise DataError(f"{problem}, as float32 ({', '.join(names)}); there is nothing to cluster")


def _verify_shards(connection: Connection, folder: str, manifest: TableManifest) -> None:
    """Compare the checksums of the rank's share of the shards: a damaged one would be clustered without a word."""
    world = connection.world
    bad = bad_shards(folder, list(manifest.shards(TRAIN))[world.rank :: world.size], checksums=True)
    if bad:
        raise DataError(f"{bad[0].detail}; restore the file or prepare the set again")


@dataclass(frozen=True)
class _Run:
    method: Method[Any, Any]
    trained: Trained[Any, Any]
    outcome: Outcome


def _train(
    connection: Connection,
    feed: Feed,
    inputs: bundle.TableInputs,
    variance: float,
    settings: ClusterSettings,
    places: _Places,
) -> ClusterSummary:
    """Train on the rows of a feed, which come as float32, and let rank 0 write the bundle."""
    if connection.world.is_root:
        rounding.warn_of_stored(inputs)
    kept, seconds = settings.checkpoints_kept, settings.checkpoint_seconds
    checkpoints = Checkpoints(connection, places.checkpoints, places.identity, kept, seconds)
    run = _run(connection, feed, inputs.coordinates, variance, settings, checkpoints)
    if connection.world.is_root:
        _write_bundle(places.bundle, inputs, settings, run, {"workers": connection.world.size, "rows": feed.total})
    connection.collectives.barrier()
    return _summary(run)


def _run(
    connection: Connection,
    feed: Feed,
    coordinates: Coordinates,
    variance: float,
    settings: ClusterSettings,
    checkpoints: Checkpoints | None,
) -> _Run:
    size = connection.world.size
    global_batch = size * settings.batch_size
    if settings.n_clusters > feed.total:
        raise TrainingError(
            f"found {feed.total} rows, expected at least n_clusters={settings.n_clusters}; lower cluster.n_clusters"
        )
    backend = chosen(settings.device, settings.batch_size * settings.n_clusters * coordinates.dimensions)
    method: Method[Any, Any]
    if isinstance(settings, KMeansSettings):
        method = KMeans(settings, coordinates, settings.epochs * feed.steps, global_batch, backend)
    else:
        method = PossibilisticCMeans(settings, coordinates, feed.steps, backend)
    rule = Rule(min(1.0, 2 * global_batch / (feed.total + 1)), settings.patience, settings.tolerance * variance)
    schedule = Schedule(settings.epochs, rule, settings.sample_rows)
    trainer: Trainer[Any, Any] = Trainer(connection, feed, method, schedule, checkpoints)
    trained = trainer.run()
    outcome = method.outcome(trained.state, trained.totals)
    if connection.world.is_root:
        rounding.warn_of_near(outcome.clusters.centroids, settings.precision)
    return _Run(method, trained, outcome)


def _write_bundle(
    folder: str, inputs: bundle.TableInputs, settings: ClusterSettings, run: _Run, run_on: dict[str, Any]
) -> None:
    found, words, curve = run.outcome, run.method.words, run.trained.rows
    training = settings.model_dump(mode="json") | run_on
    description = bundle.describe(inputs, found.clusters, found.counts, training, installed_versions())
    times = run.trained.times
    metrics = curve[-1].named(words) | found.figures | {"sizes": found.sizes.tolist(), "workers": times.workers}
    # Times are those of the whole training, not of its last epoch.
    metrics |= {"rows_per_second": mean_speed(curve), **times.figures()}
    del metrics["seconds"]
    bundle.save(folder, description, metrics, to_csv(curve, words))


def _summary(run: _Run) -> ClusterSummary:
    rows = run.trained.rows
    return ClusterSummary(
        steps=rows[-1].step,
        epochs=len(rows),
        rows_per_second=mean_speed(rows),
        figures=run.outcome.figures,
        sizes=tuple(run.outcome.sizes.tolist()),
        times=run.trained.times,
    )
