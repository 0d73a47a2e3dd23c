"""Generated jets look as jets do: mass peaks, multiplicities and resonances.

The peak of a groomed mass is estimated, over all jets above 40 GeV, as the median of the jets in the shortest interval
that holds 35 % of them: no window is placed around the expected value, so a wrong peak is not pulled towards it. The
estimate spreads by 0.2 GeV (W, Z) and 0.4 GeV (t) for 1500 jets.
"""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sparton.physics import kinematics as kin
from sparton.physics.generator import generate_jets
from sparton.physics.grooming import soft_drop_mass
from sparton.physics.jets import Jets
from sparton.physics.settings import GenerationSettings

MARGIN = 1.0
"""Constituents that the reference may be off by: 0.5 from rounding, as much from differences of the selections."""

MEDIAN_ERROR = 1.2533
"""Standard error of the median of a normal distribution in units of the mean's, sqrt(pi / 2)."""


@functools.cache
def sample(process: str, n_jets: int, underlying_event: bool = False) -> Jets:
    return generate_jets(process, n_jets, 2024, GenerationSettings(underlying_event=underlying_event))


def peak(masses: NDArray[Any], fraction: float = 0.35) -> float:
    ordered = np.sort(masses[masses > 40.0])
    count = int(np.ceil(fraction * ordered.size))
    start = int(np.argmin(ordered[count - 1 :] - ordered[: ordered.size - count + 1]))
    return float(np.median(ordered[start : start + count]))


def test_the_estimate_of_a_peak_is_not_pulled_by_the_rest() -> None:
    rng = np.random.default_rng(0)
    masses = np.concatenate([rng.normal(120, 4, 800), rng.uniform(0, 400, 700)])
    assert peak(masses) == pytest.approx(120, abs=1)


@pytest.mark.parametrize(("process", "mass"), [("W", 80.4), ("Z", 91.2), ("t", 172.5)])
def test_groomed_mass_peaks_at_the_particle(process: str, mass: float) -> None:
    assert peak(soft_drop_mass(sample(process, 1500))) == pytest.approx(mass, abs=2.0)


@pytest.mark.parametrize(
    ("process", "mean", "median"), [("g", 98, 96), ("q", 61, 57), ("W", 54, 51), ("Z", 57, 54), ("t", 89, 86)]
)
def test_multiplicity_with_underlying_event(process: str, mean: float, median: float) -> None:
    """The reference: some 1900 jets of each class from an independent program, to whole numbers.

    Allowed are three standard errors of sample and reference together and :data:`MARGIN`. Without the underlying event
    W jets have 9 constituents less, which would fail.
    """
    counts = sample(process, 400, underlying_event=True).n_constituents
    error = counts.std() * np.sqrt(1 / counts.size + 1 / 1900)
    assert counts.mean() == pytest.approx(mean, abs=3 * error + MARGIN)
    assert np.median(counts) == pytest.approx(median, abs=3 * MEDIAN_ERROR * error + MARGIN)


def test_the_underlying_event_adds_constituents_and_mass() -> None:
    quiet, busy = sample("W", 1500), sample("W", 400, underlying_event=True)
    error = quiet.n_constituents.std() * np.sqrt(1 / 1500 + 1 / 1900)
    assert quiet.n_constituents.mean() == pytest.approx(45.6, abs=3 * error)
    assert np.median(busy.jet_mass) - np.median(quiet.jet_mass) == pytest.approx(15, abs=6)


def test_lhco_signal_has_its_three_masses() -> None:
    jets = sample("lhco-signal", 300)
    first, second = jets.take(np.arange(0, 300, 2)), jets.take(np.arange(1, 300, 2))
    total = [
        kin.segment_sum(getattr(first, name), first.offsets) + kin.segment_sum(getattr(second, name), second.offsets)
        for name in ("px", "py", "pz", "energy")
    ]
    assert np.median(kin.invariant_mass(*total)) == pytest.approx(3500, abs=60)
    groomed = soft_drop_mass(jets, radius=1.0).reshape(-1, 2)
    assert peak(groomed.max(axis=1)) == pytest.approx(500, abs=15)
    assert peak(groomed.min(axis=1)) == pytest.approx(100, abs=5)
