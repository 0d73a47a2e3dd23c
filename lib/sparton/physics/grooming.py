"""Soft-drop groomed masses by FastJet."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparton.physics import libraries
from sparton.physics.clustering import momentum_array
from sparton.physics.jets import Jets

WHOLE_JET_RADIUS = 1000.0
"""A radius beyond any distance, so that reclustering makes one jet of all constituents."""


def soft_drop_mass(
    jets: Jets, symmetry_cut: float = 0.1, beta: float = 0.0, radius: float = 0.8
) -> NDArray[np.float32]:
    """Return the mass (GeV) of each jet after soft drop; beta = 0 is the modified mass-drop tagger (mMDT).

    The constituents are reclustered with Cambridge/Aachen; the softer branch is dropped until the two branches
    satisfy min(pT1, pT2) / (pT1 + pT2) > symmetry_cut (dR / radius)^beta (arXiv:1402.2657, equation 1.1;
    arXiv:1307.0007). A jet without such branches, down to one constituent, ends with that constituent's mass.

    Parameters
    ----------
    jets
        ``n`` jets.
    symmetry_cut, beta, radius
        The condition's parameters; the radius matters only for ``beta != 0``.

    Returns
    -------
    ndarray
        float32[n].
    """
    masses = np.zeros(len(jets), np.float32)
    filled = np.flatnonzero(jets.n_constituents > 0)
    if filled.size == 0:
        return masses
    fastjet, awkward = libraries.load("fastjet"), libraries.load("awkward")
    chosen = jets.take(filled)
    momenta = momentum_array(chosen.px, chosen.py, chosen.pz, chosen.energy, chosen.offsets)
    definition = fastjet.JetDefinition(fastjet.cambridge_algorithm, WHOLE_JET_RADIUS)
    groomed = fastjet.ClusterSequence(momenta, definition).exclusive_jets_softdrop_grooming(
        njets=1, beta=beta, symmetry_cut=symmetry_cut, R0=radius
    )
    # Rounding can leave a single massless constituent with a slightly negative squared mass, shown as a negative mass.
    masses[filled] = np.maximum(awkward.to_numpy(groomed.msoftdrop), 0.0)
    return masses
