"""A table of Parquet files in the memory of this process, without Spark: for tables that fit one machine.

Rows are checked as ``prepare`` checks them, by the same encoder, and rejected ones go to the same quarantine; nothing
is shuffled, split or stored.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
from numpy.typing import NDArray
from pyspark.sql.types import StructField, StructType

from sparton import storage
from sparton.data.encoder import FILE, ROW, Indices, Sifted
from sparton.data.featurize import FEATURE_DTYPE
from sparton.data.manifest import Counts
from sparton.data.pieces import Piece, Read, read_piece, spark_name, spark_type, split_pieces
from sparton.data.quarantine import enforce_limit
from sparton.data.quarantine_writer import Quarantine, duplicate_reason, quarantine_file
from sparton.data.schema import require_columns
from sparton.data.settings import TableSettings
from sparton.data.source_files import Source, by_path, checksums, file_codes, require_unchanged
from sparton.data.table_encoder import ID, WEIGHT, TableEncoder
from sparton.data.tables import encoder_of, feature_names, is_number, require_same_numbers, wanted_columns
from sparton.errors import DataError

ROW_BYTES = 40
"""Bytes that a row takes beside its features: weight, place in the order of an epoch, identity."""

CGROUP = "/sys/fs/cgroup"
CACHED = ("inactive_file", "active_file")
"""What a control group counts as used and gives up where memory is short: pages of files."""

MOVED_ROWS = 1 << 16
"""Rows that are moved at once where rejected ones have left gaps."""

LIMIT_OPTION = "--set table.max_rejected"

OTHERWISE = "make a set of it with 'sparton prepare --kind table', and cluster that"


@dataclass(frozen=True)
class MemoryTable:
    """Sound rows of a table.

    Attributes
    ----------
    names
        Names of the features.
    rows
        float32 [n, d].
    weight
        float32 [n] from 0; None where the table has none.
    counts
        What became of all rows.
    """

    names: tuple[str, ...]
    rows: NDArray[np.float32]
    weight: NDArray[np.float32] | None
    counts: Counts


def read_table(folder: str, sources: Sequence[Source], settings: TableSettings, quarantine_folder: str) -> MemoryTable:
    """Read the rows of a table of files that others may change; see :func:`read_rows`.

    Raises
    ------
    DataError
        As :func:`read_rows`, and if a file was replaced meanwhile.
    """
    table = read_rows(folder, sources, settings, quarantine_folder, OTHERWISE)
    require_unchanged(folder, sources)
    return table


def read_rows(
    folder: str, sources: Sequence[Source], settings: TableSettings, quarantine_folder: str, otherwise: str
) -> MemoryTable:
    """Read the rows of a table.

    Parameters
    ----------
    folder, sources
        The table, and its files (:func:`sparton.data.source_files.find_sources_here`).
    settings
        Which columns to take, and how many rows may be rejected; the rest is for sets. Of rows with one id
        (``settings.id``) the first is kept.
    quarantine_folder
        Where rejected rows go.
    otherwise
        What to do with a table that cannot be read so, for messages.

    Raises
    ------
    DataError
        If a column is missing in a file, not numeric or of several types, none is named and files differ in their
        numeric ones, the rows do not fit into memory, too many are rejected or none is left, or a file is damaged.
    """
    columns = _columns(folder, sources, settings, otherwise)
    types = {field.name: spark_type(field.type) for field in columns}
    schema = StructType([StructField(name, kind) for name, kind in types.items() if kind is not None])
    names = feature_names(schema, settings)
    encoder = encoder_of(names, settings, {} if settings.id else file_codes(folder, sources))
    wanted = wanted_columns(schema, encoder)
    reads = {key: Read(want.name, want.type or columns.field(want.name).type) for key, want in wanted.items()}
    _require_memory(folder, sum(source.file.rows for source in sources), len(names), otherwise)
    filling = _Filling(encoder, reads, folder, sources, quarantine_folder)
    filling.read()
    counts = filling.counts()
    enforce_limit(counts.rejected, counts.read, settings.max_rejected, encoder.kind, option=LIMIT_OPTION)
    if not counts.kept:
        reasons = ", ".join(f"{name} {number}" for name, number in counts.rejected.items()) or "the table is empty"
        raise DataError(f"{folder}: none of {counts.read} rows is left ({reasons}); check the input")
    rows, weight = filling.sound()
    return MemoryTable(encoder.names, rows, weight, counts)


def available_memory() -> int:
    """Return the bytes that this process can still take, of the machine's or of the control group's that it is in."""
    found = int(psutil.virtual_memory().available)
    try:
        limit, used, counted = (
            Path(CGROUP, name).read_text(encoding="ascii") for name in ("memory.max", "memory.current", "memory.stat")
        )
        kinds = dict(line.split() for line in counted.splitlines())
        cached = sum(int(kinds[name]) for name in CACHED)
        return min(found, max(int(limit) - int(used) + cached, 0))
    except (OSError, ValueError, KeyError):
        return found  # no such group, or no limit


class _Filling:
    """Arrays that many threads fill: a row's place is its number in all files."""

    def __init__(
        self,
        encoder: TableEncoder,
        reads: Mapping[str, Read],
        folder: str,
        sources: Sequence[Source],
        quarantine_folder: str,
    ) -> None:
        self._encoder, self._reads = encoder, reads
        self._files = [(storage.join(folder, source.path), source.groups) for source in sources]
        self._starts = np.cumsum([0, *(source.file.rows for source in sources)])
        self._quarantine = Quarantine(storage.join(quarantine_folder, "0000"), checksums(folder, sources))
        total = int(self._starts[-1])
        self._rows = np.empty((total, encoder.n_features), FEATURE_DTYPE)
        self._weight = np.empty(total, np.float32) if WEIGHT in encoder.scalars else None
        self._ids = np.empty(total, np.int64) if ID in encoder.scalars else None
        self._sound = np.zeros(total, bool)
        self._rejected: Counter[str] = Counter()

    def read(self) -> None:
        """Read all files, and find the rows whose id another one has."""
        threads = len(os.sched_getaffinity(0))
        pieces = [piece for task in split_pieces(self._files, threads) for piece in task]
        first = {path: int(start) for (path, _), start in zip(self._files, self._starts, strict=False)}
        starts = [first[piece.path] + piece.first_row for piece in pieces]
        with ThreadPoolExecutor(threads) as pool:
            for rejected in pool.map(self._read_piece, range(len(pieces)), pieces, starts):
                self._rejected += rejected
        self._reject_repeated()

    def counts(self) -> Counts:
        """Return what became of all rows."""
        return Counts(read=len(self._sound), kept=int(self._sound.sum()), rejected=dict(self._rejected))

    def sound(self) -> tuple[NDArray[np.float32], NDArray[np.float32] | None]:
        """Return features and weights of the sound rows, moved together in place: there may be no room for a copy."""
        if self._sound.all():
            return self._rows, self._weight
        kept = int(self._sound.sum())
        for values in (self._rows, self._weight):
            if values is not None:
                _close_gaps(values, self._sound)
        return self._rows[:kept], None if self._weight is None else self._weight[:kept]

    def _read_piece(self, number: int, piece: Piece, place: int) -> Counter[str]:
        """Read the rows of a piece to their places, and return how many were rejected for each reason."""
        rejected: Counter[str] = Counter()
        with quarantine_file(f"{self._quarantine.start}-rejected-{number:05d}.parquet") as file:
            for batch in read_piece(piece, self._reads, file=True, row=True):
                sifted = self._encoder.sift(batch)
                if sifted.rejected.row.size:
                    file.add(self._quarantine.rows(batch, self._encoder.source_ids(batch), sifted.rejected))
                    rejected += sifted.rejected.counts()
                self._put(sifted, place)
                place += batch.num_rows
        return rejected

    def _put(self, sifted: Sifted, first: int) -> None:
        """Put the sound rows of a batch, whose first row's place is ``first``, to theirs."""
        sound = sifted.content.sound()
        everything = sifted.row.size == sifted.content.batch.num_rows
        places = slice(first, first + sifted.row.size) if everything else first + sifted.row
        features = self._rows[places]  # of a slice these are the rows themselves
        self._encoder.fill(sound, features)
        if not everything:
            self._rows[places] = features
        self._sound[places] = True
        if self._weight is not None:
            self._weight[places] = sound.column(WEIGHT).to_numpy()
        if self._ids is not None:
            self._ids[places] = sifted.ids

    def _reject_repeated(self) -> None:
        """Reject all rows but the first of those that have one id."""
        if self._ids is None:
            return
        place = np.flatnonzero(self._sound)
        place = place[np.argsort(self._ids[place], kind="stable")]
        ids = self._ids[place]
        repeated = np.sort(place[1:][ids[1:] == ids[:-1]])
        if not repeated.size:
            return
        self._sound[repeated] = False
        self._rejected[duplicate_reason(self._encoder.id_name)] += repeated.size
        with quarantine_file(f"{self._quarantine.start}-repeated.parquet") as file:
            for start in range(0, repeated.size, MOVED_ROWS):
                batch = self._located(repeated[start : start + MOVED_ROWS])
                file.add(self._quarantine.repeated(batch, np.arange(batch.num_rows), self._encoder.id_name))

    def _located(self, places: Indices) -> pa.RecordBatch:
        """Return id, file and number of the rows at ``places``."""
        assert self._ids is not None
        number = np.searchsorted(self._starts, places, side="right") - 1
        urls = pa.array([spark_name(path) for path, _ in self._files])
        file = pa.DictionaryArray.from_arrays(pa.array(number, pa.int32()), urls)
        columns = [pa.array(self._ids[places]), file, pa.array(places - self._starts[number])]
        return pa.RecordBatch.from_arrays(columns, [ID, FILE, ROW])


