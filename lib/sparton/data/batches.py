"""The rows that a plan gives to a rank, as batches: a :class:`tf.data.Dataset` of tensors, or plain arrays.

The plan alone decides which rows come and in which order. Memory is that of a few shards for each lane of the rank,
whatever the data's size.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np

from sparton import storage
from sparton.data.blocks import WEIGHT, Arrays, Column, Piece, batch_columns, gather_blocks
from sparton.data.manifest import SetManifest, Shard, bad_shards
from sparton.data.plan import EpochPlan
from sparton.data.read_ahead import read_ahead
from sparton.data.shard_reader import READERS, read_shards
from sparton.errors import DataError, UsageError

if TYPE_CHECKING:
    import tensorflow as tf

PREFETCHED_BLOCKS = 2

READ_FAILURE = re.compile(r"DataError: (?P<message>.*)")


def batches(
    folder: str,
    manifest: SetManifest,
    split: str,
    plan: EpochPlan,
    rank: int,
    start_step: int = 0,
    columns: Sequence[str] | None = None,
) -> tf.data.Dataset:
    """Return a rank's batches of one epoch.

    Parameters
    ----------
    folder, manifest, split
        The set, what :func:`sparton.data.manifest.read_set` returned for it, and one of its splits.
    plan
        Made by :func:`sparton.data.plan.plan_epoch` from ``manifest.shard_rows(split)``.
    rank
        The rank in the plan's world.
    start_step
        Steps that are left out; their shards are not read.
    columns
        What to read; None takes all that the set has but text.

    Returns
    -------
    tf.data.Dataset
        ``plan.steps - start_step`` dicts of dense tensors of static shape. Of jets: ``features`` float32[B, P, F],
        ``n_particles``, ``n_constituents`` and ``target`` int32[B], ``jet_id`` int64[B], ``jet_mass`` float32[B]. Of
        plain tables: ``features`` float32[B, d], ``id`` int64[B], ``target`` float32[B] (NaN where there is none).
        Always ``weight`` float32[B]: that of the row, 1 where the set stores none. In the last batches the end of a
        lane's share may be padding: weight 0, id -1, all else 0. Read it within :func:`data_errors`.

    Raises
    ------
    UsageError
        If a column or step does not exist, or the plan was made for other shards.
    DataError
        If a shard that the rank needs is missing or has another size than in the manifest.
    """
    import tensorflow as tf

    wanted, blocks = _blocks(folder, manifest, split, plan, rank, start_step, columns)
    steps = plan.steps - start_step
    data = tf.data.Dataset.from_generator(blocks, output_signature=_signature(wanted, plan.batch_size))
    # Blocks are made while the batches of those before are used. Slices are views of them; unbatch() would copy.
    data = data.prefetch(PREFETCHED_BLOCKS).flat_map(tf.data.Dataset.from_tensor_slices)
    return data.apply(tf.data.experimental.assert_cardinality(steps)).with_options(_options())


def array_batches(
    folder: str,
    manifest: SetManifest,
    split: str,
    plan: EpochPlan,
    rank: int,
    start_step: int = 0,
    columns: Sequence[str] | None = None,
) -> Iterator[Arrays]:
    """Yield the batches of :func:`batches` as NumPy arrays: for small steps, which TensorFlow's hand-over would slow.

    The arrays are views of blocks that a thread reads ahead. Arguments and errors are those of :func:`batches`; a shard
    that cannot be read is a :class:`DataError` here.
    """
    _, blocks = _blocks(folder, manifest, split, plan, rank, start_step, columns)
    for block in read_ahead(blocks(), PREFETCHED_BLOCKS):
        for step in range(len(block[WEIGHT])):
            yield {name: values[step] for name, values in block.items()}


def _blocks(
    folder: str,
    manifest: SetManifest,
    split: str,
    plan: EpochPlan,
    rank: int,
    start_step: int,
    columns: Sequence[str] | None,
) -> tuple[list[Column], Callable[[], Generator[Arrays, None, None]]]:
    """Check a request; return the columns of its batches, and what makes the blocks of them."""
    shards = manifest.shards(split)
    available = batch_columns(manifest.row_schema, manifest.feature_shape)
    _check_request(plan, shards, start_step, columns or (), available)
    lanes = [
        (lane, [shards[index] for index in plan.shards(lane, start_step).tolist()]) for lane in plan.lanes_of(rank)
    ]
    _check_files(folder, list({shard.path: shard for _, needed in lanes for shard in needed}.values()))
    wanted = [available[name] for name in dict.fromkeys((*(available if columns is None else columns), WEIGHT))]
    # What a shard holds of these; at least one column tells how many rows there are.
    stored = [column.name for column in wanted if column.name in manifest.row_schema.names] or [manifest.id_name]

    # Lanes are read side by side anyway; one that is alone has more than one reader.
    n_readers = READERS if len(lanes) == 1 else 1

    def pieces(lane: int, needed: Sequence[Shard]) -> Iterator[Piece]:
        rows = (segment.rows for segment in plan.segments(lane, start_step))
        return zip(_contents(folder, needed, stored, wanted, n_readers), rows, strict=True)

    def blocks() -> Generator[Arrays, None, None]:
        sources = [pieces(*lane) for lane in lanes]
        yield from gather_blocks(sources, wanted, plan.batch_size, plan.steps - start_step)

    return wanted, blocks


@contextlib.contextmanager
def data_errors() -> Iterator[None]:
    """Turn TensorFlow's report of a shard that could not be read into the :class:`DataError` behind it."""
    import tensorflow as tf

    try:
        yield
    except tf.errors.OpError as error:
        found = READ_FAILURE.search(error.message or "")
        if found is None:
            raise
        raise DataError(found["message"].strip()) from error


def _check_request(
    plan: EpochPlan, shards: Sequence[Shard], start_step: int, columns: Sequence[str], available: Mapping[str, Column]
) -> None:
    unknown = [name for name in columns if name not in available]
    if unknown:
        raise UsageError(f"no column {', '.join(unknown)} in batches; there are {', '.join(available)}")
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


def _signature(columns: Sequence[Column], batch_size: int) -> dict[str, tf.TensorSpec]:
    import tensorflow as tf

    return {
        column.name: tf.TensorSpec((None, batch_size, *column.shape), tf.as_dtype(column.dtype)) for column in columns
    }


def _options() -> tf.data.Options:
    """Return options without autotuning: there is nothing to tune, and its thread holds up the end of an epoch.

    That thread sleeps for periods that double from 10 ms on, and an iterator that is done waits for it to wake.
    """
    import tensorflow as tf

    options = tf.data.Options()
    options.autotune.enabled = False
    return options


def _contents(
    folder: str, shards: Sequence[Shard], stored: Sequence[str], columns: Sequence[Column], n_readers: int
) -> Iterator[Arrays]:
    """Yield the values of the columns in each shard."""
    for shard, table in zip(shards, read_shards(folder, shards, stored, n_readers), strict=True):
        try:
            yield {column.name: column.decode(table) for column in columns}
        except DataError as error:
            raise DataError(f"{storage.join(folder, shard.path)}: {error}; prepare the set again") from None
