"""The simple detector: resolution, thresholds, cells and reproducibility."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from sparton.physics import detector
from sparton.physics import kinematics as kin
from sparton.physics.events import Events


def particles(pdg_id: int, pt: float, eta: float, count: int, seed: int = 0) -> Events:
    phi = np.random.default_rng(seed).uniform(-np.pi, np.pi, count)
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), np.full(count, pt * np.sinh(eta))
    energy = np.sqrt(px**2 + py**2 + pz**2 + (0.0 if pdg_id == 22 else 0.14) ** 2)
    px32, py32, pz32, energy32 = (column.astype(np.float32) for column in (px, py, pz, energy))
    return Events(px32, py32, pz32, energy32, np.full(count, pdg_id, np.int32), np.array([0, count]))


def measured_pt(pdg_id: int, pt: float, eta: float) -> NDArray[np.float64]:
    seen = detector.smear(particles(pdg_id, pt, eta, 20_000), np.random.default_rng(1))
    return kin.transverse_momentum(seen.px, seen.py)


@pytest.mark.parametrize(
    ("pdg_id", "pt", "eta", "expected"),
    [
        (211, 50.0, 0.3, np.hypot(0.01, 0.005)),
        (-13, 2000.0, 0.0, np.hypot(0.01, 0.2)),
        (22, 50.0, 0.0, np.hypot(0.03 / np.sqrt(50), 0.005)),
        (130, 100.0, 0.0, np.hypot(0.1, 0.05)),
        (211, 100.0, 3.0, np.hypot(1 / np.sqrt(100 * np.cosh(3.0)), 0.05)),
        (211, 3000.0, 0.0, np.hypot(1 / np.sqrt(3000), 0.05)),
    ],
)
def test_resolution_of_each_kind(pdg_id: int, pt: float, eta: float, expected: float) -> None:
    found = measured_pt(pdg_id, pt, eta)
    assert found.mean() == pytest.approx(pt, rel=4 * expected / np.sqrt(found.size))
    assert found.std() / pt == pytest.approx(expected, rel=0.03)


@pytest.mark.parametrize(("pdg_id", "threshold"), [(211, 0.5), (22, 0.5), (2112, 1.0)])
def test_soft_particles_are_lost(pdg_id: int, threshold: float) -> None:
    assert measured_pt(pdg_id, 0.5 * threshold, 0.0).size < 10_000
    assert np.all(measured_pt(pdg_id, 1.5 * threshold, 0.0) >= threshold * (1 - 1e-6))


def test_calorimeter_cells_and_tracks() -> None:
    photons = detector.smear(particles(22, 20.0, 0.7, 500), np.random.default_rng(0))
    phi = kin.azimuth(photons.px, photons.py) / detector.ECAL_CELL
    np.testing.assert_allclose(np.abs(phi - np.floor(phi)), 0.5, atol=1e-3)
    tracks = particles(211, 20.0, 0.7, 500)
    seen = detector.smear(tracks, np.random.default_rng(0))
    np.testing.assert_allclose(kin.azimuth(seen.px, seen.py), kin.azimuth(tracks.px, tracks.py), atol=1e-6)
    np.testing.assert_allclose(kin.invariant_mass(seen.px, seen.py, seen.pz, seen.energy), 0.14, atol=0.02)


def test_the_outcome_does_not_depend_on_batches() -> None:
    whole = particles(130, 5.0, 1.0, 300)
    randoms = np.random.default_rng(7)
    first = whole.select(np.arange(300) < 120)
    second = whole.select(np.arange(300) >= 120)
    parts = [detector.smear(part, randoms).energy for part in (first, second)]
    np.testing.assert_array_equal(np.concatenate(parts), detector.smear(whole, np.random.default_rng(7)).energy)
