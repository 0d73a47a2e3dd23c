"""Flat Parquet, as written from Delphes and similar programs: one row a jet, the constituents in list columns."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field, model_validator

from sparton.config import Config
from sparton.data.screening import JET_VALUES
from sparton.data.sources import columns
from sparton.data.sources.block import Extent, JetBlock, Source, align, build_jets, four_momenta, no_reasons, numbers


class FlatOptions(Config):
    """Options of the format ``flat``: the names of the columns, None where there is none.

    Attributes
    ----------
    pt, eta, phi
        Lists: transverse momentum (GeV), pseudorapidity and azimuth of the constituents.
    mass, energy
        Lists, in GeV: one of them at most; without both the constituents are massless.
    pdg_id
        List of the constituents' codes.
    jet_pt, jet_eta, jet_phi, jet_mass
        Numbers of the jet; None takes those of the sum of its constituents.
    jet_id, event_id
        Whole numbers that identify jet and event; None makes them out of file and row.
    label
        Name or number of the jet's class.
    label_names
        The project's names for labels in the file.
    jet_columns
        Further jet-level numbers to keep.
    """

    pt: str = Field(default="constituent_pt", min_length=1)
    eta: str = Field(default="constituent_eta", min_length=1)
    phi: str = Field(default="constituent_phi", min_length=1)
    mass: str | None = None
    energy: str | None = None
    pdg_id: str | None = None
    jet_pt: str | None = None
    jet_eta: str | None = None
    jet_phi: str | None = None
    jet_mass: str | None = None
    jet_id: str | None = None
    event_id: str | None = None
    label: str | None = None
    label_names: dict[str, str] = Field(default_factory=dict)
    jet_columns: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _one_of_two(self) -> FlatOptions:
        if self.mass and self.energy:
            raise ValueError("mass and energy are both given; one of them follows from the other")
        return self

    def lists(self) -> dict[str, str]:
        """Return the list columns by what they hold."""
        return self._named("pt", "eta", "phi", "mass", "energy", "pdg_id")

    def numbers(self) -> dict[str, str]:
        """Return the columns of single numbers by what they hold."""
        return self._named("jet_pt", "jet_eta", "jet_phi", "jet_mass", "jet_id", "event_id")

    def identifiers(self) -> dict[str, str]:
        """Return those of them that hold identifiers."""
        return self._named("jet_id", "event_id")

    def _named(self, *keys: str) -> dict[str, str]:
        return {key: getattr(self, key) for key in keys if getattr(self, key)}


@dataclass(frozen=True)
class Flat(Source):
    """Reader of the format ``flat``; a row is a jet."""

    options: FlatOptions
    name: ClassVar[str] = "flat"
    suffixes: ClassVar[tuple[str, ...]] = columns.SUFFIXES
    errors: ClassVar[tuple[type[Exception], ...]] = columns.ERRORS

    @property
    def gives_ids(self) -> bool:
        """Whether the options name a column of identifiers."""
        return self.options.jet_id is not None

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Names of the further columns."""
        return self.options.jet_columns

    def open(self, path: str) -> AbstractContextManager[Any]:
        """Open a Parquet file."""
        return columns.open_parquet(path)

    def extent(self, handle: Any) -> Extent:
        """Check the columns; the rows are the jets."""
        whole = list(self.options.identifiers().values())
        scalars = [name for name in self.options.numbers().values() if name not in whole]
        lists = list(self.options.lists().values())
        return columns.extent(handle, lists, [*scalars, *self.extra_columns], self._texts(), whole)

    def blocks(self, handle: Any, start: int, stop: int) -> Iterator[JetBlock]:
        """Yield the jets of some rows."""
        for first, batch in columns.batches(handle, self._columns(), start, stop):
            yield self._block(batch, first)

    def read(self, handle: Any, start: int, stop: int) -> JetBlock:
        """Return the jets of rows that fit into one batch."""
        return next(iter(self.blocks(handle, start, stop)))

    def _block(self, batch: pa.RecordBatch, first: int) -> JetBlock:
        options = self.options
        names = options.lists()
        flat, offsets, uneven = align([columns.flat(batch, name) for name in names.values()])
        lists = dict(zip(names, flat, strict=True))
        momenta = four_momenta(lists["pt"], lists["eta"], lists["phi"], lists.get("mass"), lists.get("energy"))
        named = options.numbers()
        given = {key: columns.scalar(batch, named[key]) for key in JET_VALUES if key in named}
        codes = np.nan_to_num(lists["pdg_id"]).astype(np.int32) if "pdg_id" in lists else None
        reason = _reasons(uneven, columns.any_null(batch, [*names.values(), *named.values(), *self.extra_columns]))
        outside = np.abs(lists["phi"]) > np.pi
        row = np.arange(first, first + batch.num_rows)
        return JetBlock(
            row=row,
            place=np.zeros(row.size, np.int64),
            jets=build_jets(momenta, offsets, given, codes),
            label=self._label(batch),
            reason=_negative(lists["pt"], offsets, reason),
            jet_id=None if options.jet_id is None else columns.integers(batch, options.jet_id),
            event_id=None if options.event_id is None else columns.integers(batch, options.event_id),
            extras={name: numbers(columns.scalar(batch, name)) for name in self.extra_columns},
            wrapped=int(np.unique(np.searchsorted(offsets, np.flatnonzero(outside), side="right")).size),
        )

    def _label(self, batch: pa.RecordBatch) -> pa.Array:
        if self.options.label is None:
            return pa.nulls(batch.num_rows, pa.string())
        return columns.text(batch, self.options.label, self.options.label_names)

    def _texts(self) -> list[str]:
        return [self.options.label] if self.options.label else []

    def _columns(self) -> list[str]:
        options = self.options
        named = [*options.lists().values(), *options.numbers().values(), *self.extra_columns, *self._texts()]
        return list(dict.fromkeys(named))


def _reasons(uneven: NDArray[np.bool_], null: NDArray[np.bool_]) -> NDArray[np.str_]:
    reason = no_reasons(uneven.size)
    reason[uneven] = "unequal_lengths"
    reason[null] = "null"
    return reason


def _negative(pt: NDArray[Any], offsets: NDArray[np.int64], reason: NDArray[np.str_]) -> NDArray[np.str_]:
    """Mark jets with a constituent of negative transverse momentum, which px and py would not show."""
    bad = np.unique(np.searchsorted(offsets, np.flatnonzero(pt < 0), side="right") - 1)
    reason[bad[reason[bad] == ""]] = "negative_energy"
    return reason
