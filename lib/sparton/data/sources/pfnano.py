"""CMS PFNano (NanoAOD with particle-flow candidates): ROOT files with a tree of events.

``FatJetPFCands_jetIdx`` and ``_pFCandsIdx`` say which candidate belongs to which jet. Momenta are multiplied by the
PUPPI weight; the jets' own values carry energy corrections on top, so constituents do not sum to them.
"""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from sparton.config import Config
from sparton.data.sources import root
from sparton.data.sources.block import (
    BadFileError,
    Extent,
    JetBlock,
    Source,
    build_jets,
    four_momenta,
    no_reasons,
    numbers,
)
from sparton.physics import kinematics


class PfNanoOptions(Config):
    """Options of the format ``pfnano``.

    Attributes
    ----------
    tree
        Name of the tree.
    jets
        Collection of jets.
    links
        Collection that links jets to candidates.
    candidates
        Collection of candidates.
    puppi
        Multiply the candidates' momenta by their PUPPI weights.
    jet_columns
        Further numbers of the jets to keep, without the collection's name, such as ``msoftdrop`` or ``tau1``.
    """

    tree: str = Field(default="Events", min_length=1)
    jets: str = Field(default="FatJet", min_length=1)
    links: str = Field(default="FatJetPFCands", min_length=1)
    candidates: str = Field(default="PFCands", min_length=1)
    puppi: bool = True
    jet_columns: tuple[str, ...] = ()


@dataclass(frozen=True)
class PfNano(Source):
    """Reader of the format ``pfnano``; a row is an event with several jets."""

    options: PfNanoOptions
    name: ClassVar[str] = "pfnano"
    suffixes: ClassVar[tuple[str, ...]] = root.SUFFIXES
    errors: ClassVar[tuple[type[Exception], ...]] = root.ERRORS
    several: ClassVar[bool] = True
    decisive: ClassVar[tuple[str, ...]] = ("jets", "puppi")

    @property
    def extra_columns(self) -> tuple[str, ...]:
        """Names of the further columns."""
        return self.options.jet_columns

    def open(self, path: str) -> AbstractContextManager[Any]:
        """Open the tree of a ROOT file."""
        return root.open_tree(path, self.options.tree)

    def extent(self, handle: Any) -> Extent:
        """Check the branches; the rows are the events."""
        return root.extent(handle, self._branches(), ())

    def read(self, handle: Any, start: int, stop: int) -> JetBlock:
        """Return the jets of some events."""
        table = root.read(handle, self._branches(), start, stop)
        lists = {name: root.flat(table[name]) for name in self._branches()}
        jets = f"{self.options.jets}_"
        per_event = lists[f"{jets}pt"][1]
        first_jet = kinematics.offsets_from_counts(per_event)
        jet, candidate = self._links(lists, first_jet)
        momenta, codes = self._momenta(lists, candidate)
        # The weights change the order by pT, so it is made here and is no repair.
        order = np.lexsort((-kinematics.transverse_momentum(momenta[0], momenta[1]), jet))
        momenta, codes = [component[order] for component in momenta], codes[order]
        offsets = kinematics.offsets_from_counts(np.bincount(jet, minlength=int(first_jet[-1])))
        given = {f"jet_{name}": lists[f"{jets}{name}"][0] for name in ("pt", "eta", "phi", "mass")}
        count = int(first_jet[-1])
        return JetBlock(
            row=start + kinematics.owners(first_jet),
            place=np.arange(count) - np.repeat(first_jet[:-1], per_event),
            jets=build_jets(momenta, offsets, given, codes),
            label=pa.nulls(count, pa.string()),
            reason=no_reasons(count),
            extras={name: numbers(lists[f"{jets}{name}"][0]) for name in self.extra_columns},
        )

    def _links(
        self, lists: dict[str, tuple[NDArray[Any], NDArray[np.int64]]], first_jet: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return for each link the jet and the candidate that it joins, counted over all events of the block."""
        local_jet, per_event = lists[f"{self.options.links}_jetIdx"]
        local_candidate, other = lists[f"{self.options.links}_pFCandsIdx"]
        counts = lists[f"{self.options.candidates}_pt"][1]
        if not np.array_equal(per_event, other):
            raise BadFileError("wrong_shape", f"{self.options.links}: as many jets as candidates are expected")
        event = np.repeat(np.arange(per_event.size), per_event)
        linked = local_jet >= 0
        event, local_jet, local_candidate = event[linked], local_jet[linked], local_candidate[linked]
        if (
            (local_jet >= np.diff(first_jet)[event]) | (local_candidate < 0) | (local_candidate >= counts[event])
        ).any():
            raise BadFileError("wrong_shape", f"{self.options.links}: an index points to no jet or no candidate")
        first_candidate = kinematics.offsets_from_counts(counts)
        return first_jet[event] + local_jet, first_candidate[event] + local_candidate

    def _momenta(
        self, lists: dict[str, tuple[NDArray[Any], NDArray[np.int64]]], index: NDArray[np.int64]
    ) -> tuple[list[NDArray[np.float32]], NDArray[np.int32]]:
        """Return the four-momenta and codes of candidates."""
        prefix = f"{self.options.candidates}_"
        names = ("pt", "eta", "phi", "mass", "pdgId")
        pt, eta, phi, mass, code = (lists[f"{prefix}{name}"][0][index] for name in names)
        weight = lists[f"{prefix}puppiWeight"][0][index] if self.options.puppi else np.float32(1)
        return four_momenta(pt * weight, eta, phi, mass * weight), code.astype(np.int32)

    def _branches(self) -> tuple[str, ...]:
        options = self.options
        jets = dict.fromkeys(("pt", "eta", "phi", "mass", *options.jet_columns))
        candidates = ("pt", "eta", "phi", "mass", "pdgId", *(("puppiWeight",) if options.puppi else ()))
        return (
            *(f"{options.jets}_{name}" for name in jets),
            *(f"{options.links}_{name}" for name in ("jetIdx", "pFCandsIdx")),
            *(f"{options.candidates}_{name}" for name in candidates),
        )
