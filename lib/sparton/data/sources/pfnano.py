"""CMS PFNano (NanoAOD with particle-flow candidates): ROOT files with a tree of events.

``FatJetPFCands_jetIdx`` and ``_pFCandsIdx`` say which candidate belongs to which jet. Momenta are multiplied by the
PUPPI weight; the jets' own values carry energy corrections on top, so constituents do not sum to them.

A jet with a link to no candidate is rejected, and no other. Where a link points to no jet, any jet of the event may
lack it, and where the columns of a collection differ in length, nothing of the event can be matched: then all of its
jets are.
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
    Extent,
    JetBlock,
    Source,
    align,
    build_jets,
    empty_jets,
    four_momenta,
    no_reasons,
    numbers,
)
from sparton.physics import kinematics
from sparton.physics.jets import Jets

JET = ("pt", "eta", "phi", "mass")
LINK = ("jetIdx", "pFCandsIdx")
CANDIDATE = ("pt", "eta", "phi", "mass", "pdgId")


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
class _Collection:
    """Columns of some events, end to end, and the events' limits in them; ``uneven`` ones hold nothing."""

    columns: dict[str, NDArray[Any]]
    offsets: NDArray[np.int64]
    uneven: NDArray[np.bool_]

    @property
    def counts(self) -> NDArray[np.int64]:
        """Entries of each event."""
        return np.diff(self.offsets)


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
        """Return the jets of some events; an event that is lost without jets is one rejected jet."""
        table = root.read(handle, self._branches(), start, stop)
        jets, links, candidates = (self._collection(table, name, columns) for name, columns in self._columns().items())
        event = kinematics.owners(jets.offsets)
        lost = _lost_events(jets, links, candidates)
        reason = lost[event]
        jet, candidate, broken = _linked(jets, links, candidates, lost)
        reason[broken] = "bad_index"
        bare = np.flatnonzero((lost != "") & (jets.counts == 0))
        extras = {name: numbers(jets.columns[name]) for name in self.extra_columns}
        count = event.size + bare.size
        return JetBlock(
            row=start + np.concatenate([event, bare]),
            place=np.concatenate([np.arange(event.size) - jets.offsets[event], np.zeros(bare.size, np.int64)]),
            jets=Jets.concatenate([self._jets(jets, candidates, jet, candidate), empty_jets(bare.size)]),
            label=pa.nulls(count, pa.string()),
            reason=np.concatenate([reason, lost[bare]]),
            extras={name: np.append(values, np.zeros(bare.size, np.float32)) for name, values in extras.items()},
            of_rows=lost.size,
        )

    def _jets(
        self, jets: _Collection, candidates: _Collection, jet: NDArray[np.int64], candidate: NDArray[np.int64]
    ) -> Jets:
        """Return the jets with the candidates that are linked to them."""
        values = {name: column[candidate] for name, column in candidates.columns.items()}
        weight = values["puppiWeight"] if self.options.puppi else np.float32(1)
        momenta = four_momenta(values["pt"] * weight, values["eta"], values["phi"], values["mass"] * weight)
        # The weights change the order by pT, so it is made here and is no repair.
        order = np.lexsort((-kinematics.transverse_momentum(momenta[0], momenta[1]), jet))
        offsets = kinematics.offsets_from_counts(np.bincount(jet, minlength=int(jets.offsets[-1])))
        given = {f"jet_{name}": jets.columns[name] for name in JET}
        codes = values["pdgId"].astype(np.int32)[order]
        return build_jets([component[order] for component in momenta], offsets, given, codes)

    def _collection(self, table: Any, name: str, columns: tuple[str, ...]) -> _Collection:
        flat, offsets, uneven = align([root.flat(table[f"{name}_{column}"]) for column in columns])
        return _Collection(dict(zip(columns, flat, strict=True)), offsets, uneven)

    def _columns(self) -> dict[str, tuple[str, ...]]:
        """Return the columns that are read of the jets, the links and the candidates, by the collection's name."""
        options = self.options
        return {
            options.jets: tuple(dict.fromkeys((*JET, *options.jet_columns))),
            options.links: LINK,
            options.candidates: (*CANDIDATE, *(("puppiWeight",) if options.puppi else ())),
        }

    def _branches(self) -> tuple[str, ...]:
        return tuple(f"{name}_{column}" for name, columns in self._columns().items() for column in columns)


def _lost_events(jets: _Collection, links: _Collection, candidates: _Collection) -> NDArray[np.str_]:
    """Return why none of an event's jets can be used, str[events]; empty where they can."""
    reason = no_reasons(jets.counts.size)
    event = kinematics.owners(links.offsets)
    reason[event[links.columns["jetIdx"] >= jets.counts[event]]] = "bad_index"
    reason[jets.uneven | links.uneven | candidates.uneven] = "unequal_lengths"
    return reason


def _linked(
    jets: _Collection, links: _Collection, candidates: _Collection, lost: NDArray[np.str_]
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Return for each link of the other events its jet and candidate, counted over all events, and the broken jets."""
    event = kinematics.owners(links.offsets)
    used = (links.columns["jetIdx"] >= 0) & (lost[event] == "")
    event, local = event[used], links.columns["pFCandsIdx"][used]
    jet = jets.offsets[event] + links.columns["jetIdx"][used]
    there = (local >= 0) & (local < candidates.counts[event])
    return jet[there], (candidates.offsets[event] + local)[there], jet[~there]
