"""Peaks of the mass spectrum: found where they were put, whatever the order; classes by several masses."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import t as student

from sparton.config import validate
from sparton.data.featurize import FeatureSpec, target_classes
from sparton.data.mass_peaks import MassPeaks, find_peaks
from sparton.data.target import TargetMass
from sparton.errors import ConfigError, DataError
from sparton.physics.grooming import soft_drop_mass
from sparton.physics.jets import Jets
from tests.synthetic import random_jets

PEAKS = MassPeaks(centres=(80.0, 91.0, 172.0), width=0.04, shares=(0.5, 0.2, 0.3))


def spectrum(rows: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Masses drawn from ``PEAKS``, and the peak of each."""
    rng = np.random.default_rng(seed)
    peak = rng.choice(3, size=rows, p=PEAKS.shares)
    logs = np.log(PEAKS.centres)[peak] + PEAKS.width * rng.standard_t(2, size=rows)
    return np.exp(logs).astype(np.float32), peak


def test_peaks_are_found_where_they_are() -> None:
    masses, _ = spectrum(20_000)
    found = find_peaks(masses, 3)
    np.testing.assert_allclose(found.centres, PEAKS.centres, rtol=0.005)
    np.testing.assert_allclose(found.shares, PEAKS.shares, atol=0.02)
    assert found.width == pytest.approx(PEAKS.width, rel=0.05)
    assert find_peaks(np.random.default_rng(1).permutation(masses), 3) == found


def test_a_class_is_the_peak_with_the_largest_sum_of_densities() -> None:
    masses = np.stack([spectrum(300, seed)[0] for seed in range(3)], axis=1)
    logs = np.log(masses.astype(float))
    sums = [
        share * student.pdf(logs, 2, np.log(centre), PEAKS.width).sum(axis=1)
        for centre, share in zip(PEAKS.centres, PEAKS.shares, strict=True)
    ]
    np.testing.assert_array_equal(PEAKS.classify(masses), np.argmax(sums, axis=0))


def test_a_mass_far_from_all_peaks_leaves_the_choice_to_the_others() -> None:
    assert PEAKS.classify(np.array([[120.0, 91.0], [80.0, 3.0], [0.0, 172.0]])).tolist() == [1, 0, 2]


def test_edges_are_where_neighbours_are_equally_likely() -> None:
    edges = PEAKS.edges()
    assert edges[0] == 0
    for index, edge in enumerate(edges[1:]):
        densities = PEAKS.log_densities(np.array([edge]))[0]
        assert densities[index] == pytest.approx(densities[index + 1], abs=1e-6)
    masses, _ = spectrum(500)
    between = masses[(masses > 78) & (masses < 175)]
    np.testing.assert_array_equal(PEAKS.classify(between[:, None]), np.digitize(between, edges) - 1)


def test_a_peak_that_swallows_its_neighbour_is_cut_off_in_the_middle() -> None:
    peaks = MassPeaks(centres=(80.0, 81.0), width=0.5, shares=(0.99, 0.01))
    assert peaks.edges()[1] == pytest.approx(np.sqrt(80.0 * 81.0))


@pytest.mark.parametrize(
    ("masses", "count", "problem"),
    [
        (np.full(50, 80.0), 2, "found 1 distinct masses in 50 jets, expected more than 2"),
        (
            np.concatenate([np.full(500, 80.0) + np.linspace(0, 1e-3, 500), [500.0]]),
            2,
            "no 2 peaks in the masses of 501",
        ),
    ],
)
def test_missing_peaks_are_named(masses: np.ndarray, count: int, problem: str) -> None:
    with pytest.raises(DataError, match=problem):
        find_peaks(masses, count)


def test_the_target_is_the_peak_that_all_masses_speak_for() -> None:
    jets: Jets = random_jets(200, seed=3)[0]
    groomed = TargetMass(definition="soft_drop", symmetry_cut=0.3, beta=0.0)
    spec = FeatureSpec(mass_bin_edges=(), mass_peaks=3, mass=groomed, further_masses=(TargetMass(),)).with_peaks(PEAKS)
    masses = np.stack([soft_drop_mass(jets, 0.3, 0.0), jets.jet_mass], axis=1)
    np.testing.assert_array_equal(target_classes(jets, spec), PEAKS.classify(masses))
    assert np.any(PEAKS.classify(masses) != PEAKS.classify(masses[:, :1]))


def test_the_number_of_peaks_stands_in_place_of_edges() -> None:
    spec = validate(FeatureSpec, {"mass_peaks": 3, "further_masses": [{"definition": "soft_drop"}]}, "test")
    assert spec.is_open
    assert validate(FeatureSpec, spec.model_dump(mode="json"), "test") == spec
    resolved = spec.with_peaks(PEAKS)
    assert (resolved.is_open, resolved.mass_bin_edges, resolved.further_masses) == (
        False,
        PEAKS.edges(),
        spec.further_masses,
    )
    assert validate(FeatureSpec, resolved.model_dump(mode="json"), "test") == resolved


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ({"mass_peaks": 3, "mass_bins": 5}, "either mass_bin_edges .* or mass_bins or mass_peaks"),
        ({"mass_peaks": 3, "mass_bin_edges": [0, 10]}, "either mass_bin_edges .* or mass_bins or mass_peaks"),
        ({"further_masses": [{}]}, "further_masses have a say in mass_peaks alone"),
        ({"peaks": PEAKS.model_dump()}, "peaks and mass_bin_edges disagree"),
        ({"mass_peaks": 1}, "mass_peaks: .* greater than or equal to 2"),
    ],
)
def test_impossible_specs_are_refused(values: dict[str, object], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        validate(FeatureSpec, values, "test")


def test_peaks_must_rise() -> None:
    with pytest.raises(ConfigError, match="rising centres and as many shares"):
        MassPeaks(centres=(90.0, 80.0), width=0.1, shares=(0.5, 0.5))
