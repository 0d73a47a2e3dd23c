"""LHC Olympics 2020 (Zenodo 2629073 and the black boxes): HDF5 as pandas writes a frame of fixed format.

A row is an event: (pT, eta, phi) of 700 massless particles in no order, zero on padding, and in the R&D set a last
column with the truth. The black boxes have no such column; their truth came later as a text file, ``.masterkey``.
Each event is clustered with anti-kT.
"""

from __future__ import annotations

import contextlib
import itertools
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray
from pydantic import Field

from sparton import storage
from sparton.config import Config
from sparton.data.sources import hdf5
from sparton.data.sources.block import (
    BadFileError,
    Extent,
    JetBlock,
    Source,
    empty_jets,
    four_momenta,
    labels_from_codes,
    no_reasons,
)
from sparton.physics import kinematics
from sparton.physics.clustering import cluster
from sparton.physics.events import Events
from sparton.physics.jets import Jets

VALUES = 3  # pT, eta, phi
LABELS = ("background", "signal")
PAIR = 2


class LhcoOptions(Config):
    """Options of the format ``lhco``.

    Attributes
    ----------
    key
        Path of the array in the file.
    masterkey
        Text file with 0 or 1 for each event; None: the file's own path with the ending ``.masterkey``, if there is one.
    radius, pt_min
        Radius of the anti-kT jets, and their least pT in GeV.
    jets
        ``two_heaviest`` keeps two jets of each event and rejects events with fewer; ``all`` keeps every jet.
    mass_min
        Jets below this mass (GeV) are not kept.
    """

    key: str = Field(default="df/block0_values", min_length=1)
    masterkey: str | None = None
    radius: float = Field(default=1.0, gt=0)
    pt_min: float = Field(default=20.0, ge=0)
    jets: Literal["two_heaviest", "all"] = "two_heaviest"
    mass_min: float = Field(default=0.0, ge=0)


@dataclass(frozen=True)
class _Handle:
    file: Any
    truth: NDArray[np.float64] | None


