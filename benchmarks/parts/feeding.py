"""Feeding against pyarrow alone, list columns and Petastorm's Unischema reader, on the same jets."""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import tensorflow as tf
from numpy.typing import NDArray

from parts.contest import Contestant, Line, compete
from sparton import storage
from sparton.data.batches import batches
from sparton.data.featurize import FeatureSpec, encode_features
from sparton.data.manifest import Counts, Manifest, Shard
from sparton.data.plan import plan_epoch
from sparton.data.schema import TRAINING_ARROW
from sparton.data.settings import TRAIN
from sparton.data.shards import shard_path, write_file

ROWS_PER_SHARD = 8192
MEAN_PARTICLES = 40
DIFFERENT_SHARDS = 8
LIST_SHARDS = 4
GOAL = ">= 0.8, 20 x Petastorm's"
COLUMNS = ("features", "n_particles", "target")
"""What training reads."""

UNISCHEMA_SHARD, UNISCHEMA_GROUPS = "jets.parquet", 4


def contest_feeding(
    folder: Path, shards: int, unischema_rows: int, batch_sizes: Sequence[int], rounds: int, bandwidth: float
) -> list[Line]:
    """Write sets of ``shards`` shards and read them in every way."""
    spec = FeatureSpec()
    binary, lists, unischema = (str(folder / name) for name in ("binary", "lists", "unischema"))
    manifest = write_set(binary, shards, spec)
    write_lists(lists, LIST_SHARDS, spec)
    write_unischema(unischema, unischema_rows, spec)
    rows = manifest.rows(TRAIN)
    listed = LIST_SHARDS * ROWS_PER_SHARD
    size, small = rows * spec.row_bytes, unischema_rows * spec.row_bytes
    paths = [storage.join(binary, shard.path) for shard in manifest.shards(TRAIN)]
    list_paths = sorted(str(path) for path in Path(lists).iterdir())
    contestants = [
        Contestant("pyarrow, read_table of each shard", _read_tables(paths), rows, size, "reference; not shuffled"),
        Contestant("pyarrow, dataset scanner", _scan(paths), rows, size, "decodes several files at once"),
        *(
            Contestant(f"pyarrow, iter_batches of {batch}", _iterate(paths, batch), rows, size, "not shuffled")
            for batch in batch_sizes
        ),
        *(
            Contestant(f"sparton batches of {batch}{where}", feed(binary, manifest, batch), rows, size, "shuffled")
            for batch in batch_sizes
            for where, feed in (("", _feed), (" in tf.function", _feed_function))
        ),
        Contestant("pyarrow, list<float> column", _read_lists(list_paths, spec), listed, listed * spec.row_bytes),
        Contestant("Petastorm make_reader", _read_unischema(unischema), unischema_rows, small, "Unischema, all cores"),
    ]
    goals = {contestant.name: GOAL for contestant in contestants if contestant.name.startswith("sparton")}
    return compete("feeding", contestants, rounds, bandwidth, goals)


def _read_tables(paths: list[str]) -> Callable[[], None]:
    def run() -> None:
        for path in paths:
            pq.read_table(path, columns=list(COLUMNS))

    return run


def _scan(paths: list[str]) -> Callable[[], None]:
    def run() -> None:
        for _ in ds.dataset(paths, format="parquet").to_batches(columns=list(COLUMNS), batch_size=ROWS_PER_SHARD):
            pass

    return run


def _iterate(paths: list[str], batch: int) -> Callable[[], None]:
    def run() -> None:
        for path in paths:
            for _ in pq.ParquetFile(path).iter_batches(batch_size=batch, columns=list(COLUMNS)):
                pass

    return run


def _read_lists(paths: list[str], spec: FeatureSpec) -> Callable[[], None]:
    def run() -> None:
        for path in paths:
            column = pq.read_table(path).column("features").combine_chunks()
            column.values.to_numpy().reshape(len(column), spec.n_particles, -1)

    return run


def _feed(folder: str, manifest: Manifest, batch: int) -> Callable[[], None]:
    epochs = _epochs(folder, manifest, batch)

    def run() -> None:
        for _ in next(epochs):
            pass

    return run


def _feed_function(folder: str, manifest: Manifest, batch: int) -> Callable[[], None]:
    epochs = _epochs(folder, manifest, batch)

    @tf.function(reduce_retracing=True)
    def weight(data: tf.data.Dataset) -> tf.Tensor:
        return data.reduce(0.0, lambda total, rows: total + rows["weight"][0])

    def run() -> None:
        weight(next(epochs))

    return run


def _epochs(folder: str, manifest: Manifest, batch: int) -> Iterator[tf.data.Dataset]:
    for epoch in itertools.count():
        plan = plan_epoch(manifest.shard_rows(TRAIN), 1, batch, 0, epoch)
        yield batches(folder, manifest, TRAIN, plan, 0, columns=COLUMNS)


def _read_unischema(folder: str) -> Callable[[], None]:
    from petastorm import make_reader

    def run() -> None:
        with make_reader(f"file://{folder}", num_epochs=1, workers_count=os.cpu_count() or 1) as reader:
            for _ in reader:
                pass

    return run