def _columns(folder: str, sources: Sequence[Source], settings: TableSettings, otherwise: str) -> pa.Schema:
    """Return the columns of the first file by name, which are those that Spark sees; all have those that are read."""
    schemas: dict[str, pa.Schema] = {}
    for source in sorted(sources, key=by_path):
        if source.schema is None or "=" in source.path:
            found = "lies in a folder named column=value" if "=" in source.path else "has columns pyarrow cannot read"
            raise DataError(f"{folder}: {source.path} {found}; {otherwise}")
        schemas[source.path] = source.schema
    require_same_numbers(folder, sources, settings)
    first, columns = next(iter(schemas.items()))
    asked = _asked(columns, settings)
    several: dict[int, tuple[str, pa.Schema]] = {}  # most files share theirs
    for path, schema in schemas.items():
        several.setdefault(id(schema), (path, schema))
    for path, schema in several.values():
        twice = sorted({name for name in schema.names if schema.names.count(name) > 1})
        if twice:
            raise DataError(f"{folder}: {path} has several columns {', '.join(twice)}; give each its own name")
        require_columns(schema.names, asked, f"{folder}: {path}")
        for field in map(schema.field, asked):
            kind, expected = spark_type(field.type), columns.field(field.name).type
            if kind is None:
                raise DataError(
                    f"{folder}: {path}: column {field.name} is {field.type}, which Spark alone reads; name other "
                    f"columns (table.columns), or {otherwise}"
                )
            if kind != spark_type(expected):
                raise DataError(
                    f"{folder}: column {field.name} is {field.type} in {path} and {expected} in {first}; give it one "
                    "type in all files, or name other columns (table.columns)"
                )
    return columns


def _asked(schema: pa.Schema, settings: TableSettings) -> list[str]:
    """Return the columns that are read."""
    named = [settings.array, settings.id, settings.target, settings.weight, *(settings.columns or ())]
    if settings.columns is None and settings.array is None:
        named += [field.name for field in schema if is_number(field.type) and field.name not in named]
    return [name for name in named if name is not None]


def _require_memory(folder: str, rows: int, features: int, otherwise: str) -> None:
    needed, there = rows * (features * FEATURE_DTYPE.itemsize + ROW_BYTES), available_memory()
    if needed > there:
        raise DataError(
            f"{folder}: {rows} rows of {features} features need {needed / 1e9:.1f} GB of memory, "
            f"{there / 1e9:.1f} GB are left; {otherwise}, so that it is read batch by batch"
        )


def _close_gaps(values: NDArray[Any], kept: NDArray[np.bool_]) -> None:
    """Move kept rows to the front, in order."""
    end = 0
    for start in range(0, len(values), MOVED_ROWS):
        part = values[start : start + MOVED_ROWS][kept[start : start + MOVED_ROWS]]
        values[end : end + len(part)] = part
        end += len(part)
