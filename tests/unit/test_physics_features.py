"""UCluster's features against a loop over particles, and their symmetries."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparton.errors import DataError, UsageError
from sparton.physics.features import FEATURE_NAMES, mass_bins, ucluster_features
from sparton.physics.jets import Jets

Floats = NDArray[np.float64]
Momenta = tuple[Floats, Floats, Floats, Floats]


def make_jets(counts: list[int], seed: int, turn: float = 0.0) -> Jets:
    """Jets around random axes, turned by an angle; the pT of the constituents of a jet are well apart."""
    rng = np.random.default_rng(seed)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    slot = np.concatenate([np.arange(count) for count in counts])
    jet = np.repeat(np.arange(len(counts)), counts)
    pt = 400 * 0.85**slot * (1 + 0.05 * rng.random(jet.size))
    eta = rng.uniform(-2, 2, len(counts))[jet] + rng.normal(0, 0.25, jet.size)
    phi = rng.uniform(-np.pi, np.pi, len(counts))[jet] + rng.normal(0, 0.25, jet.size) + turn
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    energy = np.sqrt(px**2 + py**2 + pz**2 + 0.14**2)
    px32, py32, pz32, energy32 = (column.astype(np.float32) for column in (px, py, pz, energy))
    pions = np.full(jet.size, 211, np.int32)
    return Jets.from_constituents(np.arange(len(counts)), px32, py32, pz32, energy32, pions, offsets)


def constituents(jets: Jets, i: int) -> Momenta:
    own = slice(jets.offsets[i], jets.offsets[i + 1])
    px, py, pz, energy = (column[own].astype(np.float64) for column in (jets.px, jets.py, jets.pz, jets.energy))
    return px, py, pz, energy


def angle_between(first: float, second: float) -> float:
    return float(np.angle(np.exp(1j * (first - second))))


def reference_rotation(momenta: Momenta) -> list[float]:
    """tanh(etarot): rotation matrix on each particle, pivot onto the negative y axis, heavier side to the right."""
    px, py, pz, _ = momenta
    pt, eta, phi = np.hypot(px, py), np.arctanh(pz / np.sqrt(px**2 + py**2 + pz**2)), np.arctan2(py, px)
    x = [value - eta[0] for value in eta]
    y = [angle_between(value, phi[0]) for value in phi]
    vectors = [np.array([w * np.cos(b), w * np.sin(b), w * np.sinh(a)]) for w, a, b in zip(pt, x, y, strict=True)]
    theta = 0.0
    for a, b, vector in zip(x, y, vectors, strict=True):
        if np.hypot(a, b) > 0.1:
            theta = np.arctan2(vector[1], vector[2]) + np.pi / 2
            break
    left = sum(w for w, a in zip(pt, x, strict=True) if a < 0)
    right = sum(w for w, a in zip(pt, x, strict=True) if a > 0)
    rotation = np.array([[1, 0, 0], [0, np.cos(theta), -np.sin(theta)], [0, np.sin(theta), np.cos(theta)]])
    rotated = [rotation @ vector for vector in vectors]
    sign = -1.0 if left > right else 1.0
    return [float(np.tanh(sign * np.arcsinh(v[2] / np.hypot(v[0], v[1])))) for v in rotated]


def reference_features(momenta: Momenta) -> Floats:
    px, py, pz, energy = momenta
    jet_px, jet_py, jet_pz, jet_energy = px.sum(), py.sum(), pz.sum(), energy.sum()
    jet_pt, jet_phi = np.hypot(jet_px, jet_py), np.arctan2(jet_py, jet_px)
    jet_eta = np.arctanh(jet_pz / np.sqrt(jet_pt**2 + jet_pz**2))
    rows = []
    for particle, cosine in zip(zip(px, py, pz, energy, strict=True), reference_rotation(momenta), strict=True):
        pt = np.hypot(particle[0], particle[1])
        deta = np.arctanh(particle[2] / np.hypot(pt, particle[2])) - jet_eta
        dphi = angle_between(np.arctan2(particle[1], particle[0]), jet_phi)
        logs = [np.log(particle[3]), np.log(particle[3] / jet_energy), np.log(pt)]
        rows.append([deta, dphi, np.log(pt / jet_pt), np.hypot(deta, dphi), *logs, cosine])
    return np.array(rows)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(1, 25), min_size=1, max_size=6), st.integers(0, 2**31))
def test_features_equal_a_loop_over_particles(counts: list[int], seed: int) -> None:
    jets = make_jets(counts, seed)
    features, n_real = ucluster_features(jets, 25)
    assert features.dtype == np.float32
    assert features.shape == (len(counts), 25, len(FEATURE_NAMES))
    assert n_real.dtype == np.int16
    assert n_real.tolist() == counts
    for i, count in enumerate(counts):
        np.testing.assert_allclose(features[i, :count], reference_features(constituents(jets, i)), atol=2e-5)
        assert not features[i, count:].any()


@settings(deadline=None, max_examples=60)
@given(st.lists(st.integers(1, 25), min_size=1, max_size=4), st.integers(0, 2**31), st.floats(-7, 7))
def test_turning_a_jet_in_phi_changes_nothing(counts: list[int], seed: int, turn: float) -> None:
    jets = make_jets(counts, seed)
    assume(far_from_thresholds(jets))
    plain, _ = ucluster_features(jets, 20)
    turned, _ = ucluster_features(make_jets(counts, seed, turn), 20)
    np.testing.assert_allclose(turned, plain, atol=2e-5)


def far_from_thresholds(jets: Jets) -> bool:
    """No particle so near the pivot's distance, nor jet so balanced, that rounding decides."""
    for i in range(len(jets)):
        px, py, pz, _ = constituents(jets, i)
        pt, eta, phi = np.hypot(px, py), np.arcsinh(pz / np.hypot(px, py)), np.arctan2(py, px)
        x, y = (eta - eta[0])[1:], np.angle(np.exp(1j * (phi - phi[0])))[1:]
        balance = abs((pt[1:] * np.sign(x)).sum())
        near = np.any(np.abs(np.hypot(x, y) - 0.1) < 1e-4) or np.any(np.abs(x) < 1e-5)
        if x.size and (near or balance < 1e-2):
            return False
    return True