def tensors(
    rows: int, spec: FeatureSpec, seed: int, mean_particles: float = MEAN_PARTICLES
) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Return random tensors float32[rows, P, F] that end in padding as those of jets do, and their particles."""
    rng = np.random.default_rng(seed)
    shape = (rows, spec.n_particles, len(spec.feature_names))
    particles = np.minimum(rng.poisson(mean_particles, rows), spec.n_particles).astype(np.int16)
    values = rng.standard_normal(shape, np.float32)
    values[np.arange(spec.n_particles) >= particles[:, None]] = 0
    return values, particles


def training_table(rows: int, spec: FeatureSpec, seed: int, mean_particles: float = MEAN_PARTICLES) -> pa.Table:
    """Return random rows of a training set."""
    values, particles = tensors(rows, spec, seed, mean_particles)
    ids = np.arange(rows) + seed * rows
    content: dict[str, Any] = {
        "jet_id": ids,
        "features": encode_features(values),
        "n_particles": particles,
        "n_constituents": particles.astype(np.int32),
        "target": (ids % 20).astype(np.int32),
        "jet_mass": (ids % 200).astype(np.float32),
        "label": pa.nulls(rows, pa.string()),
    }
    return pa.table([content[name] for name in TRAINING_ARROW.names], schema=TRAINING_ARROW)


def write_set(
    folder: str,
    shards: int,
    spec: FeatureSpec,
    shard_rows: int = ROWS_PER_SHARD,
    mean_particles: float = MEAN_PARTICLES,
) -> Manifest:
    """Write a training set of random jets; the manifest is for the caller to write."""
    storage.make_dirs(storage.join(folder, f"split={TRAIN}"))
    entries = []
    tables = [training_table(shard_rows, spec, seed, mean_particles) for seed in range(min(shards, DIFFERENT_SHARDS))]
    for index in range(shards):
        path = shard_path(TRAIN, index)
        size, digest = write_file(storage.join(folder, path), tables[index % len(tables)], "snappy")
        entries.append(Shard(path=path, rows=shard_rows, bytes=size, sha256=digest))
    rows, features = shards * shard_rows, len(spec.feature_names)
    return Manifest(
        feature_names=spec.feature_names,
        feature_mean=(0.0,) * features,
        feature_std=(1.0,) * features,
        feature_count=rows,
        feature_squares=(float(rows),) * features,
        n_particles=spec.n_particles,
        mass_bin_edges=spec.mass_bin_edges,
        splits={TRAIN: tuple(entries)},
        rows_per_shard=shard_rows,
        seed=0,
        settings={},
        counts=Counts(read=rows, kept=rows),
    )


def write_lists(folder: str, shards: int, spec: FeatureSpec) -> None:
    """Write the same tensors as a column list<float>."""
    storage.make_dirs(folder)
    for index in range(shards):
        values, particles = tensors(ROWS_PER_SHARD, spec, index)
        per_row = values.shape[1] * values.shape[2]
        offsets = pa.array(np.arange(ROWS_PER_SHARD + 1, dtype=np.int32) * per_row)
        column = pa.ListArray.from_arrays(offsets, pa.array(values.reshape(-1)))
        table = pa.table({"features": column, "n_particles": particles, "target": particles.astype(np.int32)})
        pq.write_table(table, f"{folder}/{index:05d}.parquet", row_group_size=ROWS_PER_SHARD, use_dictionary=False)


def write_unischema(folder: str, rows: int, spec: FeatureSpec) -> None:
    """Write such jets as Petastorm's own kind of data set."""
    from petastorm.codecs import NdarrayCodec, ScalarCodec
    from petastorm.etl.dataset_metadata import ROW_GROUPS_PER_FILE_KEY, _generate_unischema_metadata
    from petastorm.unischema import Unischema, UnischemaField
    from petastorm.utils import add_to_dataset_metadata
    from pyspark.sql.types import IntegerType

    shape = (spec.n_particles, len(spec.feature_names))
    field = UnischemaField("features", np.float32, shape, NdarrayCodec(), False)
    scalars = [UnischemaField(name, np.int32, (), ScalarCodec(IntegerType()), False) for name in COLUMNS[1:]]
    values, particles = tensors(rows, spec, 0)
    encoded = pa.array([bytes(NdarrayCodec().encode(field, row)) for row in values], pa.binary())
    counts = particles.astype(np.int32)
    storage.make_dirs(folder)
    table = pa.table({"features": encoded, "n_particles": counts, "target": counts})
    pq.write_table(table, f"{folder}/{UNISCHEMA_SHARD}", row_group_size=-(-rows // UNISCHEMA_GROUPS))
    dataset = pq.ParquetDataset(folder, use_legacy_dataset=True, validate_schema=False)
    _generate_unischema_metadata(dataset, Unischema("jets", [field, *scalars]))
    add_to_dataset_metadata(dataset, ROW_GROUPS_PER_FILE_KEY, json.dumps({UNISCHEMA_SHARD: UNISCHEMA_GROUPS}))
