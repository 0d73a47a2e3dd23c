"""From a jets table to a training set: selected, split, shuffled and cut into exact shards with a manifest.

Two passes read the input. The first counts sound and selected rows per bucket of the shuffle's hash. The second sends
each row through one exchange to the task that writes its shards; that task featurises, writes and sums the statistics.
The content of every shard is a function of the rows and the settings alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import pyarrow as pa
from pyspark.sql.pandas.types import from_arrow_schema

from sparton import storage
from sparton.data.counting import Census, take_census
from sparton.data.exchange import exchange, unpack
from sparton.data.executors import executor_errors
from sparton.data.featurize import FeatureSpec, decode_features, training_batch
from sparton.data.layout import Layout, build_layout
from sparton.data.manifest import Manifest, Shard
from sparton.data.schema import require_columns
from sparton.data.screening import REQUIRED
from sparton.data.settings import TRAIN, PrepareSettings
from sparton.data.shards import CLOSING, RESULT_ARROW, WriteJob, check_footers, shard_path, write_groups
from sparton.data.statistics import Moments, merge_all
from sparton.errors import DataError, UsageError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, Row, SparkSession

__all__ = ["PrepareSettings", "write_training_set"]

MIN_GROUP_BYTES = 8 << 20
MAX_GROUP_BYTES = 128 << 20
"""Tensors that one task writes: enough to be worth a task, little to lose when it fails."""

TASKS_PER_SLOT = 2

logger = logging.getLogger(__name__)


class Statistics(NamedTuple):
    """Mean and deviation of the features, and remarks on them."""

    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]


def write_training_set(
    spark: SparkSession,
    jets: DataFrame,
    settings: PrepareSettings,
    folder: str,
    inputs: Mapping[str, str] | None = None,
) -> Manifest:
    """Write the training set of a jets table: ``split=<name>/shard-00000.parquet`` and ``_manifest.json``.

    Parameters
    ----------
    spark
        The session that ``jets`` belongs to.
    jets
        Jets table; it is read twice and must give the same rows both times.
    settings
        What to keep and how to store it.
    folder
        Empty or missing folder on storage that all machines share.
    inputs
        Fingerprints of the inputs by role, for the manifest.

    Returns
    -------
    Manifest
        As written.

    Raises
    ------
    UsageError
        If the folder is not empty.
    DataError
        If a column is missing, nothing passes the selection, ids repeat, or what was written cannot be read back.
    """
    require_columns(jets.columns, REQUIRED, "jets table")
    folder = storage.absolute(folder)
    _require_empty(folder)
    with executor_errors("counting the jets table"):
        census = take_census(jets, settings)
    _require_rows(census, settings)
    layout = _layout(spark, census, settings)
    for split in settings.splits:
        storage.make_dirs(storage.join(folder, f"split={split}"))
    with executor_errors(f"writing shards to {folder}"):
        results = _write(jets, settings, layout, folder)
    _check_groups(results, layout)
    splits = _splits(results, layout, settings)
    _remove_leftovers(folder, splits)
    check_footers(folder, [shard for shards in splits.values() for shard in shards])
    manifest = _manifest(census, splits, _statistics(results, layout, settings), settings, inputs or {})
    manifest.write(folder)
    for split in splits:
        logger.info("%s: %d jets in %d shards", split, manifest.rows(split), len(splits[split]))
    return manifest


def _layout(spark: SparkSession, census: Census, settings: PrepareSettings) -> Layout:
    shard_bytes = settings.rows_per_shard * settings.features.row_bytes
    shards = max(1, census.counts.kept // settings.rows_per_shard)
    slots = spark.sparkContext.defaultParallelism * TASKS_PER_SLOT
    smallest, largest = -(-MIN_GROUP_BYTES // shard_bytes), max(1, MAX_GROUP_BYTES // shard_bytes)
    per_group = min(max(shards // slots, smallest), largest)
    return build_layout(census.codes, census.rows, tuple(settings.splits), settings.rows_per_shard, per_group)


def _write(jets: DataFrame, settings: PrepareSettings, layout: Layout, folder: str) -> list[Row]:
    job = WriteJob(
        folder=folder,
        groups=layout.groups,
        rows_per_shard=settings.rows_per_shard,
        compression=settings.compression,
        encode=partial(_encode, spec=settings.features),
        measured=TRAIN,
        summarise=partial(_moments, spec=settings.features),
    )
    rows = exchange(jets, settings, layout)
    written: list[Row] = rows.mapInArrow(partial(write_groups, job=job), from_arrow_schema(RESULT_ARROW)).collect()
    return sorted(written, key=lambda row: (row["group"], row["shard"]))


def _encode(batch: pa.RecordBatch, spec: FeatureSpec) -> pa.RecordBatch:
    return training_batch(unpack(batch), spec)


def _moments(table: pa.Table, spec: FeatureSpec) -> bytes:
    """Return the moments of the features over the real particles of a shard."""
    features = decode_features(table.column("features").combine_chunks(), spec.n_particles, len(spec.feature_names))
    n_real = table.column("n_particles").to_numpy()
    real = np.arange(spec.n_particles) < n_real[:, None]
    return Moments.of(features[real]).to_bytes()


def _require_empty(folder: str) -> None:
    if storage.exists(folder) and storage.list_files(folder):
        raise UsageError(f"{folder}: not empty; a training set is written into an empty or new folder")


def _require_rows(census: Census, settings: PrepareSettings) -> None:
    counts = census.counts
    if counts.kept:
        return
    causes = {**counts.rejected, **counts.excluded}
    found = ", ".join(f"{name} {number}" for name, number in causes.items()) or "the table is empty"
    labels = "any" if settings.labels is None else ", ".join(settings.labels)
    raise DataError(
        f"none of {counts.read} jets is left ({found}); kept are labels {labels} and masses in "
        f"{settings.mass_window} GeV: widen labels or mass_window, or check the input"
    )


def _check_groups(results: list[Row], layout: Layout) -> None:
    """Check that every group got exactly the rows that the first pass counted, and that no id repeats."""
    arrived = {row["group"]: row for row in results if row["shard"] == CLOSING}
    repeated = [row for row in arrived.values() if row["duplicates"]]
    if repeated:
        raise DataError(
            f"column jet_id: {sum(row['duplicates'] for row in repeated)} repeated values, "
            f"for instance {repeated[0]['duplicate']}; expected each jet once: remove the doubles from the jets table"
        )
    for group in layout.groups:
        found = arrived[group.number]["rows"] if group.number in arrived else 0
        if found != group.expected:
            raise DataError(
                f"the jets table changed while it was read: {found} rows for shards {group.first_shard} to "
                f"{group.first_shard + group.shards - 1} of {group.split}, counted before were {group.expected}; "
                "use a stored table as input, not a query whose rows differ from run to run"
            )


def _splits(results: list[Row], layout: Layout, settings: PrepareSettings) -> dict[str, tuple[Shard, ...]]:
    splits: dict[str, list[Shard]] = {split: [] for split in settings.splits}
    for row in results:
        if row["shard"] != CLOSING:
            split = layout.groups[row["group"]].split
            path = shard_path(split, row["shard"])
            splits[split].append(Shard(path=path, rows=row["rows"], bytes=row["size"], sha256=row["sha256"]))
    return {split: tuple(shards) for split, shards in splits.items()}


def _remove_leftovers(folder: str, splits: Mapping[str, tuple[Shard, ...]]) -> None:
    """Remove what killed tasks left: hidden files that were never renamed."""
    expected = {shard.path for shards in splits.values() for shard in shards}
    for path in set(storage.list_files(folder)) - expected:
        logger.warning("%s: removing what an interrupted task left", path)
        storage.remove(storage.join(folder, path))


def _statistics(results: list[Row], layout: Layout, settings: PrepareSettings) -> Statistics:
    names = settings.features.feature_names
    parts = [Moments.from_bytes(row["moments"]) for row in results if row["moments"]]
    if not parts:
        raise DataError("no jet fell into the train split, so there are no feature statistics; the input is too small")
    moments = merge_all(parts, len(names))
    std, constant = moments.std()
    notes = tuple(
        f"feature {name} does not vary over the train split; its deviation is set to 1"
        for name, is_constant in zip(names, constant, strict=True)
        if is_constant
    )
    for note in notes:
        logger.warning(note)
    return Statistics(tuple(moments.mean.tolist()), tuple(std.tolist()), notes)


def _manifest(
    census: Census,
    splits: dict[str, tuple[Shard, ...]],
    statistics: Statistics,
    settings: PrepareSettings,
    inputs: Mapping[str, str],
) -> Manifest:
    return Manifest(
        feature_names=settings.features.feature_names,
        feature_mean=statistics.mean,
        feature_std=statistics.std,
        n_particles=settings.features.n_particles,
        mass_bin_edges=settings.features.mass_bin_edges,
        splits=splits,
        rows_per_shard=settings.rows_per_shard,
        seed=settings.seed,
        settings=settings.model_dump(mode="json"),
        counts=census.counts,
        inputs=dict(inputs),
        notes=statistics.notes,
    )
