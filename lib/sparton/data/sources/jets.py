"""Parquet that has the columns of the jets table already (``--format parquet``); what follows may be missing."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa

from sparton.config import Config
from sparton.data.screening import JET_VALUES, MOMENTA
from sparton.data.sources import columns
from sparton.data.sources.block import Extent, JetBlock, Source, align, build_jets, no_reasons, numbers
from sparton.physics import kinematics

CODES = "pdg_id"


class JetsOptions(Config):
    """Options of the format ``parquet``.

    Attributes
    ----------
    jet_columns
        Further jet-level numbers to keep.
    """

    jet_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class JetsParquet(Source):
    """Reader of the format ``parquet``; a row is a jet, which keeps its identifiers, label and source.

    Only the four lists of momenta must be there. Jet-level values are those of the sum where the file has none.
    """

    options: JetsOptions
    name: ClassVar[str] = "parquet"
    suffixes: ClassVar[tuple[str, ...]] = columns.SUFFIXES
    errors: ClassVar[tuple[type[Exception], ...]] = columns.ERRORS

    @property
    def gives_ids(self) -> bool:
        """Files may have identifiers."""
        return True

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Names of the further columns."""
        return self.options.jet_columns

    def open(self, path: str) -> AbstractContextManager[Any]:
        """Open a Parquet file."""
        return columns.open_parquet(path)

    def extent(self, handle: Any) -> Extent:
        """Check the columns; the rows are the jets."""
        present = handle.schema_arrow.names
        scalars = [name for name in JET_VALUES if name in present]
        whole = [name for name in ("jet_id", "event_id") if name in present]
        texts = [name for name in ("label", "source") if name in present]
        lists = [*MOMENTA, *([CODES] if CODES in present else [])]
        return columns.extent(handle, lists, [*scalars, *self.extra_columns], texts, whole)

    def blocks(self, handle: Any, start: int, stop: int) -> Iterator[JetBlock]:
        """Yield the jets of some rows."""
        known = (*MOMENTA, CODES, *JET_VALUES, "jet_id", "event_id", "label", "source", *self.extra_columns)
        present = [name for name in dict.fromkeys(known) if name in handle.schema_arrow.names]
        for first, batch in columns.batches(handle, present, start, stop):
            yield self._block(batch, first)

    def read(self, handle: Any, start: int, stop: int) -> JetBlock:
        """Return the jets of rows that fit into one batch."""
        return next(iter(self.blocks(handle, start, stop)))

    def _block(self, batch: pa.RecordBatch, first: int) -> JetBlock:
        present = batch.schema.names
        momenta, offsets, uneven = align([columns.flat(batch, name) for name in MOMENTA])
        given = {name: columns.scalar(batch, name) for name in JET_VALUES if name in present}
        further = ("jet_id", "event_id", *self.extra_columns)
        required = [name for name in (*MOMENTA, *given, *further) if name in present]
        reason = no_reasons(batch.num_rows)
        reason[uneven] = "unequal_lengths"
        reason[columns.any_null(batch, required)] = "null"
        row = np.arange(first, first + batch.num_rows)
        nothing = pa.nulls(batch.num_rows, pa.string())
        return JetBlock(
            row=row,
            place=np.zeros(row.size, np.int64),
            jets=build_jets(momenta, offsets, given, _codes(batch, offsets)),
            label=columns.text(batch, "label") if "label" in present else nothing,
            reason=reason,
            jet_id=columns.integers(batch, "jet_id") if "jet_id" in present else None,
            event_id=columns.integers(batch, "event_id") if "event_id" in present else None,
            extras={name: numbers(columns.scalar(batch, name)) for name in self.extra_columns},
            source=columns.text(batch, "source") if "source" in present else None,
        )


def _codes(batch: pa.RecordBatch, offsets: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Return the constituents' codes, 0 (unknown) for jets that have none or not one for each constituent."""
    codes = np.zeros(int(offsets[-1]), np.int32)
    if CODES not in batch.schema.names:
        return codes
    values, counts = columns.flat(batch, CODES)
    complete = np.flatnonzero(counts == np.diff(offsets))
    source, _ = kinematics.take_rows(kinematics.offsets_from_counts(counts), complete)
    target, _ = kinematics.take_rows(offsets, complete)
    codes[target] = np.nan_to_num(values[source]).astype(np.int32)
    return codes
