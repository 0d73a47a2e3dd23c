"""The target of pre-training: which mass of a jet its bins are of."""

from __future__ import annotations

from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sparton.config import Config
from sparton.physics.grooming import soft_drop_mass
from sparton.physics.jets import Jets

__all__ = ["TargetMass", "target_mass"]


class TargetMass(Config):
    """The mass whose bins are the target; the column jet_mass is the ungroomed one in any case.

    Attributes
    ----------
    definition
        ``ungroomed``: the column ``jet_mass``. ``soft_drop``: the mass after soft drop (arXiv:1402.2657), computed from
        the constituents by FastJet (extra ``gen``); half a millisecond per jet.
    symmetry_cut, beta, radius
        Of soft drop: two branches stay if min(pT1, pT2) / (pT1 + pT2) > symmetry_cut (dR / radius)^beta.
    """

    definition: Literal["ungroomed", "soft_drop"] = "ungroomed"
    symmetry_cut: float = Field(default=0.02, ge=0, lt=0.5)
    beta: float = Field(default=1.0, ge=0, allow_inf_nan=False)
    radius: float = Field(default=0.8, gt=0, allow_inf_nan=False)


def target_mass(jets: Jets, mass: TargetMass) -> NDArray[np.float32]:
    """Return the mass (GeV) of each jet that the target's bins are of, float32[n]; labels are not used.

    Raises
    ------
    SpartonError
        If soft drop is asked for and FastJet is not installed.
    """
    if mass.definition == "ungroomed":
        return jets.jet_mass
    return soft_drop_mass(jets, mass.symmetry_cut, mass.beta, mass.radius)