@dataclass(frozen=True)
class Lhco(Source):
    """Reader of the format ``lhco``; a row is an event with several jets, in the order of falling mass."""

    options: LhcoOptions
    name: ClassVar[str] = "lhco"
    suffixes: ClassVar[tuple[str, ...]] = hdf5.SUFFIXES
    errors: ClassVar[tuple[type[Exception], ...]] = hdf5.ERRORS
    several: ClassVar[bool] = True
    decisive: ClassVar[tuple[str, ...]] = ("radius", "pt_min", "jets", "mass_min")

    def beside(self, path: str) -> tuple[str, ...]:
        """Return the key of a file, if it has one."""
        if self.options.masterkey is not None:
            return (self.options.masterkey,)
        name = path.rpartition(".")[0]
        found = (key for key in (f"{name}.masterkey", f"{name}.MASTERKEY") if storage.exists(key))
        return tuple(itertools.islice(found, 1))

    def open(self, path: str) -> AbstractContextManager[_Handle]:
        """Open an HDF5 file and its key."""
        return self._open(path)

    @contextlib.contextmanager
    def _open(self, path: str) -> Iterator[_Handle]:
        key = next(iter(self.beside(path)), None)
        truth = None if key is None else np.array(storage.read_text(key).split(), np.float64)
        with hdf5.open_hdf5(path) as file:
            yield _Handle(file, truth)

    def extent(self, handle: _Handle) -> Extent:
        """Check shape and type; the rows are the events."""
        values = self._values(handle)
        return Extent(len(values), hdf5.chunk_rows(values), values.shape[1] * values.dtype.itemsize)

    def read(self, handle: _Handle, start: int, stop: int) -> JetBlock:
        """Cluster some events and return their jets; an event without them is one rejected jet."""
        values = self._values(handle)[start:stop]
        slots = values.shape[1] // VALUES
        pt, eta, phi = np.moveaxis(values[:, : slots * VALUES].reshape(len(values), slots, VALUES), 2, 0)
        reason = _event_reasons(pt, eta, phi)
        used = (pt != 0) & (reason == "")[:, None]
        px, py, pz, energy = four_momenta(pt[used], eta[used], phi[used])
        offsets = kinematics.offsets_from_counts(np.count_nonzero(used, axis=1))
        events = Events(px, py, pz, energy, np.zeros(int(offsets[-1]), np.int32), offsets)
        jets, place = self._select(cluster(events, self.options.radius, self.options.pt_min))
        found = np.bincount(jets.event_index, minlength=len(values))
        enough = PAIR if self.options.jets == "two_heaviest" else 1
        reason = np.where((reason == "") & (found < enough), "too_few_jets", reason)
        complete = reason[jets.event_index] == ""
        outside = np.count_nonzero(((np.abs(phi) > np.pi) & used).any(axis=1))
        truth = self._truth(handle, values, start)
        return _block(jets.take(complete), place[complete], start, reason, truth, int(outside))

    def _values(self, handle: _Handle) -> Any:
        values = hdf5.dataset(handle.file, self.options.key, 2)
        if values.shape[1] < VALUES or values.shape[1] % VALUES > 1:
            raise BadFileError(
                "wrong_shape", f"{self.options.key} {values.shape}: expected pT, eta, phi of each particle, then truth"
            )
        if handle.truth is not None and handle.truth.size != len(values):
            raise BadFileError("wrong_shape", f"the key has {handle.truth.size} entries for {len(values)} events")
        return values

    def _truth(self, handle: _Handle, values: NDArray[Any], start: int) -> NDArray[np.float64]:
        """Return what is told of each event: NaN where nothing is, infinity where it is no number."""
        if handle.truth is None and not values.shape[1] % VALUES:
            return np.full(len(values), np.nan)
        told = values[:, -1] if handle.truth is None else handle.truth[start : start + len(values)]
        return np.where(np.isnan(told), np.inf, told)

    def _select(self, jets: Jets) -> tuple[Jets, NDArray[np.int64]]:
        """Return the jets to keep by event and falling mass, and their places in the events."""
        jets = jets.take(jets.jet_mass >= self.options.mass_min)
        jets = jets.take(np.lexsort((-jets.jet_mass, jets.event_index)))
        place = np.arange(len(jets)) - np.searchsorted(jets.event_index, jets.event_index)
        if self.options.jets == "all":
            return jets, place
        return jets.take(place < PAIR), place[place < PAIR]


def _event_reasons(pt: NDArray[Any], eta: NDArray[Any], phi: NDArray[Any]) -> NDArray[np.str_]:
    reason = no_reasons(len(pt))
    reason[(pt < 0).any(axis=1)] = "negative_energy"
    reason[~(np.isfinite(pt) & np.isfinite(eta) & np.isfinite(phi)).all(axis=1)] = "not_finite"
    return reason


def _block(
    jets: Jets,
    place: NDArray[np.int64],
    start: int,
    reason: NDArray[np.str_],
    truth: NDArray[np.float64],
    outside: int,
) -> JetBlock:
    """Return the jets of sound events and, for each rejected one, an empty jet with the reason."""
    lost = np.flatnonzero(reason != "")
    event = np.concatenate([jets.event_index, lost])
    known = np.isin(truth, (0.0, 1.0))
    reason = np.where((reason == "") & ~known & ~np.isnan(truth), "unknown_label", reason)
    codes = np.where(known, truth, -1).astype(np.int64)
    label: pa.Array = labels_from_codes(codes[event], LABELS)
    return JetBlock(
        row=start + event,
        place=np.concatenate([place, np.zeros(lost.size, np.int64)]),
        jets=Jets.concatenate([jets, empty_jets(lost.size)]),
        label=label,
        reason=reason[event],
        wrapped=outside,
        of_rows=len(reason),
    )
