"""From Arrow batches of the jets table to jagged arrays of sound jets, with a count of what was wrong.

A row is rejected for the first reason of :data:`REASONS` that holds. Constituents without transverse momentum are
dropped, the order by falling pT is restored and phi is moved into [-pi, pi); all are counted. No step loops over rows.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sparton.data.encoder import Rejected
from sparton.data.schema import require_columns
from sparton.physics import kinematics
from sparton.physics.jets import Jets

Mask = NDArray[np.bool_]

MOMENTA = ("px", "py", "pz", "energy")
JET_VALUES = ("jet_pt", "jet_eta", "jet_phi", "jet_mass")
REQUIRED = ("jet_id", *JET_VALUES, *MOMENTA, "label")
"""The columns of the jets table that featurising reads."""

REASONS = (
    "null",
    "unequal_lengths",
    "not_finite",
    "negative_energy",
    "no_constituents",
    "no_jet_pt",
    "negative_mass",
)
"""Why a row is rejected: a null in a required column (labels may be null), lists of unequal length, NaN or infinity,
an energy below zero, no constituent with transverse momentum, a jet whose transverse momentum is not above zero, a jet
whose mass is below zero."""


@dataclass(frozen=True)
class JetRows:
    """Sound jets with what identifies them: ``jet_id`` int64[n], ``label`` string array [n] (nullable), ``jets``."""

    jet_id: NDArray[np.int64]
    label: pa.Array
    jets: Jets

    def __len__(self) -> int:
        return self.jet_id.size

    def take(self, rows: NDArray[np.int64]) -> JetRows:
        """Return the jets at these indices, in that order."""
        return JetRows(self.jet_id[rows], self.label.take(pa.array(rows)), self.jets.take(rows))

    def select(self, mask: Mask) -> JetRows:
        """Return the jets where ``mask`` is true."""
        return self if mask.all() else self.take(np.flatnonzero(mask))


@dataclass(frozen=True)
class Screened:
    """The sound rows of a batch, their positions ``index`` int64[n] in it, and the ``refused`` ones.

    ``dropped`` int64[n] counts the constituents without transverse momentum per jet, ``reordered`` bool[n] tells
    whose constituents had to be sorted, ``wrapped`` bool[n] whose phi lay outside [-pi, pi).
    """

    rows: JetRows
    index: NDArray[np.int64]
    refused: Rejected
    dropped: NDArray[np.int64]
    reordered: Mask
    wrapped: Mask

    @property
    def rejected(self) -> Counter[str]:
        """Rejected rows by reason."""
        return self.refused.counts()


def screen(batch: pa.RecordBatch | pa.Table) -> Screened:
    """Return the sound jets of a batch of the jets table.

    Raises
    ------
    DataError
        If a column is missing.
    """
    require_columns(batch.schema.names, REQUIRED, "jets table")
    complete = ~_any_null(batch)
    even = complete & _even_lengths(batch)
    refused = [
        Rejected.because("null", np.flatnonzero(~complete), "a required column is null"),
        Rejected.because("unequal_lengths", np.flatnonzero(complete & ~even), "px, py, pz, energy differ in length"),
    ]
    index = np.flatnonzero(even)
    rows = _unchecked(batch if even.all() else batch.filter(pa.array(even)))
    for reason, detail, is_bad in (
        ("not_finite", "NaN or infinity in a required column", _not_finite),
        ("negative_energy", "the energy of a constituent is below 0", _negative_energy),
    ):
        bad = is_bad(rows.jets)
        refused.append(Rejected.because(reason, index[bad], detail))
        rows, index = rows.select(~bad), index[~bad]
    rows, dropped = _without_empty_slots(rows)
    for reason, detail, is_bad in (
        ("no_constituents", "no constituent has transverse momentum", _empty),
        ("no_jet_pt", "jet_pt is not above 0", _without_pt),
        ("negative_mass", "jet_mass is below 0", _negative_mass),
    ):
        bad = is_bad(rows.jets)
        refused.append(Rejected.because(reason, index[bad], detail))
        rows, index, dropped = rows.select(~bad), index[~bad], dropped[~bad]
    rows, reordered = _by_falling_pt(rows)
    rows, wrapped = _with_phi_in_range(rows)
    return Screened(rows, index, Rejected.join(refused), dropped, reordered, wrapped)


def jets_from_batch(batch: pa.RecordBatch | pa.Table) -> Jets:
    """Return the sound jets of a batch of the jets table as jagged arrays; see :func:`screen` for what is left out.

    ``event_index`` is the column event_id; it and ``pdg_id`` are 0 where the batch lacks the column.
    """
    return screen(batch).rows.jets


def _any_null(batch: pa.RecordBatch | pa.Table) -> Mask:
    missing = np.zeros(batch.num_rows, bool)
    for name in REQUIRED:
        column = _column(batch, name)
        if name != "label" and column.null_count:
            missing |= column.is_null().to_numpy(zero_copy_only=False)
    return missing


def _even_lengths(batch: pa.RecordBatch | pa.Table) -> Mask:
    lengths = [_lengths(_column(batch, name)) for name in MOMENTA]
    return np.logical_and.reduce([lengths[0] == other for other in lengths[1:]])


def _lengths(column: pa.Array) -> NDArray[np.int64]:
    filled = pc.fill_null(pc.list_value_length(column), 0)
    return filled.to_numpy(zero_copy_only=False).astype(np.int64)


def _column(batch: pa.RecordBatch | pa.Table, name: str) -> pa.Array:
    column = batch.column(batch.schema.get_field_index(name))
    if isinstance(column, pa.ChunkedArray):
        return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()
    return column


def _unchecked(batch: pa.RecordBatch | pa.Table) -> JetRows:
    """Return the rows of a batch that has no nulls and lists of equal lengths."""
    offsets = kinematics.offsets_from_counts(_lengths(_column(batch, MOMENTA[0])))
    values = {name: _floats(_column(batch, name)) for name in JET_VALUES}
    values |= {name: _floats(_column(batch, name).flatten()) for name in MOMENTA}
    jets = Jets(event_index=_event_index(batch), pdg_id=_pdg_id(batch, offsets), offsets=offsets, **values)
    jet_id = _column(batch, "jet_id").to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    return JetRows(jet_id, _column(batch, "label").cast(pa.string()), jets)


def _event_index(batch: pa.RecordBatch | pa.Table) -> NDArray[np.int64]:
    """Return the column event_id, zeros where the table has none."""
    if "event_id" not in batch.schema.names:
        return np.zeros(batch.num_rows, np.int64)
    return pc.fill_null(_column(batch, "event_id"), 0).to_numpy(zero_copy_only=False).astype(np.int64, copy=False)


def _pdg_id(batch: pa.RecordBatch | pa.Table, offsets: NDArray[np.int64]) -> NDArray[np.int32]:
    """Return the column pdg_id, zeros (unknown) for jets that have none or not one for each constituent."""
    codes = np.zeros(int(offsets[-1]), np.int32)
    if "pdg_id" not in batch.schema.names:
        return codes
    column = _column(batch, "pdg_id")
    lengths = _lengths(column)
    complete = np.flatnonzero(lengths == np.diff(offsets))
    source, _ = kinematics.take_rows(kinematics.offsets_from_counts(lengths), complete)
    target, _ = kinematics.take_rows(offsets, complete)
    codes[target] = pc.fill_null(column.flatten(), 0).to_numpy(zero_copy_only=False)[source]
    return codes


def _floats(column: pa.Array) -> NDArray[np.float32]:
    """Return values as float32; a null among them becomes NaN."""
    return column.to_numpy(zero_copy_only=False).astype(np.float32, copy=False)


def _not_finite(jets: Jets) -> Mask:
    bad = np.zeros(len(jets), bool)
    for name in JET_VALUES:
        bad |= ~np.isfinite(getattr(jets, name))
    flat = np.zeros(jets.px.size, bool)
    for name in MOMENTA:
        flat |= ~np.isfinite(getattr(jets, name))
    return bad | _any(flat, jets)


def _negative_energy(jets: Jets) -> Mask:
    return _any(jets.energy < 0, jets)


def _empty(jets: Jets) -> Mask:
    return jets.n_constituents == 0


def _without_pt(jets: Jets) -> Mask:
    return jets.jet_pt <= 0


def _negative_mass(jets: Jets) -> Mask:
    return jets.jet_mass < 0


def _any(flat: Mask, jets: Jets) -> Mask:
    """Tell for each jet whether the flag of any constituent is set."""
    if not flat.any():
        return np.zeros(len(jets), bool)
    return kinematics.segment_sum(flat, jets.offsets) > 0


def _without_empty_slots(rows: JetRows) -> tuple[JetRows, NDArray[np.int64]]:
    """Drop constituents without transverse momentum: padding of fixed-size formats. Returns how many per jet."""
    jets = rows.jets
    real = _moving(jets)
    if real.all():
        return rows, np.zeros(len(rows), np.int64)
    counts = kinematics.segment_sum(real, jets.offsets).astype(np.int64)
    dropped = np.diff(jets.offsets) - counts
    return replace(rows, jets=_constituents(jets, real, kinematics.offsets_from_counts(counts))), dropped


def _by_falling_pt(rows: JetRows) -> tuple[JetRows, Mask]:
    """Sort the constituents of those jets that are not in order, equal ones as they came."""
    jets = rows.jets
    pt = kinematics.transverse_momentum(jets.px, jets.py)
    owner = kinematics.owners(jets.offsets)
    rising = np.zeros(pt.size, bool)
    rising[1:] = (pt[1:] > pt[:-1]) & (owner[1:] == owner[:-1])
    if not rising.any():
        return rows, np.zeros(len(rows), bool)
    ordered = _constituents(jets, np.lexsort((-pt, owner)), jets.offsets)
    return replace(rows, jets=ordered), _any(rising, jets)


def _with_phi_in_range(rows: JetRows) -> tuple[JetRows, Mask]:
    """Move phi into [-pi, pi) by whole turns; tells whose was outside."""
    phi = rows.jets.jet_phi.astype(np.float64)
    outside = (phi < -np.pi) | (phi >= np.pi)
    if not outside.any():
        return rows, outside
    moved = np.where(outside, kinematics.phi_to_float32(phi), rows.jets.jet_phi)
    return replace(rows, jets=replace(rows.jets, jet_phi=moved)), outside


def _constituents(jets: Jets, index: Mask | NDArray[np.int64], offsets: NDArray[np.int64]) -> Jets:
    """Return jets with the constituents at ``index`` (mask or indices) and these limits."""
    columns = {name: getattr(jets, name)[index] for name in (*MOMENTA, "pdg_id")}
    return replace(jets, offsets=offsets, **columns)


def examine(jets: Jets) -> NDArray[np.str_]:
    """Return why each jet would be rejected, the first of :data:`REASONS` that holds; empty for a sound one, str[n]."""
    tested = (
        ("not_finite", _not_finite(jets)),
        ("negative_energy", _negative_energy(jets)),
        ("no_constituents", _without_momentum(jets)),
        ("no_jet_pt", _without_pt(jets)),
        ("negative_mass", _negative_mass(jets)),
    )
    reason = np.zeros(len(jets), "U24")
    for name, bad in reversed(tested):
        reason[bad] = name
    return reason


def repair(rows: JetRows) -> tuple[JetRows, NDArray[np.int64], Mask]:
    """Drop constituents without transverse momentum and restore the order by falling pT.

    Returns
    -------
    tuple
        The rows, the number of constituents dropped int64[n], and whose had to be sorted bool[n].
    """
    filled, dropped = _without_empty_slots(rows)
    ordered, reordered = _by_falling_pt(filled)
    return ordered, dropped, reordered


def _without_momentum(jets: Jets) -> Mask:
    real = _moving(jets)
    return _empty(jets) if real.all() else kinematics.segment_sum(real, jets.offsets) == 0


def _moving(jets: Jets) -> Mask:
    """Return which constituents have transverse momentum."""
    return (jets.px != 0) | (jets.py != 0)
