"""Rows of any kind of table into exact shards: counted, sent through one exchange, written, read back.

Two passes read the input. The first counts rows per bucket of the shuffle's hash and puts broken ones into the
quarantine. The second sends the rows, packed, through one exchange to the tasks that write their shards; such a task
sorts, encodes, writes and sums the statistics. Should ids repeat, that shows behind the exchange: all but one of the
rows with an id are then taken out of the counts, and the second pass is made again. The content of every shard is a
function of the rows, the settings and what the set held before alone.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from sparton import storage
from sparton.data import quarantine
from sparton.data.counting import Census, take_census
from sparton.data.encoder import Encoder, Indices
from sparton.data.exchange import exchange, few_blobs_at_once
from sparton.data.executors import executor_errors
from sparton.data.extension import Tails, remove_scratch, set_known_aside, set_tails_aside
from sparton.data.layout import BUCKETS, Layout, build_layout
from sparton.data.manifest import Counts, SetManifest, Shard
from sparton.data.quarantine_writer import Quarantine, duplicate_reason
from sparton.data.rows import Rows
from sparton.data.settings import SetSettings
from sparton.data.shards import CLOSING, RESULT_ARROW, WriteJob, shard_path, write_groups
from sparton.data.statistics import Moments, merge_all
from sparton.data.verification import verify_written
from sparton.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import Row, SparkSession

MIN_GROUP_BYTES = 8 << 20
MAX_GROUP_BYTES = 64 << 20
"""Tensors, or packed rows where these are larger, of one task's group: enough to be worth a task; it holds them all."""

TASKS_PER_SLOT = 2
SHOWN_VALUES = 20  # where none of those in the table was selected

logger = logging.getLogger(__name__)


class Written(NamedTuple):
    """Shards of each split, what became of the new rows, and the moments of those of the train split."""

    splits: dict[str, tuple[Shard, ...]]
    counts: Counts
    moments: Moments


@dataclass(frozen=True)
class Target:
    """Where rows go: the kind of table, the settings, the folder and the set that it holds already, if any.

    ``checksums`` are those of the files that rows come from (:func:`sparton.data.source_files.checksums`).
    """

    spark: SparkSession
    encoder: Encoder
    settings: SetSettings
    folder: str
    previous: SetManifest | None
    checksums: Mapping[str, str] = field(default_factory=dict)

    @property
    def quarantine(self) -> Quarantine:
        """Where rejected rows go."""
        number = self.previous.extensions + 1 if self.previous else 0
        return Quarantine(storage.join(self.folder, quarantine.FOLDER, f"{number:04d}"), self.checksums)

    def shards(self, split: str) -> tuple[Shard, ...]:
        """Return the shards that a split has already."""
        return self.previous.shards(split) if self.previous else ()


def write_rows(target: Target, rows: Rows) -> Written:
    """Write rows into the shards of a new set, or of one that they extend.

    Raises
    ------
    DataError
        If too many rows are rejected, none is left for a new set, the input changes while it is read, or what was
        written cannot be read back.
    """
    encoder, settings, folder = target.encoder, target.settings, target.folder
    try:
        known = 0
        if target.previous is not None:
            with executor_errors("comparing ids with those of the set"):
                rows, known = set_known_aside(target.spark, rows, encoder, folder, target.quarantine)
        with executor_errors(f"counting the {encoder.kind}"):
            census = _census(target, rows, known)
        _enforce_limit(target, census)
        splits = {split: target.shards(split) for split in settings.splits}
        if not census.counts.kept:
            if target.previous is None:
                raise _nothing_left(target, census.counts, rows)
            return Written(splits, census.counts, merge_all([], encoder.n_features))
        return _write_shards(target, rows, census)
    finally:
        remove_scratch(folder, tuple(settings.splits))
        _remove_leftovers(folder)


def _census(target: Target, rows: Rows, known: int) -> Census:
    census = take_census(rows, target.encoder, target.settings, target.quarantine)
    repeated = {duplicate_reason(target.encoder.id_name): known} if known else {}
    return replace(census, counts=census.counts.plus(Counts(read=known, kept=0, rejected=repeated)))


def _nothing_left(target: Target, counts: Counts, rows: Rows) -> DataError:
    causes = {**counts.rejected, **counts.excluded}
    found = ", ".join(f"{name} {number}" for name, number in causes.items()) or "the table is empty"
    selection = ", ".join(f"{name} {getattr(target.settings, name)}" for name in target.encoder.selection)
    category = target.encoder.category
    if category and counts.excluded.get(category):
        named = rows.frame.select(category).where(F.col(category).isNotNull()).distinct().limit(SHOWN_VALUES).collect()
        found += f"; {category}s in it: {', '.join(sorted(row[category] for row in named)) or 'none'}"
    return DataError(
        f"none of {counts.read} rows of the {target.encoder.kind} is left ({found}); "
        + (f"selected are {selection}: widen the selection, or check the input" if selection else "check the input")
    )


def _enforce_limit(target: Target, census: Census) -> None:
    counts = census.counts
    quarantine.enforce_limit(counts.rejected, counts.read, target.settings.max_rejected, target.encoder.kind)


