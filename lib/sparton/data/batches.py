"""The rows that a plan gives to a rank, as a :class:`tf.data.Dataset` of batches.

The plan alone decides which rows come and in which order. Memory is that of a few shards, whatever the data's size.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from sparton import storage
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
    """Yield the rank's rows shard by shard, in the plan's order."""
    needed = [shards[index] for index in plan.shards(rank, start_step).tolist()]
    read = columns or ("jet_id",)
    arrived = read_shards(folder, needed, read)
    for segment, shard, content in zip(plan.segments(rank, start_step), needed, arrived, strict=True):
        found: Columns = {"weight": np.ones(segment.rows.size, np.float32)}
        for name in columns:
            values = getattr(content, name)
            found[name] = (
                _tensors(values, segment.rows, shape, storage.join(folder, shard.path))
                if name == "features"
                else values[segment.rows].astype(SCALARS[name].as_numpy_dtype)
            )
        yield found


def _tensors(
    values: NDArray[np.object_], rows: NDArray[np.int64], shape: tuple[int, int], path: str
) -> NDArray[np.float32]:
    """Join the binary tensors of these rows: one copy, in the order of use."""
    joined = np.frombuffer(b"".join(values[rows].tolist()), "<f4")
    if joined.size != rows.size * shape[0] * shape[1]:
        raise DataError(
            f"{path}: column features holds {joined.nbytes} bytes in {rows.size} rows, expected tensors of "
            f"{shape[0]} x {shape[1]} float32; prepare the set again"
        )
    return joined.reshape(rows.size, *shape)
