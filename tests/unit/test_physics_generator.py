"""Exactly n jets, the same for the same seed, inside their windows."""

from __future__ import annotations

import numpy as np
import pytest

from sparton.errors import DataError, UsageError
from sparton.physics import generator
from sparton.physics import kinematics as kin
from sparton.physics.generator import generate_jets
from sparton.physics.jets import Jets
from sparton.physics.settings import GenerationSettings

SETTINGS = GenerationSettings()


@pytest.fixture(scope="module")
def jets() -> Jets:
    return generate_jets("W", 61, 12, SETTINGS)


def test_exactly_n_jets_in_the_window(jets: Jets) -> None:
    assert len(jets) == 61
    assert np.all((jets.jet_pt >= 800) & (jets.jet_pt < 1600))
    assert np.all((jets.jet_phi >= -np.pi) & (jets.jet_phi < np.pi))
    assert np.bincount(jets.event_index).max() <= 2
    assert np.all(np.diff(jets.event_index) >= 0)


def test_constituents_sum_to_the_jet(jets: Jets) -> None:
    px, py, pz, energy = (kin.segment_sum(column, jets.offsets) for column in (jets.px, jets.py, jets.pz, jets.energy))
    np.testing.assert_allclose(jets.jet_pt, np.hypot(px, py), rtol=1e-6)
    np.testing.assert_allclose(jets.jet_eta, np.arcsinh(pz / np.hypot(px, py)), atol=1e-6)
    np.testing.assert_allclose(jets.jet_mass, np.sqrt(energy**2 - px**2 - py**2 - pz**2), rtol=1e-5)


def test_constituents_are_visible_and_within_the_radius(jets: Jets) -> None:
    assert not np.isin(np.abs(jets.pdg_id), (12, 14, 16)).any()
    assert {22, 211, -211} <= set(jets.pdg_id.tolist())
    rapidity = np.arctanh(jets.pz / jets.energy.astype(np.float64))
    owner = kin.owners(jets.offsets)
    pz, energy = kin.segment_sum(jets.pz, jets.offsets), kin.segment_sum(jets.energy, jets.offsets)
    dphi = kin.delta_phi(kin.azimuth(jets.px, jets.py), jets.jet_phi[owner])
    distance = np.hypot(rapidity - np.arctanh(pz / energy)[owner], dphi)
    # Anti-kT jets are nearly circular; soft particles may lie a little outside because the axis moved.
    assert np.quantile(distance, 0.999) < 0.85


def test_same_seed_same_jets_and_fewer_are_the_first_of_more(jets: Jets) -> None:
    assert generate_jets("W", 61, 12, SETTINGS).equals(jets)
    assert generate_jets("W", 7, 12, SETTINGS).equals(jets.take(np.arange(7)))
    assert not generate_jets("W", 7, 13, SETTINGS).equals(jets.take(np.arange(7)))


def test_the_detector_is_reproducible_and_changes_particles_only_a_little(jets: Jets) -> None:
    settings = GenerationSettings(detector=True)
    smeared = generate_jets("W", 61, 12, settings)
    assert generate_jets("W", 9, 12, settings).equals(smeared.take(np.arange(9)))
    assert smeared.n_constituents.mean() < jets.n_constituents.mean()
    assert np.median(smeared.jet_pt) == pytest.approx(np.median(jets.jet_pt), rel=0.05)


def test_radius_window_and_least_particle_pt_are_heeded() -> None:
    settings = GenerationSettings(
        radius=0.4, pt_min=400, pt_max=600, hard_pt_min=480, hard_pt_max=520, particle_pt_min=1.0
    )
    jets = generate_jets("q", 40, 3, settings)
    assert np.all((jets.jet_pt >= 400) & (jets.jet_pt < 600))
    assert kin.transverse_momentum(jets.px, jets.py).min() >= 1.0
    owner = kin.owners(jets.offsets)
    dphi = kin.delta_phi(kin.azimuth(jets.px, jets.py), jets.jet_phi[owner])
    assert np.quantile(np.abs(dphi), 0.999) < 0.42


def test_pairs_share_an_event_and_pass_the_trigger() -> None:
    settings = GenerationSettings(processes=("lhco-background",), jets_per_process=20)
    jets = generate_jets("lhco-background", 20, 5, settings)
    np.testing.assert_array_equal(jets.event_index[::2], jets.event_index[1::2])
    assert np.unique(jets.event_index).size == 10
    assert np.all(jets.jet_pt[::2] > 1200)
    assert np.all(np.abs(jets.jet_eta[::2]) < 2.5)
    assert np.all(jets.jet_pt[1::2] <= jets.jet_pt[::2])


def test_a_window_that_selects_nothing_ends_with_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(generator, "GRACE_EVENTS", 300)
    settings = GenerationSettings(pt_min=1000.0, pt_max=1000.001)
    with pytest.raises(DataError, match=r"W: only \d+ of 20 jets after (\d+) events.*Widen pt_min") as caught:
        generate_jets("W", 20, 1, settings)
    tried = int(str(caught.value).split(" after ")[1].split()[0])
    assert 300 <= tried <= 300 + 20 * generator.EVENTS_PER_JET


def test_bad_requests_are_refused() -> None:
    with pytest.raises(UsageError, match="did you mean 'Z'"):
        generate_jets("z", 1, 1, SETTINGS)
    with pytest.raises(UsageError, match="cannot generate -1"):
        generate_jets("W", -1, 1, SETTINGS)
    with pytest.raises(UsageError, match="pairs"):
        generate_jets("lhco-signal", 3, 1, SETTINGS)


def test_no_jets_asked_for() -> None:
    assert len(generate_jets("W", 0, 1, SETTINGS)) == 0
