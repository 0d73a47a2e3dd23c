"""Blocks of a reader to rows of the jets table and of the quarantine."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from sparton.data.quarantine import rejected_rows
from sparton.data.schema import JETS_ARROW
from sparton.data.screening import JET_VALUES, MOMENTA, JetRows, examine, repair
from sparton.data.sources.block import JetBlock
from sparton.data.sources.identity import PLACE_BITS, identifiers
from sparton.physics import kinematics
from sparton.physics.jets import Jets

REPAIRS = ("reordered_jets", "wrapped_phi", "dropped_constituents")
"""What is mended and counted: order of constituents, angles of jets, constituents without transverse momentum."""


DETAILS = {
    "null": "a required value is null",
    "unequal_lengths": "the lists of constituents differ in length",
    "not_finite": "NaN or infinity",
    "negative_energy": "a value below 0",
    "no_constituents": "no constituent has transverse momentum",
    "no_jet_pt": "jet_pt is not above 0",
    "negative_mass": "jet_mass is below 0",
    "bad_index": "a link of the jet points to no candidate, or one of the event to no jet",
    "unknown_label": "more than one label, or none of those known",
    "too_few_jets": "the event has fewer jets than are kept of each",
    "too_many_jets": f"a row has more than {1 << PLACE_BITS} jets",
}
"""What is said of a rejected row where no value of it says more."""


@dataclass(frozen=True)
class Origin:
    """Where jets come from: the file, its SHA-256 (hex), the bits of their ids, whether a row may hold several."""

    file: str
    sha256: str
    bits: int
    several: bool
    source: str


@dataclass(frozen=True)
class Sorted:
    """The good rows as a batch of the jets table, the others as a batch of the quarantine, and what was mended.

    ``row`` int64: the row of the file that each good jet comes from.
    """

    good: pa.RecordBatch
    row: NDArray[np.int64]
    rejected: pa.RecordBatch
    reasons: Counter[str]
    repairs: Counter[str]


def table_schema(extra_columns: tuple[str, ...]) -> pa.Schema:
    """Return the schema of a jets table with further jet-level numbers."""
    schema = JETS_ARROW
    for name in extra_columns:
        schema = schema.append(pa.field(name, pa.float32()))
    return schema


def sort_out(block: JetBlock, origin: Origin, labels: tuple[str, ...] | None) -> Sorted:
    """Separate the jets of a block into good and rejected ones; mend what can be mended.

    Parameters
    ----------
    block
        As read.
    origin
        Where it was read.
    labels
        Labels that are known; None: any. A jet without label is always good.
    """
    jets, wrapped = _wrap(block.jets)
    own_id, own_event = identifiers(origin.bits, block.row, block.place, origin.several)
    jet_id = own_id if block.jet_id is None else block.jet_id
    event_id = own_event if block.event_id is None else block.event_id
    reason = _reasons(block, jets, labels)
    good = reason == ""
    chosen = np.flatnonzero(good)
    kept = jets if good.all() else jets.take(chosen)
    kept = replace(kept, event_index=event_id[chosen])
    label = block.label if good.all() else block.label.take(pa.array(chosen))
    rows, dropped, reordered = repair(JetRows(jet_id[chosen], label, kept))
    repairs = Counter(
        reordered_jets=int(np.count_nonzero(reordered)),
        wrapped_phi=block.wrapped + int(np.count_nonzero(wrapped & good)),
        dropped_constituents=int(dropped.sum()),
    )
    extras = {name: values[chosen] for name, values in block.extras.items()}
    bad = np.flatnonzero(~good)
    detail = _details(block, jets.take(bad), bad, reason[bad])
    return Sorted(
        _batch(rows, extras, _source(block, origin, chosen)),
        block.row[chosen],
        rejected_rows(origin.file, block.row[bad], reason[bad], detail, jet_id[bad], origin.sha256),
        Counter(reason[bad].tolist()),
        +repairs,
    )


def _reasons(block: JetBlock, jets: Jets, labels: tuple[str, ...] | None) -> NDArray[np.str_]:
    """Return why each jet is rejected, empty where it is good; what the reader found comes first."""
    found = examine(jets).astype(block.reason.dtype, copy=False)
    for values in block.extras.values():
        found = np.where((found == "") & ~np.isfinite(values), "not_finite", found)
    if labels is not None:
        known = pc.or_(pc.is_null(block.label), pc.is_in(block.label, value_set=pa.array(labels, pa.string())))
        found = np.where((found == "") & ~known.to_numpy(zero_copy_only=False), "unknown_label", found)
    found = np.where((found == "") & (block.place >= 1 << PLACE_BITS), "too_many_jets", found)
    return np.where(block.reason == "", found, block.reason)


def _details(block: JetBlock, jets: Jets, bad: NDArray[np.int64], reason: NDArray[np.str_]) -> NDArray[np.object_]:
    """Return what was found in the jets at ``bad``: the first column that is not finite, the value, the label."""
    detail = np.full(reason.size, None, object)
    if not bad.size:
        return detail
    for name, text in DETAILS.items():
        detail[reason == name] = text
    for name, values in reversed(block.extras.items()):
        detail[(reason == "not_finite") & ~np.isfinite(values[bad])] = f"{name} is not finite"
    owner = kinematics.owners(jets.offsets)
    for name in reversed((*JET_VALUES, *MOMENTA)):
        wrong = ~np.isfinite(getattr(jets, name))
        if name in MOMENTA:
            wrong = np.isin(np.arange(reason.size), owner[wrong])
        detail[(reason == "not_finite") & wrong] = f"{name} is not finite"
    lowest = np.zeros(reason.size, np.float32)
    np.minimum.at(lowest, owner, np.where(jets.energy < 0, jets.energy, 0))
    for name, what, values, shown in (
        ("negative_energy", "energy", lowest, lowest < 0),
        ("no_jet_pt", "jet_pt", jets.jet_pt, jets.jet_pt <= 0),
        ("negative_mass", "jet_mass", jets.jet_mass, jets.jet_mass < 0),
    ):
        told = (reason == name) & shown
        detail[told] = np.char.mod(f"{what} %.6g", values[told])
    label = block.label.take(pa.array(bad))
    named = label.is_valid().to_numpy(zero_copy_only=False)
    unknown = (reason == "unknown_label") & (block.reason[bad] == "") & named
    detail[unknown] = [f"label {text!r}" for text in label.filter(pa.array(unknown)).to_pylist()]
    return detail


def _wrap(jets: Jets) -> tuple[Jets, NDArray[np.bool_]]:
    """Return jets with phi in [-pi, pi), and which ones lay outside; what is not finite stays."""
    phi = jets.jet_phi
    outside = np.isfinite(phi) & (np.abs(phi) > kinematics.LARGEST_PHI)
    if not outside.any():
        return jets, outside
    return replace(jets, jet_phi=np.where(outside, kinematics.phi_to_float32(np.where(outside, phi, 0)), phi)), outside


def _source(block: JetBlock, origin: Origin, chosen: NDArray[np.int64]) -> pa.Array:
    if block.source is None:
        return pa.repeat(origin.source, chosen.size)
    return block.source.take(pa.array(chosen)).fill_null(origin.source)


def _batch(rows: JetRows, extras: dict[str, NDArray[np.float32]], source: pa.Array) -> pa.RecordBatch:
    jets = rows.jets
    offsets = pa.array(jets.offsets.astype(np.int32))
    columns = {
        "jet_id": pa.array(rows.jet_id),
        "event_id": pa.array(jets.event_index),
        "n_constituents": pa.array(jets.n_constituents),
        "label": rows.label,
        "source": source,
    }
    columns |= {name: pa.array(getattr(jets, name)) for name in ("jet_pt", "jet_eta", "jet_phi", "jet_mass")}
    for name in ("px", "py", "pz", "energy", "pdg_id"):
        columns[name] = pa.ListArray.from_arrays(offsets, pa.array(getattr(jets, name)))
    columns |= {name: pa.array(values) for name, values in extras.items()}
    schema = table_schema(tuple(extras))
    return pa.RecordBatch.from_arrays([columns[name] for name in schema.names], schema=schema)


def exclude(found: Sorted, places: NDArray[np.int64], origin: Origin) -> Sorted:
    """Return the same with the good jets at ``places`` rejected, because others have their ``jet_id``."""
    if not places.size:
        return found
    kept = np.ones(found.good.num_rows, bool)
    kept[places] = False
    reason = np.full(places.size, "duplicate_jet_id")
    jet_id = found.good.column("jet_id").to_numpy()
    detail = "jet_id of another jet, which is kept"
    doubles = rejected_rows(origin.file, found.row[places], reason, detail, jet_id[places], origin.sha256)
    rejected = pa.Table.from_batches([found.rejected, doubles]).combine_chunks().to_batches()[0]
    reasons = found.reasons + Counter(duplicate_jet_id=places.size)
    return Sorted(found.good.filter(pa.array(kept)), found.row[kept], rejected, reasons, found.repairs)
