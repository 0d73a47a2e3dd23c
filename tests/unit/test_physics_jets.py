"""The jagged container of jets."""

from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sparton.errors import DataError
from sparton.physics.jets import CONSTITUENT_COLUMNS, Jets


def random_jets(n_jets: int, seed: int) -> Jets:
    rng = np.random.default_rng(seed)
    counts = rng.integers(1, 20, n_jets)
    px, py, pz = rng.normal(0, 50, (3, counts.sum())).astype(np.float32)
    energy = np.sqrt(px**2 + py**2 + pz**2 + 0.1).astype(np.float32)
    offsets = np.concatenate([[0], np.cumsum(counts)])
    ids = rng.integers(1, 400, counts.sum()).astype(np.int32)
    return Jets.from_constituents(np.arange(n_jets), px, py, pz, energy, ids, offsets)


def test_jets_are_the_sums_of_their_constituents_by_falling_pt() -> None:
    jets = random_jets(40, 0)
    for i in range(len(jets)):
        own = slice(jets.offsets[i], jets.offsets[i + 1])
        px, py, pz, energy = (getattr(jets, name)[own].astype(np.float64) for name in CONSTITUENT_COLUMNS[:4])
        assert np.all(np.diff(np.hypot(px, py)) <= 0)
        momentum = np.array([px.sum(), py.sum(), pz.sum()])
        assert jets.jet_pt[i] == pytest.approx(np.hypot(*momentum[:2]), rel=1e-6)
        assert jets.jet_phi[i] == pytest.approx(np.arctan2(momentum[1], momentum[0]), abs=1e-6)
        theta = np.arccos(momentum[2] / np.linalg.norm(momentum))
        assert jets.jet_eta[i] == pytest.approx(-np.log(np.tan(theta / 2)), abs=1e-5)
        assert jets.jet_mass[i] == pytest.approx(np.sqrt(energy.sum() ** 2 - momentum @ momentum), rel=1e-5)


def test_identities_follow_their_particles_when_sorted() -> None:
    ones = np.ones(3, np.float32)
    px = np.array([1, 5, 3], np.float32)
    jets = Jets.from_constituents(
        np.zeros(1, np.int64), px, 0 * ones, 0 * ones, px, np.array([11, 55, 33], np.int32), np.array([0, 3])
    )
    np.testing.assert_array_equal(jets.pdg_id, [55, 33, 11])


def test_concatenate_undoes_take() -> None:
    jets = random_jets(15, 1)
    again = Jets.concatenate([jets.take(np.arange(6)), jets.take(np.arange(15) >= 6)])
    assert again.equals(jets)
    assert not jets.shift_events(1).equals(jets)


def test_take_reorders_whole_jets() -> None:
    jets = random_jets(5, 2)
    swapped = jets.take([3, 0])
    np.testing.assert_array_equal(swapped.jet_mass, jets.jet_mass[[3, 0]])
    np.testing.assert_array_equal(swapped.n_constituents, jets.n_constituents[[3, 0]])
    np.testing.assert_array_equal(swapped.px[: swapped.offsets[1]], jets.px[jets.offsets[3] : jets.offsets[4]])


def test_no_jets_at_all() -> None:
    assert len(Jets.empty()) == 0
    assert len(Jets.concatenate([])) == 0
    assert len(random_jets(3, 0).take([])) == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"px": np.zeros(2, np.float32)}, "column px"),
        ({"jet_pt": np.zeros(2, np.float32)}, "column jet_pt"),
        ({"offsets": np.array([1, 2, 3, 4])}, "offsets|entries"),
    ],
)
def test_arrays_that_disagree_are_refused(change: dict[str, NDArray[Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        dataclasses.replace(random_jets(3, 0), **change)
