"""JetClass (Zenodo 6619768): ROOT files with a tree of jets, their particles as jagged branches and one-hot labels."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sparton.config import Config
from sparton.data.sources import root
from sparton.data.sources.block import (
    Extent,
    JetBlock,
    Source,
    align,
    build_jets,
    labels_from_codes,
    mass_of,
    no_reasons,
    numbers,
)

MOMENTA = ("part_px", "part_py", "part_pz", "part_energy")
KINDS = {
    "part_isChargedHadron": 211,
    "part_isNeutralHadron": 130,
    "part_isPhoton": 22,
    "part_isElectron": 11,
    "part_isMuon": 13,
}
"""Code of each kind of particle, for positive hadrons and negative leptons."""

JET = ("jet_pt", "jet_eta", "jet_phi", "jet_energy")
LABELS = {
    "label_QCD": "QCD",
    "label_Hbb": "Hbb",
    "label_Hcc": "Hcc",
    "label_Hgg": "Hgg",
    "label_H4q": "H4q",
    "label_Hqql": "Hqql",
    "label_Zqq": "Z",
    "label_Wqq": "W",
    "label_Tbqq": "t",
    "label_Tbl": "Tbl",
}


class JetClassOptions(Config):
    """Options of the format ``jetclass``.

    Attributes
    ----------
    tree
        Name of the tree.
    jet_columns
        Further jet-level branches to keep, such as ``jet_sdmass`` or ``jet_tau1``.
    """

    tree: str = Field(default="tree", min_length=1)
    jet_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class JetClass(Source):
    """Reader of the format ``jetclass``; a row is a jet."""

    options: JetClassOptions
    name: ClassVar[str] = "jetclass"
    suffixes: ClassVar[tuple[str, ...]] = root.SUFFIXES
    errors: ClassVar[tuple[type[Exception], ...]] = root.ERRORS

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Names of the further columns."""
        return self.options.jet_columns

    def open(self, path: str) -> AbstractContextManager[Any]:
        """Open the tree of a ROOT file."""
        return root.open_tree(path, self.options.tree)

    def extent(self, handle: Any) -> Extent:
        """Check the branches; the rows are the jets."""
        return root.extent(handle, self._lists(), self._scalars())

    def read(self, handle: Any, start: int, stop: int) -> JetBlock:
        """Return the jets of some rows; a particle's code is that of its kind and charge."""
        table = root.read(handle, [*self._lists(), *self._scalars()], start, stop)
        columns, offsets, uneven = align([root.flat(table[name]) for name in self._lists()])
        lists = dict(zip(self._lists(), columns, strict=True))
        pt, eta, phi, energy = (root.scalar(table[name]) for name in JET)
        given = {"jet_pt": pt, "jet_eta": eta, "jet_phi": phi, "jet_mass": mass_of(energy, pt, eta)}
        jets = build_jets([lists[name] for name in MOMENTA], offsets, given, _codes(lists))
        one_hot = np.stack([root.scalar(table[name]) for name in LABELS], axis=1)
        chosen = one_hot > 0
        count = np.count_nonzero(chosen, axis=1)
        reason = no_reasons(len(one_hot))
        reason[(count > 1) | ~np.isin(one_hot, (0, 1)).all(axis=1)] = "unknown_label"
        reason[uneven] = "unequal_lengths"
        label = labels_from_codes(np.where(count == 1, np.argmax(chosen, axis=1), -1), list(LABELS.values()))
        extras = {name: numbers(root.scalar(table[name])) for name in self.extra_columns}
        row = np.arange(start, start + len(one_hot))
        return JetBlock(row, np.zeros(row.size, np.int64), jets, label, reason, extras=extras)

    def _lists(self) -> tuple[str, ...]:
        return (*MOMENTA, "part_charge", *KINDS)

    def _scalars(self) -> tuple[str, ...]:
        return tuple(dict.fromkeys((*JET, *LABELS, *self.extra_columns)))


def _codes(lists: dict[str, NDArray[Any]]) -> NDArray[np.int32]:
    """Return the particles' codes, 0 where no kind is set; a lepton's sign is against its charge."""
    charge = np.nan_to_num(lists["part_charge"]).astype(np.int32)
    codes = np.zeros(charge.size, np.int32)
    for name, code in KINDS.items():
        sign = {211: charge, 11: -charge, 13: -charge}.get(code, 1)
        codes = np.where(lists[name] > 0, code * sign, codes)
    return codes.astype(np.int32)
