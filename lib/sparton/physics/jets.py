"""Jets with their constituents as jagged NumPy arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparton.errors import DataError
from sparton.physics import kinematics

JET_COLUMNS = ("event_index", "jet_pt", "jet_eta", "jet_phi", "jet_mass")
CONSTITUENT_COLUMNS = ("px", "py", "pz", "energy", "pdg_id")


@dataclass(frozen=True)
class Jets:
    """``n`` jets and their ``m`` constituents; those of a jet come by falling pT.

    Momenta, energies and masses are in GeV, angles in radians with phi in [-pi, pi). Jet ``i`` owns the constituents
    ``offsets[i]:offsets[i + 1]``.

    Raises
    ------
    DataError
        If the lengths of the arrays or the offsets disagree.
    """

    event_index: NDArray[np.int64]
    jet_pt: NDArray[np.float32]
    jet_eta: NDArray[np.float32]
    jet_phi: NDArray[np.float32]
    jet_mass: NDArray[np.float32]
    px: NDArray[np.float32]
    py: NDArray[np.float32]
    pz: NDArray[np.float32]
    energy: NDArray[np.float32]
    pdg_id: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __post_init__(self) -> None:
        _require_length(self, JET_COLUMNS, self.offsets.size - 1)
        _require_length(self, CONSTITUENT_COLUMNS, int(self.offsets[-1]))
        if self.offsets[0] != 0 or np.any(np.diff(self.offsets) < 0):
            raise DataError("offsets of jets must start at 0 and never fall")

    def __len__(self) -> int:
        return self.offsets.size - 1

    @property
    def n_constituents(self) -> NDArray[np.int32]:
        """Constituents per jet, int32[n]."""
        return np.diff(self.offsets).astype(np.int32)

    @classmethod
    def from_constituents(
        cls,
        event_index: NDArray[np.int64],
        px: NDArray[np.float32],
        py: NDArray[np.float32],
        pz: NDArray[np.float32],
        energy: NDArray[np.float32],
        pdg_id: NDArray[np.int32],
        offsets: NDArray[np.int64],
    ) -> Jets:
        """Build jets whose four-momenta are the float64 sums of their constituents (rounded to float32)."""
        order = np.lexsort((-kinematics.transverse_momentum(px, py), kinematics.owners(offsets)))
        px, py, pz, energy, pdg_id = px[order], py[order], pz[order], energy[order], pdg_id[order]
        total_px, total_py, total_pz, total_energy = (
            kinematics.segment_sum(component, offsets) for component in (px, py, pz, energy)
        )
        return cls(
            event_index=event_index,
            jet_pt=kinematics.transverse_momentum(total_px, total_py).astype(np.float32),
            jet_eta=kinematics.pseudorapidity(total_px, total_py, total_pz).astype(np.float32),
            jet_phi=kinematics.phi_to_float32(kinematics.azimuth(total_px, total_py)),
            jet_mass=kinematics.invariant_mass(total_px, total_py, total_pz, total_energy).astype(np.float32),
            px=px,
            py=py,
            pz=pz,
            energy=energy,
            pdg_id=pdg_id,
            offsets=offsets,
        )

    @classmethod
    def empty(cls) -> Jets:
        """Return no jets."""
        no_index, no_value = np.zeros(0, np.int64), np.zeros(0, np.float32)
        return cls.from_constituents(
            no_index, no_value, no_value, no_value, no_value, np.zeros(0, np.int32), np.zeros(1, np.int64)
        )

    @classmethod
    def concatenate(cls, parts: Sequence[Jets]) -> Jets:
        """Return the jets of all parts, in order."""
        if not parts:
            return cls.empty()
        columns = {
            name: np.concatenate([getattr(part, name) for part in parts])
            for name in (*JET_COLUMNS, *CONSTITUENT_COLUMNS)
        }
        counts = np.concatenate([np.diff(part.offsets) for part in parts])
        return cls(**columns, offsets=kinematics.offsets_from_counts(counts))

    def take(self, rows: ArrayLike) -> Jets:
        """Return the jets at ``rows`` (int64 indices, in that order, or a bool mask)."""
        chosen = np.asarray(rows)
        chosen = np.flatnonzero(chosen) if chosen.dtype == np.bool_ else chosen.astype(np.int64)
        flat, offsets = kinematics.take_rows(self.offsets, chosen)
        columns = {name: getattr(self, name)[chosen] for name in JET_COLUMNS}
        columns |= {name: getattr(self, name)[flat] for name in CONSTITUENT_COLUMNS}
        return Jets(**columns, offsets=offsets)

    def shift_events(self, by: int) -> Jets:
        """Return the same jets with ``event_index`` raised by ``by``."""
        return replace(self, event_index=self.event_index + by)

    def equals(self, other: Jets) -> bool:
        """Tell whether all arrays are equal bit for bit."""
        return all(np.array_equal(getattr(self, field.name), getattr(other, field.name)) for field in fields(self))


def _require_length(jets: Jets, names: Sequence[str], expected: int) -> None:
    for name in names:
        found = len(getattr(jets, name))
        if found != expected:
            raise DataError(f"column {name} of jets has {found} entries, expected {expected} from the offsets")
