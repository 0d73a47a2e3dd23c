"""The rows that a plan gives to a rank, as a :class:`tf.data.Dataset` of batches.

The plan alone decides which rows come and in which order. Memory is that of a few shards, whatever the data's size.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import tensorflow as tf
from numpy.typing import NDArray

from sparton import storage
from sparton.data.featurize import decode_features
from sparton.data.manifest import Manifest, Shard, bad_shards
from sparton.data.plan import EpochPlan
from sparton.data.shard_reader import read_shards
from sparton.errors import DataError, UsageError

Columns = dict[str, NDArray[Any]]

SCALARS = {"n_particles": tf.int32, "target": tf.int32, "jet_id": tf.int64, "jet_mass": tf.float32}
COLUMNS = ("features", *SCALARS)
"""What a batch can hold beside ``weight``."""

PADDING_ID = -1
"""The ``jet_id`` of padding rows; their weight is 0."""

PREFETCHED_BATCHES = 4

PIECE_ROWS = 2048
"""Rows that pass from Python to TensorFlow at once: a call for each batch would cost more than the copying."""

ALIGNMENT = 64
"""Bytes; TensorFlow copies arrays that are not aligned so."""

READ_FAILURE = re.compile(r"DataError: (?P<message>.*)")


def batches(
    folder: str,
    manifest: Manifest,
    split: str,
    plan: EpochPlan,
    rank: int,
    start_step: int = 0,
    columns: Sequence[str] = COLUMNS,
) -> tf.data.Dataset:
    """Return a rank's batches of one epoch.

    Parameters
    ----------
    folder, manifest, split
        The training set, what :func:`sparton.data.manifest.read_manifest` returned for it, and one of its splits.
    plan
        Made by :func:`sparton.data.plan.plan_epoch` from ``manifest.shard_rows(split)``.
    rank
        The rank in the plan's world.
    start_step
        Steps that are left out; their shards are not read.
    columns
        What to read, of :data:`COLUMNS`.

    Returns
    -------
    tf.data.Dataset
        ``plan.steps - start_step`` dicts with ``features`` float32[B, P, F], ``n_particles`` int32[B], ``target``
        int32[B], ``jet_id`` int64[B], ``jet_mass`` float32[B] as asked for, and ``weight`` float32[B]: 1 for rows and
        0 for the padding at the end, which is zero but for its ``jet_id`` -1. Shapes are static. Read it within
        :func:`data_errors`.

    Raises
    ------
    UsageError
        If a column or step does not exist, or the plan was made for other shards.
    DataError
        If a shard that the rank needs is missing or has another size than in the manifest.
    """
    shards = manifest.shards(split)
    _check_request(plan, shards, start_step, columns)
    _check_files(folder, [shards[index] for index in plan.shards(rank, start_step).tolist()])
    shape = (manifest.n_particles, len(manifest.feature_names))
    signature = {name: _spec(name, shape) for name in (*columns, "weight")}

    def generate() -> Iterator[Columns]:
        yield from _segments(folder, shards, plan, rank, start_step, tuple(columns), shape)
        missing = plan.steps * plan.batch_size - plan.row_count(rank)
        if start_step < plan.steps:
            yield _padding(signature, min(missing, (plan.steps - start_step) * plan.batch_size))

    rows = tf.data.Dataset.from_generator(generate, output_signature=signature)
    steps = rows.rebatch(plan.batch_size, drop_remainder=True)
    return steps.apply(tf.data.experimental.assert_cardinality(plan.steps - start_step)).prefetch(PREFETCHED_BATCHES)


@contextlib.contextmanager
def data_errors() -> Iterator[None]:
    """Turn TensorFlow's report of a shard that could not be read into the :class:`DataError` behind it."""
    try:
        yield
    except tf.errors.OpError as error:
        found = READ_FAILURE.search(error.message or "")
        if found is None:
            raise
        raise DataError(found["message"].strip()) from error


def _check_request(plan: EpochPlan, shards: Sequence[Shard], start_step: int, columns: Sequence[str]) -> None:
    unknown = [name for name in columns if name not in COLUMNS]
    if unknown:
        raise UsageError(f"no column {', '.join(unknown)} in batches; there are {', '.join(COLUMNS)}")
    if not 0 <= start_step <= plan.steps:
        raise UsageError(f"start_step is {start_step}, expected 0 to {plan.steps} (the steps of the plan)")
    rows = np.array([shard.rows for shard in shards], np.int64)
    if plan.order.size != rows.size or not np.array_equal(rows[plan.order], np.diff(plan.starts)):
        raise UsageError("the plan was made for other shards than the manifest's; make it from manifest.shard_rows()")


def _check_files(folder: str, shards: list[Shard]) -> None:
    bad = bad_shards(folder, shards, checksums=False)
    if bad:
        more = f" (and {len(bad) - 1} more shards)" if len(bad) > 1 else ""
        raise DataError(f"{bad[0].detail}{more}; restore the file or prepare the set again")


def _spec(name: str, shape: tuple[int, int]) -> tf.TensorSpec:
    if name == "features":
        return tf.TensorSpec((None, *shape), tf.float32)
    return tf.TensorSpec((None,), SCALARS.get(name, tf.float32))


def _padding(signature: dict[str, tf.TensorSpec], rows: int) -> Columns:
    blank = {name: np.zeros((rows, *spec.shape[1:]), spec.dtype.as_numpy_dtype) for name, spec in signature.items()}
    if "jet_id" in blank:
        blank["jet_id"] -= 1
    return blank


def _segments(
    folder: str,
    shards: Sequence[Shard],
    plan: EpochPlan,
    rank: int,
    start_step: int,
    columns: tuple[str, ...],
    shape: tuple[int, int],
) -> Iterator[Columns]:
    """Yield the rank's rows in the plan's order, in pieces of at most :data:`PIECE_ROWS` that lie in one shard."""
    needed = [shards[index] for index in plan.shards(rank, start_step).tolist()]
    arrived = read_shards(folder, needed, columns or ("jet_id",))
    for segment, shard, table in zip(plan.segments(rank, start_step), needed, arrived, strict=True):
        content = {name: _values(table, name, shape, storage.join(folder, shard.path)) for name in columns}
        for start in range(0, segment.rows.size, PIECE_ROWS):
            rows = segment.rows[start : start + PIECE_ROWS]
            piece = {name: _pick(values, rows) for name, values in content.items()}
            yield {**piece, "weight": np.ones(rows.size, np.float32)}


def _values(table: pa.Table, name: str, shape: tuple[int, int], path: str) -> NDArray[Any]:
    """Return a column as an array; the tensors [n, P, F] are a view of what was read."""
    column = table.column(name)
    if name != "features":
        return column.to_numpy().astype(SCALARS[name].as_numpy_dtype)
    try:
        return decode_features(column.chunk(0) if column.num_chunks == 1 else column.combine_chunks(), *shape)
    except DataError as error:
        raise DataError(f"{path}: {error}; prepare the set again") from None


def _pick(values: NDArray[Any], rows: NDArray[np.int64]) -> NDArray[Any]:
    """Return ``values[rows]`` in memory that TensorFlow takes over without a copy."""
    shape = (rows.size, *values.shape[1:])
    size = math.prod(shape) * values.itemsize
    room = np.empty(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    picked = room[start : start + size].view(values.dtype).reshape(shape)
    return np.take(values, rows, axis=0, out=picked, mode="clip")  # other modes would fill a buffer first
