"""Constituent features of UCluster and the mass bins of its pre-training.

The features are those of the HLS4ML jet data set: each constituent relative to its jet, and its polar angle relative
to the leading constituent.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparton.errors import DataError, UsageError
from sparton.physics import kinematics
from sparton.physics.jets import Jets
from sparton.physics.kinematics import Floats, Indices

FEATURE_NAMES = ("etarel", "phirel", "log_ptrel", "deltaR", "log_e", "log_erel", "log_pt", "costhetarel")
"""Columns of the features: angles in radians, natural logarithms of GeV or of fractions of the jet."""

PIVOT_DISTANCE = 0.1
"""The hardest constituent farther than this from the leading one sets the rotation."""


def ucluster_features(jets: Jets, n_particles: int) -> tuple[NDArray[np.float32], NDArray[np.int16]]:
    """Return the eight features of the hardest constituents of each jet.

    ``etarel`` and ``phirel`` are the distances to the jet's axis, ``deltaR`` their norm; ``ptrel`` and ``erel`` the
    fractions of the jet's pT and energy, both from the jet's columns. Logarithms are of positive values only, others
    count as 0. ``costhetarel`` is described at :func:`cos_theta_rel`. Constituents without pT are no particles.

    Parameters
    ----------
    jets
        ``n`` jets, constituents by falling pT.
    n_particles
        Slots in a row; constituents beyond it are left out, empty slots are zero.

    Returns
    -------
    features
        float32[n, n_particles, 8], columns as in :data:`FEATURE_NAMES`.
    n_real
        int16[n], slots that hold a constituent.

    Raises
    ------
    UsageError
        If ``n_particles`` is not between 1 and 32767.
    """
    if not 1 <= n_particles <= np.iinfo(np.int16).max:
        raise UsageError(f"n_particles is {n_particles}, expected 1 to {np.iinfo(np.int16).max}")
    particle_pt = kinematics.transverse_momentum(jets.px, jets.py)
    real = particle_pt > 0
    counts = kinematics.segment_sum(real, jets.offsets).astype(np.int64)
    offsets = kinematics.offsets_from_counts(counts)
    columns = _columns(jets, real, particle_pt[real], offsets)
    n_real = np.minimum(counts, n_particles).astype(np.int16)
    return kinematics.pad(columns, offsets, n_particles), n_real


def _columns(jets: Jets, real: NDArray[np.bool_], pt: Floats, offsets: Indices) -> NDArray[np.float32]:
    """Return the features float32[m, 8] of the real constituents."""
    jet = kinematics.owners(offsets)
    px, py, pz = jets.px[real], jets.py[real], jets.pz[real]
    energy = jets.energy[real].astype(np.float64)
    eta, phi = kinematics.pseudorapidity(px, py, pz), kinematics.azimuth(px, py)
    eta_rel = eta - jets.jet_eta.astype(np.float64)[jet]
    phi_rel = kinematics.delta_phi(phi, jets.jet_phi.astype(np.float64)[jet])
    columns = np.empty((pt.size, len(FEATURE_NAMES)), np.float32)
    columns[:, 0] = eta_rel
    columns[:, 1] = phi_rel
    columns[:, 2] = _log_ratio(pt, jets.jet_pt.astype(np.float64)[jet])
    columns[:, 3] = np.hypot(eta_rel, phi_rel)
    columns[:, 4] = _log(energy)
    columns[:, 5] = _log_ratio(energy, _jet_energy(jets)[jet])
    columns[:, 6] = _log(pt)
    columns[:, 7] = cos_theta_rel(pt, eta, phi, offsets)
    return columns


def cos_theta_rel(pt: Floats, eta: Floats, phi: Floats, offsets: Indices) -> Floats:
    r"""Return the polar angle's cosine in the jet's own orientation.

    With :math:`x` and :math:`y` the distances in eta and phi to the leading constituent, a constituent is the vector
    :math:`p_T (\cos y, \sin y, \sinh x)`. The rotation about the first axis (arXiv:1704.02124) takes the *pivot*,
    the hardest constituent farther than 0.1 from the leading one, onto the negative second axis; ``etarot`` is the
    pseudorapidity after it, and changes sign if more pT lies at :math:`x < 0` than at :math:`x > 0`. Then

    .. math:: \mathrm{costhetarel} = \tanh(\mathrm{etarot})
              = \pm \frac{\cos a \sin y - \sin a \sinh x}{\cosh x},
              \qquad a = \mathrm{atan2}(\sin y_\mathrm{pivot}, \sinh x_\mathrm{pivot}),

    because a rotation keeps :math:`|p| = p_T \cosh x` and the tanh of a pseudorapidity is :math:`p_z / |p|`. A jet
    without a pivot is not rotated (:math:`a = -\pi/2`).

    Parameters
    ----------
    pt, eta, phi
        Constituents [m], by falling pT in each jet: GeV, and angles in radians.
    offsets
        Limits of the jets, int64[n + 1].

    Returns
    -------
    ndarray
        float64[m] in [-1, 1].
    """
    jet = kinematics.owners(offsets)
    leading = offsets[jet]
    x = eta - eta[leading]
    y = kinematics.delta_phi(phi, phi[leading])
    sine, sinh = np.sin(y), np.sinh(x)
    angle = np.full(offsets.size - 1, -np.pi / 2)
    far = np.flatnonzero(np.hypot(x, y) > PIVOT_DISTANCE)
    jets_with_pivot, first = np.unique(jet[far], return_index=True)
    pivot = far[first]
    angle[jets_with_pivot] = np.arctan2(sine[pivot], sinh[pivot])
    balance = kinematics.segment_sum(pt * np.sign(x), offsets)
    mirror = np.where(balance < 0, -1.0, 1.0)[jet]
    rotated = (np.cos(angle)[jet] * sine - np.sin(angle)[jet] * sinh) / np.cosh(x)
    cosine: Floats = np.clip(mirror * rotated, -1.0, 1.0)
    return cosine


def mass_bins(jet_mass: ArrayLike, edges: ArrayLike) -> NDArray[np.int32]:
    """Return the bin of each mass: ``i`` for ``edges[i] <= mass < edges[i + 1]``.

    Masses below the first edge count to bin 0, those from the last edge on to the overflow bin
    ``len(edges) - 1``; so there are ``len(edges)`` classes. The edges are the same for all data.

    Raises
    ------
    UsageError
        If the edges are not at least two rising numbers.
    DataError
        If a mass is not finite.
    """
    limits = np.asarray(edges, np.float64)
    if limits.ndim != 1 or limits.size < 2 or not np.all(np.diff(limits) > 0):
        raise UsageError(f"mass bin edges must be at least two rising numbers, found {limits.tolist()}")
    masses = np.asarray(jet_mass, np.float64)
    if not np.all(np.isfinite(masses)):
        raise DataError(f"column jet_mass holds {np.count_nonzero(~np.isfinite(masses))} values that are not finite")
    return np.maximum(np.searchsorted(limits, masses, side="right") - 1, 0).astype(np.int32)


def _jet_energy(jets: Jets) -> Floats:
    """Return E = sqrt(pT^2 cosh^2 eta + m^2) in GeV, float64[n]."""
    momentum = jets.jet_pt.astype(np.float64) * np.cosh(jets.jet_eta.astype(np.float64))
    return np.hypot(momentum, jets.jet_mass.astype(np.float64))


def _log(values: Floats) -> Floats:
    """Return the natural logarithm, 0 where there is none."""
    return np.log(values, out=np.zeros_like(values), where=values > 0)


def _log_ratio(values: Floats, totals: Floats) -> Floats:
    return np.where((values > 0) & (totals > 0), _log(values) - _log(totals), 0.0)
