"""Visible final-state particles of a batch of events."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sparton.physics import kinematics

MAX_ABS_ETA = 5.0
"""Particles beyond this pseudorapidity are not seen."""


@dataclass(frozen=True)
class Events:
    """Particles of ``n`` events; event ``i`` owns ``offsets[i]:offsets[i + 1]``. Momenta and energies in GeV."""

    px: NDArray[np.float32]
    py: NDArray[np.float32]
    pz: NDArray[np.float32]
    energy: NDArray[np.float32]
    pdg_id: NDArray[np.int32]
    offsets: NDArray[np.int64]

    def __len__(self) -> int:
        return self.offsets.size - 1

    def select(self, kept: NDArray[np.bool_]) -> Events:
        """Return the events with only the particles where ``kept`` (bool, one a particle) is true."""
        index = np.flatnonzero(kept)
        return Events(
            self.px[index],
            self.py[index],
            self.pz[index],
            self.energy[index],
            self.pdg_id[index],
            np.searchsorted(index, self.offsets).astype(np.int64),
        )

    def visible(self, pt_min: float) -> Events:
        """Return the particles of ``|eta|`` below :data:`MAX_ABS_ETA` and of pT (GeV) at least ``pt_min``."""
        pt = kinematics.transverse_momentum(self.px, self.py)
        central = np.abs(self.pz) < np.sinh(MAX_ABS_ETA) * pt
        return self.select(central & (pt >= pt_min))