def _write_shards(target: Target, rows: Rows, census: Census) -> Written:
    tails = set_tails_aside(target.folder, target.previous, target.settings, _touched(census, target.settings))
    for split in target.settings.splits:
        storage.make_dirs(storage.join(target.folder, f"split={split}"))
    layout = _layout(target, census, tails)
    results = _attempt(target, rows, layout, tails, located=False)
    codes, surplus = _repeats(results)
    if codes.size:
        logger.warning("%d rows with the %s of another row", surplus.sum(), target.encoder.id_name)
        census = census.without(codes, surplus, duplicate_reason(target.encoder.id_name))
        layout = _layout(target, census, tails)
        results = _attempt(target, rows, layout, tails, located=True)
        _enforce_limit(target, census)
    _check_groups(target, results, layout)
    new = _new_shards(results, layout)
    verify_written(
        target.spark, target.folder, [shard for part in new.values() for shard in part], target.encoder.schema
    )
    splits = {split: _kept_shards(target, split, tails) + new.get(split, ()) for split in target.settings.splits}
    _remove_surplus(target.folder, splits)
    parts = [Moments.from_bytes(row["moments"]) for row in results if row["moments"]]
    return Written(splits, census.counts, merge_all(parts, target.encoder.n_features))


def _touched(census: Census, settings: SetSettings) -> list[str]:
    """Return the splits that get rows."""
    numbers = np.unique(census.codes // BUCKETS).tolist()
    return [split for number, split in enumerate(settings.splits) if number in numbers]


def _kept_shards(target: Target, split: str, tails: Tails) -> tuple[Shard, ...]:
    shards = target.shards(split)
    return shards[:-1] if split in tails.shards else shards


def _layout(target: Target, census: Census, tails: Tails) -> Layout:
    settings = target.settings
    row_bytes = max(settings.row_bytes or 4 * target.encoder.n_features, census.row_bytes)
    shard_bytes = settings.rows_per_shard * row_bytes
    codes, rows = census.changed_by(tails.codes, tails.rows)
    shards = max(1, int(rows.sum()) // settings.rows_per_shard)
    slots = target.spark.sparkContext.defaultParallelism * TASKS_PER_SLOT
    smallest, largest = -(-MIN_GROUP_BYTES // shard_bytes), max(1, MAX_GROUP_BYTES // shard_bytes)
    per_group = min(max(shards // slots, smallest), largest)
    first = [len(_kept_shards(target, split, tails)) for split in settings.splits]
    return build_layout(codes, rows, tuple(settings.splits), settings.rows_per_shard, per_group, first)


def _attempt(target: Target, rows: Rows, layout: Layout, tails: Tails, located: bool) -> list[Row]:
    encoder, settings = target.encoder, target.settings
    job = WriteJob(
        folder=target.folder,
        groups=layout.groups,
        encoder=encoder,
        rows_per_shard=settings.rows_per_shard,
        compression=settings.compression,
        tails=tails.shards,
        quarantine=target.quarantine if located else None,
    )
    stored = [storage.join(target.folder, shard.path) for shard in tails.shards.values()]
    sent = exchange(rows, encoder, settings, layout, stored, located)
    with executor_errors(f"writing shards to {target.folder}"), few_blobs_at_once(target.spark, rows):
        written = sent.mapInArrow(partial(write_groups, job=job), from_arrow_schema(RESULT_ARROW)).collect()
    return sorted(written, key=lambda row: (row["group"], row["shard"]))


def _repeats(results: Sequence[Row]) -> tuple[Indices, Indices]:
    """Return the buckets in which ids repeat, and how many rows each has beside the first of every id.

    A bucket on the border of two groups goes to both, and both report the same of it.
    """
    found: dict[int, int] = {}
    for row in results:
        codes, surplus = (np.frombuffer(row[name], np.int64).tolist() for name in ("codes", "surplus"))
        found.update(zip(codes, surplus, strict=True))
    return np.array(list(found), np.int64), np.array(list(found.values()), np.int64)


def _check_groups(target: Target, results: Sequence[Row], layout: Layout) -> None:
    """Check that every group got exactly the rows that the first pass counted."""
    arrived = {row["group"]: row["rows"] for row in results if row["shard"] == CLOSING}
    for group in layout.groups:
        found = arrived.get(group.number, 0)
        if found != group.expected:
            raise DataError(
                f"the {target.encoder.kind} changed while it was read: {found} rows for shards {group.first_shard} to "
                f"{group.first_shard + group.shards - 1} of {group.split}, counted before were {group.expected}; "
                "use a stored table as input, not a query whose rows differ from run to run"
            )


def _new_shards(results: Sequence[Row], layout: Layout) -> dict[str, tuple[Shard, ...]]:
    splits: dict[str, list[Shard]] = {}
    for row in results:
        if row["shard"] != CLOSING:
            split = layout.groups[row["group"]].split
            shard = Shard(
                path=shard_path(split, row["shard"]), rows=row["rows"], bytes=row["size"], sha256=row["sha256"]
            )
            splits.setdefault(split, []).append(shard)
    return {split: tuple(shards) for split, shards in splits.items()}


def _remove_surplus(folder: str, splits: dict[str, tuple[Shard, ...]]) -> None:
    """Remove shards that a first attempt wrote and the second, without repeated ids, did not need."""
    expected = {shard.path for shards in splits.values() for shard in shards}
    for split in splits:
        below = storage.join(folder, f"split={split}")
        for path in storage.list_files(below):
            if f"split={split}/{path}" not in expected:
                storage.remove(storage.join(below, path))


def _remove_leftovers(folder: str) -> None:
    """Remove what killed tasks left: hidden files that were never renamed."""
    for path in storage.list_files(folder):
        if storage.name(path).startswith("."):
            logger.warning("%s: removing what an interrupted task left", path)
            storage.remove(storage.join(folder, path))