@given(st.integers(0, 2**31), st.sampled_from([-1, 1]))
def test_a_whole_turn_of_the_jet_axis_changes_nothing(seed: int, turns: int) -> None:
    jets = make_jets([5, 9], seed)
    other = replace(jets, jet_phi=(jets.jet_phi + np.float32(turns * 2 * np.pi)).astype(np.float32))
    np.testing.assert_allclose(ucluster_features(other, 9)[0], ucluster_features(jets, 9)[0], atol=5e-6)


def test_a_jet_across_the_edge_of_phi_is_small() -> None:
    phi = np.array([np.pi - 0.05, -np.pi + 0.05])
    px, py = np.cos(phi).astype(np.float32), np.sin(phi).astype(np.float32)
    zero, ones = np.zeros(2, np.float32), np.ones(2, np.float32)
    jets = Jets.from_constituents(np.zeros(1, np.int64), px, py, zero, ones, np.ones(2, np.int32), np.array([0, 2]))
    features, _ = ucluster_features(jets, 2)
    np.testing.assert_allclose(np.abs(features[0, :, 1]), 0.05, atol=1e-6)
    np.testing.assert_allclose(features[0, :, 3], 0.05, atol=1e-6)


def test_one_constituent_is_its_jet() -> None:
    one = np.ones(1, np.float32)
    jets = Jets.from_constituents(
        np.zeros(1, np.int64), 3 * one, 4 * one, 0 * one, 5 * one, np.array([22], np.int32), np.array([0, 1])
    )
    features, n_real = ucluster_features(jets, 3)
    assert n_real.tolist() == [1]
    np.testing.assert_allclose(features[0, 0], [0, 0, 0, 0, np.log(5), 0, np.log(5), 0], atol=1e-6)
    assert np.all(np.isfinite(features))


def test_surplus_constituents_are_the_softest() -> None:
    jets = make_jets([12, 3], 5)
    whole, _ = ucluster_features(jets, 12)
    cut, n_real = ucluster_features(jets, 4)
    np.testing.assert_array_equal(cut, whole[:, :4])
    assert n_real.tolist() == [4, 3]


def test_entries_without_pt_are_padding() -> None:
    jets = make_jets([6, 4], 6)
    zeros = np.zeros(2, np.float32)
    px, py, pz, energy = (
        np.concatenate([column[:6], zeros, column[6:]]) for column in (jets.px, jets.py, jets.pz, jets.energy)
    )
    padded = replace(
        jets, px=px, py=py, pz=pz, energy=energy, pdg_id=np.ones(12, np.int32), offsets=np.array([0, 8, 12])
    )
    found, expected = ucluster_features(padded, 8), ucluster_features(jets, 8)
    np.testing.assert_array_equal(found[0], expected[0])
    np.testing.assert_array_equal(found[1], expected[1])


def test_jets_without_constituents_and_no_jets() -> None:
    none = np.zeros(0, np.float32)
    nothing = Jets.from_constituents(
        np.zeros(1, np.int64), none, none, none, none, np.zeros(0, np.int32), np.array([0, 0])
    )
    features, n_real = ucluster_features(nothing, 4)
    assert n_real.tolist() == [0]
    assert not features.any()
    assert ucluster_features(Jets.empty(), 4)[0].shape == (0, 4, 8)


@pytest.mark.parametrize("n_particles", [0, 40_000])
def test_slots_out_of_range_are_refused(n_particles: int) -> None:
    with pytest.raises(UsageError, match="n_particles"):
        ucluster_features(Jets.empty(), n_particles)


def test_mass_bins_are_half_open_with_an_overflow() -> None:
    bins = mass_bins(np.array([0, 9.99, 10, 19.99, 20, 1e4, -1], np.float32), [0, 10, 20])
    assert bins.dtype == np.int32
    assert bins.tolist() == [0, 0, 1, 1, 2, 2, 0]


@given(st.lists(st.floats(0, 400, width=32), max_size=30), st.lists(st.integers(1, 50), min_size=1, max_size=10))
def test_mass_bins_count_the_edges_passed(masses: list[float], widths: list[int]) -> None:
    edges = np.cumsum([0, *widths])
    expected = [sum(mass >= edge for edge in edges[1:]) for mass in masses]
    assert mass_bins(np.array(masses, np.float32), edges).tolist() == expected


@pytest.mark.parametrize("edges", [[1], [1, 1], [2, 1], [[1, 2]]])
def test_edges_must_rise(edges: list[float]) -> None:
    with pytest.raises(UsageError, match="rising"):
        mass_bins(np.ones(2), edges)


def test_masses_must_be_finite() -> None:
    with pytest.raises(DataError, match="jet_mass holds 1 value"):
        mass_bins(np.array([1, np.nan]), [0, 10])
