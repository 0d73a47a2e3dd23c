"""Rows of plain tables on their way into a table set: checked, packed into one binary column, stored as they are."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sparton.data.encoder import FILE, ROW, Indices, Mask, Rejected, Sifted, all_in_order, ids_of
from sparton.data.featurize import FEATURE_DTYPE, decode_features, encode_features
from sparton.data.schema import TABLE_ARROW
from sparton.data.source_files import at_place
from sparton.data.sources import identity
from sparton.data.statistics import Moments
from sparton.errors import DataError

REASONS = ("null", "wrong_length", "not_finite", "negative_weight")
"""Why a row is rejected: a null in a column other than the target, an array of another length, NaN, infinity or a
value beyond float32, a weight below 0."""

ID, ARRAY, TARGET, WEIGHT = "id", "array", "target", "weight"

PAYLOAD_ARROW = pa.schema(list(TABLE_ARROW)[1:])


class TableRows(NamedTuple):
    """A batch, and the rows int64[n] of it that are sound."""

    batch: pa.RecordBatch
    row: Indices

    def sound(self) -> pa.RecordBatch:
        """Return the rows that are sound."""
        if self.row.size == self.batch.num_rows:
            return self.batch
        return self.batch.take(pa.array(self.row))


@dataclass(frozen=True)
class TableEncoder:
    """The :class:`sparton.data.encoder.Encoder` of plain tables, over the columns that ``project`` gives them.

    Attributes
    ----------
    names
        Names of the features.
    scalars
        Those of ``id``, ``target``, ``weight`` that the table has, with the column of the table that each is.
    array
        The column that holds all features; None where each is a column of its own (``f0``, ``f1`` ...).
    codes
        What ids are made from where the table has none: the bits that stand for each file.
    """

    names: tuple[str, ...]
    scalars: Mapping[str, str]
    array: str | None = None
    codes: Mapping[str, int] = field(default_factory=dict)
    kind: str = "table"
    id_name: str = "id"
    selection: tuple[str, ...] = ()
    category: str | None = None
    reasons: tuple[str, ...] = REASONS
    criteria: tuple[str, ...] = ()
    alterations: tuple[str, ...] = ()

    @property
    def source_id(self) -> str | None:
        """The column of ids, where there is one."""
        return ID if ID in self.scalars else None

    @property
    def feature_columns(self) -> tuple[str, ...]:
        """Columns that hold features."""
        return (ARRAY,) if self.array else tuple(f"f{index}" for index in range(len(self.names)))

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that are read."""
        place = () if ID in self.scalars else (FILE, ROW)
        return (*self.scalars, *self.feature_columns, *place)

    @property
    def payload(self) -> pa.Schema:
        """Columns that cross the exchange."""
        return PAYLOAD_ARROW

    @property
    def schema(self) -> pa.Schema:
        """Columns of the set."""
        return TABLE_ARROW

    @property
    def n_features(self) -> int:
        """Number of features."""
        return len(self.names)

    def source_ids(self, batch: pa.RecordBatch) -> pa.Array:
        """Return the column of ids, or ids made from the content of each row's file and its number there."""
        return ids_of(batch, ID) if ID in self.scalars else pa.array(self._made_ids(batch))

    def sift(self, batch: pa.RecordBatch) -> Sifted:
        """Return the sound rows of a batch."""
        bad = np.zeros(batch.num_rows, bool)
        parts: list[Rejected] = []
        for reason, masks in (
            ("null", self._nulls(batch)),
            ("wrong_length", self._wrong_lengths(batch)),
            ("not_finite", self._not_finite(batch)),
            ("negative_weight", self._negative_weights(batch)),
        ):
            for detail, mask in masks:
                rows = np.flatnonzero(mask & ~bad)
                parts.append(Rejected.because(reason, rows, detail))
                bad[rows] = True
        row = np.flatnonzero(~bad)
        ids = self.source_ids(batch)
        sound = ids if row.size == batch.num_rows else ids.take(pa.array(row))
        return Sifted(sound.to_numpy(), row, TableRows(batch, row), Counter(), Rejected.join(parts))

    def pack(self, content: TableRows, index: Indices) -> list[pa.Array]:
        """Return the payload of rows."""
        batch = content.sound()
        features = np.empty((batch.num_rows, self.n_features), FEATURE_DTYPE)
        self.fill(batch, features)
        scalars = [batch.column(name) if name in self.scalars else None for name in (TARGET, WEIGHT)]
        if not all_in_order(index, batch.num_rows):
            features = features[index]
            scalars = [None if column is None else column.take(pa.array(index)) for column in scalars]
        target, weight = scalars
        return [
            encode_features(features),
            pa.nulls(index.size, pa.float32()) if target is None else target,
            pa.array(np.ones(index.size, np.float32)) if weight is None else weight,
        ]

    def packed_bytes(self, content: TableRows) -> int:
        """Return the bytes of features, target and weight."""
        return content.row.size * (self.n_features + 2) * FEATURE_DTYPE.itemsize

    def encode(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Return the rows of the set, which are those that crossed the exchange."""
        return pa.RecordBatch.from_arrays([batch.column(name) for name in TABLE_ARROW.names], schema=TABLE_ARROW)

    def moments(self, table: pa.Table) -> Moments:
        """Return the moments of the features, with the weights that rows have."""
        weight = table.column(WEIGHT).to_numpy() if WEIGHT in self.scalars else None
        return Moments.of(decode_features(table.column("features").combine_chunks(), self.n_features), weight)

    def fill(self, batch: pa.RecordBatch, features: NDArray[np.float32]) -> None:
        """Put the features of sound rows into ``features`` [n, d]."""
        if self.array:
            features[:] = _values(batch.column(ARRAY).flatten()).reshape(features.shape)
            return
        for index, name in enumerate(self.feature_columns):
            features[:, index] = _values(batch.column(name))

    def _made_ids(self, batch: pa.RecordBatch) -> Indices:
        files = batch.column(FILE).dictionary_encode()
        codes = np.array([self._code(url) for url in files.dictionary.to_pylist()], np.int64)
        return identity.of_rows(codes[files.indices.to_numpy()], batch.column(ROW).to_numpy())

    def _code(self, url: str) -> int:
        code = at_place(url, self.codes)
        if code is None:
            raise DataError(f"{url}: not among the files that were found when the stage began; run it again")
        return code

    def _named(self, column: str) -> str:
        """Return a column's name in the user's table."""
        if column == ARRAY:
            return str(self.array)
        return self.scalars[column] if column in self.scalars else self.names[int(column[1:])]

    def _nulls(self, batch: pa.RecordBatch) -> list[tuple[str, Mask]]:
        found = []
        for name in (*self.scalars, *self.feature_columns):
            if name == TARGET:
                continue
            column = batch.column(name)
            if column.null_count:
                found.append((f"column {self._named(name)} is null", column.is_null().to_numpy(zero_copy_only=False)))
        if self.array and batch.column(ARRAY).flatten().null_count:
            inner = any_in_row(batch.column(ARRAY), batch.column(ARRAY).flatten().is_null())
            found.append((f"a value in column {self.array} is null", inner))
        return found

    def _wrong_lengths(self, batch: pa.RecordBatch) -> list[tuple[str, Mask]]:
        if not self.array:
            return []
        lengths = pc.fill_null(pc.list_value_length(batch.column(ARRAY)), self.n_features)
        wrong = lengths.to_numpy(zero_copy_only=False) != self.n_features
        return [(f"column {self.array} has not {self.n_features} values", wrong)]

    def _not_finite(self, batch: pa.RecordBatch) -> list[tuple[str, Mask]]:
        found = []
        for name in (*(key for key in self.scalars if key != ID), *self.feature_columns):
            column = batch.column(name)
            if name == ARRAY:
                bad = ~np.isfinite(_values(column.flatten()))
                mask = any_in_row(column, pa.array(bad)) if bad.any() else bad[:0]
            else:
                mask = ~np.isfinite(_values(column))
                if name == TARGET and column.null_count:
                    mask &= column.is_valid().to_numpy(zero_copy_only=False)
            if mask.any():
                found.append((f"column {self._named(name)} is not a finite float32", mask))
        return found

    def _negative_weights(self, batch: pa.RecordBatch) -> list[tuple[str, Mask]]:
        if WEIGHT not in self.scalars:
            return []
        return [(f"column {self._named(WEIGHT)} is below 0", _values(batch.column(WEIGHT)) < 0)]


def _values(column: pa.Array) -> NDArray[np.float32]:
    """Return values as float32; a null among them becomes NaN."""
    return column.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)


def any_in_row(column: pa.Array, flags: pa.Array) -> Mask:
    """Tell which arrays of a list column have a flagged value."""
    owner = pc.list_parent_indices(column).to_numpy()
    flagged = np.zeros(len(column), bool)
    flagged[owner[flags.to_numpy(zero_copy_only=False)]] = True
    return flagged
