"""Collider kinematics and jagged arrays, vectorised over particles.

A jagged array is a flat array of values and ``offsets`` int64[n + 1]: row ``i`` owns
``values[offsets[i]:offsets[i + 1]]``. Momenta and energies are in GeV, angles in radians.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from sparton.errors import DataError

Floats = NDArray[np.float64]
Indices = NDArray[np.int64]

LARGEST_PHI = np.nextafter(np.float32(np.pi), np.float32(0))
"""The largest float32 angle below pi (rad): float32(pi) itself lies above pi."""


def wrap_phi(phi: ArrayLike) -> Floats:
    """Return angles (rad) moved by multiples of 2 pi into [-pi, pi)."""
    wrapped = np.remainder(np.asarray(phi, np.float64) + np.pi, 2 * np.pi) - np.pi
    # remainder() of a tiny negative number rounds to the divisor itself.
    return np.where(wrapped >= np.pi, -np.pi, wrapped)


def delta_phi(phi: ArrayLike, reference: ArrayLike) -> Floats:
    """Return ``phi - reference`` (rad) in [-pi, pi), whatever turns either of them contains."""
    return wrap_phi(np.asarray(phi, np.float64) - np.asarray(reference, np.float64))


def phi_to_float32(phi: ArrayLike) -> NDArray[np.float32]:
    """Return angles in [-pi, pi) as float32 that still lie in [-pi, pi) when widened again."""
    return np.clip(wrap_phi(phi).astype(np.float32), -LARGEST_PHI, LARGEST_PHI)


def transverse_momentum(px: ArrayLike, py: ArrayLike) -> Floats:
    """Return pT (GeV) of momentum components in GeV."""
    return np.hypot(np.asarray(px, np.float64), np.asarray(py, np.float64))


def pseudorapidity(px: ArrayLike, py: ArrayLike, pz: ArrayLike) -> Floats:
    """Return eta = asinh(pz / pT); along the beam it is infinite, for a zero momentum it is 0."""
    pt = transverse_momentum(px, py)
    longitudinal = np.asarray(pz, np.float64)
    along_beam = np.where(longitudinal == 0, 0.0, np.copysign(np.inf, longitudinal))
    eta: Floats = np.arcsinh(np.divide(longitudinal, pt, out=along_beam, where=pt > 0))
    return eta


def azimuth(px: ArrayLike, py: ArrayLike) -> Floats:
    """Return phi (rad) in [-pi, pi)."""
    return wrap_phi(np.arctan2(np.asarray(py, np.float64), np.asarray(px, np.float64)))


def invariant_mass(px: ArrayLike, py: ArrayLike, pz: ArrayLike, energy: ArrayLike) -> Floats:
    """Return the mass (GeV) of four-momenta; a space-like one (rounding) counts as massless."""
    momentum = np.hypot(transverse_momentum(px, py), np.asarray(pz, np.float64))
    squared = (np.asarray(energy, np.float64) - momentum) * (np.asarray(energy, np.float64) + momentum)
    mass: Floats = np.sqrt(np.maximum(squared, 0.0))
    return mass


def offsets_from_counts(counts: ArrayLike) -> Indices:
    """Return offsets int64[n + 1] of rows with these lengths."""
    lengths = np.asarray(counts, np.int64)
    offsets = np.zeros(lengths.size + 1, np.int64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def owners(offsets: Indices) -> Indices:
    """Return for every flat value the row that owns it."""
    return np.repeat(np.arange(offsets.size - 1), np.diff(offsets))


def segment_sum(values: ArrayLike, offsets: Indices) -> Floats:
    """Return the float64 sum of each row, 0 for an empty one.

    A row's sum depends on its own values only, bit for bit (a difference of running sums would not).
    """
    flat = np.asarray(values, np.float64)
    sums = np.zeros(offsets.size - 1, np.float64)
    filled = np.flatnonzero(np.diff(offsets) > 0)
    if filled.size:
        sums[filled] = np.add.reduceat(flat[: offsets[-1]], offsets[filled])
    return sums


def take_rows(offsets: Indices, rows: ArrayLike) -> tuple[Indices, Indices]:
    """Return (flat indices, new offsets) that pick whole rows of a jagged array, in the order given."""
    chosen = np.asarray(rows, np.int64)
    taken = offsets_from_counts(np.diff(offsets)[chosen])
    shift = offsets[:-1][chosen] - taken[:-1]
    return np.arange(taken[-1]) + np.repeat(shift, np.diff(taken)), taken


def pad(values: NDArray[Any], offsets: Indices, width: int) -> NDArray[Any]:
    """Return rows side by side, cut or filled with zeros to ``width``.

    Parameters
    ----------
    values
        Flat values [m, ...]; further axes are kept.
    offsets
        Row limits int64[n + 1] with ``offsets[0] == 0`` and ``offsets[-1] == m``.
    width
        Slots in a row.

    Returns
    -------
    ndarray
        [n, width, ...] of the values' type.
    """
    if offsets[0] != 0 or offsets[-1] != len(values):
        raise DataError(
            f"offsets run from {offsets[0]} to {offsets[-1]}, expected 0 to {len(values)} (the number of values)"
        )
    row = owners(offsets)
    slot = np.arange(len(values)) - offsets[row]
    kept = slot < width
    padded = np.zeros((offsets.size - 1, width, *values.shape[1:]), values.dtype)
    padded[row[kept], slot[kept]] = values[kept]
    return padded
