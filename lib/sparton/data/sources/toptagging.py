"""The top-tagging reference data set (Zenodo 2603256): HDF5 as pandas writes a table (PyTables).

``table/table`` has two blocks of columns: the floats E, PX, PY, PZ of 200 particles by falling pT and of the top quark,
and the integers ``ttv`` and ``is_signal_new``. Pandas keeps their names in pickled attributes, which are not read: the
published order is.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from pydantic import Field

from sparton.config import Config
from sparton.data.sources import hdf5
from sparton.data.sources.block import BadFileError, Extent, JetBlock, Source, build_jets, labels_from_codes, no_reasons
from sparton.physics import kinematics

FLOATS, INTEGERS = "values_block_0", "values_block_1"
COMPONENTS = 4  # E, PX, PY, PZ
LABELS = ("QCD", "t")


class TopTaggingOptions(Config):
    """Options of the format ``toptagging``.

    Attributes
    ----------
    key
        The table's key in the file, as pandas names it.
    """

    key: str = Field(default="table", min_length=1)


@dataclass(frozen=True)
class TopTagging(Source):
    """Reader of the format ``toptagging``; a row is a jet."""

    options: TopTaggingOptions
    name: ClassVar[str] = "toptagging"
    suffixes: ClassVar[tuple[str, ...]] = hdf5.SUFFIXES
    errors: ClassVar[tuple[type[Exception], ...]] = hdf5.ERRORS

    def open(self, path: str) -> AbstractContextManager[Any]:
        """Open an HDF5 file."""
        return hdf5.open_hdf5(path)

    def extent(self, handle: Any) -> Extent:
        """Check the fields of the table; the rows are the jets."""
        table = self._table(handle)
        return Extent(len(table), hdf5.chunk_rows(table), table.dtype.itemsize)

    def read(self, handle: Any, start: int, stop: int) -> JetBlock:
        """Return the jets of some rows; jet-level values are those of the sum of the particles."""
        table = self._table(handle)
        floats = table.fields(FLOATS)[start:stop]
        truth = table.fields(INTEGERS)[start:stop][:, -1]
        slots = floats.shape[1] // COMPONENTS - 1
        particles = floats[:, : slots * COMPONENTS].reshape(len(floats), slots, COMPONENTS)
        real = (particles != 0).any(axis=2)
        energy, px, py, pz = particles[real].T
        jets = build_jets((px, py, pz, energy), kinematics.offsets_from_counts(np.count_nonzero(real, axis=1)))
        known = (truth == 0) | (truth == 1)
        reason = no_reasons(len(floats))
        reason[~known] = "unknown_label"
        label = labels_from_codes(np.where(known, truth, -1), LABELS)
        row = np.arange(start, stop)
        return JetBlock(row, np.zeros(row.size, np.int64), jets, label, reason)

    def _table(self, handle: Any) -> Any:
        key = f"{self.options.key}/table"
        table = hdf5.dataset(handle, key, 1, kinds="V")
        for name, kinds in ((FLOATS, "f"), (INTEGERS, "iu")):
            if name not in (table.dtype.names or ()):
                raise BadFileError("missing_key", f"{key}: no field {name!r}; found {table.dtype.names}")
            if table.dtype[name].base.kind not in kinds:
                raise BadFileError("wrong_dtype", f"{key}: field {name!r} holds {table.dtype[name].base}")
        shape, flags = table.dtype[FLOATS].shape, table.dtype[INTEGERS].shape
        if len(shape) != 1 or shape[0] % COMPONENTS or shape[0] < 2 * COMPONENTS or len(flags) != 1:
            raise BadFileError(
                "wrong_shape",
                f"{key}: {FLOATS} {shape}, {INTEGERS} {flags}; expected four numbers a particle",
            )
        return table
