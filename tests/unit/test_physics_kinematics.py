"""Kinematics against closed forms, and jagged arrays against Python lists."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from sparton.errors import DataError
from sparton.physics import kinematics as kin

ANGLES = st.floats(-100.0, 100.0)
ROWS = st.lists(st.lists(st.floats(-1e3, 1e3, width=32), max_size=6), max_size=8)


def jagged(rows: list[list[float]]) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    return np.array([value for row in rows for value in row]), kin.offsets_from_counts([len(row) for row in rows])


@given(ANGLES, ANGLES)
def test_delta_phi_is_the_angle_between_directions(first: float, second: float) -> None:
    difference = float(kin.delta_phi(first, second))
    assert -np.pi <= difference < np.pi
    assert np.cos(difference) == pytest.approx(np.cos(first - second), abs=1e-12)
    assert np.sin(difference) == pytest.approx(np.sin(first - second), abs=1e-12)


@pytest.mark.parametrize("phi", [np.pi, -np.pi, 3 * np.pi, -1e-17 - np.pi, np.nextafter(-np.pi, -4)])
def test_wrapped_angles_stay_below_pi(phi: float) -> None:
    assert -np.pi <= float(kin.wrap_phi(phi)) < np.pi


def test_float32_angles_stay_in_range_when_widened() -> None:
    phi = kin.phi_to_float32([np.pi, -np.pi, np.nextafter(np.pi, 0), 0.5])
    assert phi.dtype == np.float32
    wide = phi.astype(np.float64)
    assert np.all((wide >= -np.pi) & (wide < np.pi))
    assert wide[3] == 0.5


@given(st.floats(0.1, 1e3), st.floats(-4, 4), st.floats(-3.14, 3.14), st.floats(0, 300))
def test_four_momenta_return_what_made_them(pt: float, eta: float, phi: float, mass: float) -> None:
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    energy = np.sqrt(px**2 + py**2 + pz**2 + mass**2)
    assert float(kin.transverse_momentum(px, py)) == pytest.approx(pt)
    assert float(kin.pseudorapidity(px, py, pz)) == pytest.approx(eta, abs=1e-9)
    assert float(kin.azimuth(px, py)) == pytest.approx(phi, abs=1e-9)
    assert float(kin.invariant_mass(px, py, pz, energy)) == pytest.approx(mass, abs=1e-3)


def test_limits_of_pseudorapidity_and_mass() -> None:
    np.testing.assert_array_equal(kin.pseudorapidity([0, 0, 0], [0, 0, 0], [2, -2, 0]), [np.inf, -np.inf, 0])
    assert float(kin.invariant_mass(3.0, 0.0, 4.0, 4.999)) == 0.0


@given(ROWS)
def test_segment_sum_is_the_sum_of_each_row(rows: list[list[float]]) -> None:
    values, offsets = jagged(rows)
    np.testing.assert_allclose(kin.segment_sum(values, offsets), [sum(row) for row in rows], atol=1e-9)


def test_a_row_sum_does_not_depend_on_the_other_rows() -> None:
    row = np.random.default_rng(0).normal(size=37)
    alone = kin.segment_sum(row, np.array([0, 37]))
    among = kin.segment_sum(np.concatenate([np.full(5, 1e12), row]), np.array([0, 5, 42]))
    assert among[1] == alone[0]


@given(ROWS, st.data())
def test_take_rows_picks_whole_rows(rows: list[list[float]], data: st.DataObject) -> None:
    values, offsets = jagged(rows)
    chosen = data.draw(st.lists(st.integers(0, len(rows) - 1), max_size=6)) if rows else []
    index, taken = kin.take_rows(offsets, chosen)
    expected, expected_offsets = jagged([rows[i] for i in chosen])
    np.testing.assert_array_equal(values[index], expected)
    np.testing.assert_array_equal(taken, expected_offsets)


@given(ROWS, st.integers(1, 8))
def test_pad_cuts_and_fills(rows: list[list[float]], width: int) -> None:
    values, offsets = jagged(rows)
    expected = [(row + [0.0] * width)[:width] for row in rows]
    np.testing.assert_array_equal(kin.pad(values, offsets, width), np.array(expected).reshape(len(rows), width))


def test_pad_keeps_type_and_further_axes() -> None:
    values = np.arange(6, dtype=np.float32).reshape(3, 2)
    padded = kin.pad(values, np.array([0, 1, 3]), 2)
    assert padded.dtype == np.float32
    np.testing.assert_array_equal(padded, [[[0, 1], [0, 0]], [[2, 3], [4, 5]]])


def test_pad_rejects_offsets_of_other_values() -> None:
    with pytest.raises(DataError, match="expected 0 to 3"):
        kin.pad(np.zeros(3), np.array([0, 2]), 2)
