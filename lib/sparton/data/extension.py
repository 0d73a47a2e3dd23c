"""What extending a set needs beside the new rows: equal settings, no known ids, the rows of the last shards."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark import TaskContext
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema

from sparton import storage
from sparton.data.counting import count_ids
from sparton.data.encoder import FILE, ROW, Encoder, Indices, Rejected
from sparton.data.manifest import SetManifest, Shard
from sparton.data.quarantine_writer import Quarantine, duplicate_reason, quarantine_file
from sparton.data.rows import FrameRows, Rows
from sparton.data.settings import SetSettings
from sparton.data.tail import read_ids
from sparton.errors import UsageError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

KNOWN_ID = "_known_id"
KNOWN = "known-ids"  # no underscore: Spark reads it back
TAIL = "_tail-{split}.parquet"
FREE_SETTINGS = ("max_rejected",)
"""Settings that may differ from those of the set: they do not decide what is in it."""

NUMBER_ARROW = pa.schema([pa.field("rows", pa.int64())])


@dataclass(frozen=True)
class Tails:
    """Last shards whose rows get new places, by split: the shard, set aside under another path, and bucket counts."""

    shards: dict[str, Shard]
    codes: Indices
    rows: Indices

    @property
    def held(self) -> int:
        """Number of rows."""
        return int(self.rows.sum())


def require_same_settings(settings: SetSettings, manifest: SetManifest, section: str, folder: str) -> None:
    """Check that a set was made with these settings.

    Raises
    ------
    UsageError
        Naming the first key that differs.
    """
    for key, value in settings.model_dump(mode="json").items():
        made_with = manifest.settings.get(key)
        if key not in FREE_SETTINGS and value != made_with:
            raise UsageError(
                f"{section}.{key} is {value!r}, but {folder} was made with {made_with!r}; an extension keeps the "
                f"settings of the set: give the same value, or prepare a new set"
            )


def set_known_aside(
    spark: SparkSession, rows: Rows, encoder: Encoder, folder: str, quarantine: Quarantine
) -> tuple[Rows, int]:
    """Return the rows whose ids the set does not hold yet, and how many others went to the quarantine.

    Only ids are joined; the rows themselves move, through Spark, if ids repeat.

    Parameters
    ----------
    spark, rows, encoder
        The session, the new rows with their place, and the kind of table.
    folder
        Staging folder that starts as the set.
    quarantine
        Where rows with known ids go.
    """
    if encoder.source_id is None:
        return rows, 0  # made ids of files that the set does not hold differ from all those of its rows
    known = storage.join(folder, KNOWN)
    held = spark.read.parquet(storage.spark_source(folder)).select(F.col(encoder.id_name).alias("id"))
    ids = rows.frame.select(F.col(encoder.source_id).cast("long").alias("id"))
    both = ids.join(held, "id", "left_semi").distinct()
    both.select(F.col("id").alias(KNOWN_ID)).write.parquet(storage.spark_url(known))
    repeated = spark.read.schema(f"`{KNOWN_ID}` long").parquet(storage.spark_source(known))
    if repeated.isEmpty():
        return rows, 0
    matching = F.col(encoder.source_id).cast("long") == F.col(KNOWN_ID)
    doubles = rows.frame.select(encoder.source_id, FILE, ROW).join(repeated, matching, "left_semi")
    put = partial(_quarantine_known, encoder=encoder, quarantine=quarantine)
    counts = doubles.mapInArrow(put, from_arrow_schema(NUMBER_ARROW)).agg(F.sum("rows").alias("rows")).collect()
    return FrameRows(rows.frame.join(repeated, matching, "left_anti")), int(counts[0]["rows"] or 0)


def set_tails_aside(folder: str, manifest: SetManifest | None, settings: SetSettings, splits: Sequence[str]) -> Tails:
    """Set the last shard aside of each of ``splits`` whose last shard is shorter than the others."""
    shards: dict[str, Shard] = {}
    codes, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    for split in splits:
        last = manifest.shards(split)[-1:] if manifest else ()
        for shard in last:
            if shard.rows < settings.rows_per_shard:
                path = TAIL.format(split=split)
                storage.link(storage.join(folder, shard.path), storage.join(folder, path))
                shards[split] = shard.model_copy(update={"path": path})
                found = count_ids(read_ids(storage.join(folder, path)), settings)
                codes.append(found[0])
                rows.append(found[1])
    return Tails(shards, np.concatenate(codes), np.concatenate(rows))


def remove_scratch(folder: str, splits: Sequence[str]) -> None:
    """Remove what was set aside."""
    for name in (KNOWN, *(TAIL.format(split=split) for split in splits)):
        storage.remove(storage.join(folder, name))


def _quarantine_known(
    batches: Iterator[pa.RecordBatch], encoder: Encoder, quarantine: Quarantine
) -> Iterator[pa.RecordBatch]:
    context = TaskContext.get()
    task = context.partitionId() if context else 0
    with quarantine_file(f"{quarantine.start}-known-{task:05d}.parquet") as file:
        for batch in batches:
            reason, detail = duplicate_reason(encoder.id_name), f"{encoder.id_name} of a row that the set holds already"
            rejected = Rejected.because(reason, np.arange(batch.num_rows), detail)
            file.add(quarantine.rows(batch, encoder.source_ids(batch), rejected))
            yield pa.RecordBatch.from_arrays([pa.array([batch.num_rows])], schema=NUMBER_ARROW)
