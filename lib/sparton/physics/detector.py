"""A simple detector: momentum resolution, angular cells and thresholds.

The numbers are those of a general-purpose LHC detector in round figures: a tracker to ``|eta|`` of 2.5, and
electromagnetic and hadronic calorimeters with cells of 0.0175 and 0.022. A charged particle is measured by the better
of track and calorimeter. Nothing is merged and there is no pile-up, so this is no replacement of a full simulation.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparton.physics import kinematics
from sparton.physics.events import Events

TRACKER_MAX_ABS_ETA = 2.5
TRACK_RESOLUTION = (0.01, 1.0e-4)
"""sigma(pT)/pT of a track: a constant and a term in pT (1/GeV), added in quadrature."""
ECAL_RESOLUTION = (0.03, 0.005)
"""sigma(E)/E of photons and electrons: stochastic (sqrt(GeV)) and constant term, added in quadrature."""
HCAL_RESOLUTION = (1.0, 0.05)
"""sigma(E)/E of hadrons: stochastic (sqrt(GeV)) and constant term, added in quadrature."""
ECAL_CELL = 0.0175
HCAL_CELL = 0.022
"""Sizes of cells in eta and in phi (rad)."""
TRACK_PT_MIN = 0.5
PHOTON_PT_MIN = 0.5
HADRON_PT_MIN = 1.0
"""Smallest measured pT in GeV of tracks, of photons and electrons, and of hadrons without a track."""

ELECTROMAGNETIC = (11, 22)
CHARGED = (11, 13, 211, 321, 2212, 3112, 3222, 3312, 3334)
MUON = 13

Floats = NDArray[np.float64]


def smear(events: Events, generator: np.random.Generator) -> Events:
    """Return the particles as the detector measures them.

    One normal number is drawn per particle, in order, so the outcome does not depend on how events are batched.

    Parameters
    ----------
    events
        Visible particles.
    generator
        Source of the random numbers; it advances by one draw a particle.
    """
    code = np.abs(events.pdg_id)
    electromagnetic = np.isin(code, ELECTROMAGNETIC)
    pt = kinematics.transverse_momentum(events.px, events.py)
    eta = kinematics.pseudorapidity(events.px, events.py, events.pz)
    has_track = np.isin(code, CHARGED) & ((np.abs(eta) < TRACKER_MAX_ABS_ETA) | (code == MUON))
    resolution = _resolution(pt, events.energy.astype(np.float64), has_track, electromagnetic, code == MUON)
    measured_pt = pt * np.maximum(1.0 + resolution * generator.standard_normal(pt.size), 0.0)
    threshold = np.where(has_track, TRACK_PT_MIN, np.where(electromagnetic, PHOTON_PT_MIN, HADRON_PT_MIN))
    cell = np.where(electromagnetic, ECAL_CELL, HCAL_CELL)
    phi = kinematics.azimuth(events.px, events.py)
    measured_eta = np.where(has_track, eta, _cell_centre(eta, cell))
    measured_phi = np.where(has_track, phi, _cell_centre(phi, cell))
    mass = kinematics.invariant_mass(events.px, events.py, events.pz, events.energy)
    measured = _from_angles(events, measured_pt, measured_eta, measured_phi, mass)
    return measured.select(measured_pt >= threshold)


def _resolution(
    pt: Floats,
    energy: Floats,
    has_track: NDArray[np.bool_],
    electromagnetic: NDArray[np.bool_],
    is_muon: NDArray[np.bool_],
) -> Floats:
    """Return the relative resolution of each particle: track, calorimeter, or the better of both."""
    track = np.hypot(TRACK_RESOLUTION[0], TRACK_RESOLUTION[1] * pt)
    stochastic = np.where(electromagnetic, ECAL_RESOLUTION[0], HCAL_RESOLUTION[0])
    constant = np.where(electromagnetic, ECAL_RESOLUTION[1], HCAL_RESOLUTION[1])
    calorimeter = np.hypot(stochastic / np.sqrt(energy), constant)
    calorimeter = np.where(is_muon, np.inf, calorimeter)
    best: Floats = np.where(has_track, np.minimum(track, calorimeter), calorimeter)
    return best


def _cell_centre(angle: Floats, cell: Floats) -> Floats:
    centre: Floats = (np.floor(angle / cell) + 0.5) * cell
    return centre


def _from_angles(events: Events, pt: Floats, eta: Floats, phi: Floats, mass: Floats) -> Events:
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    energy = np.sqrt(px**2 + py**2 + pz**2 + mass**2)
    px32, py32, pz32, energy32 = (component.astype(np.float32) for component in (px, py, pz, energy))
    return Events(px32, py32, pz32, energy32, events.pdg_id, events.offsets)
