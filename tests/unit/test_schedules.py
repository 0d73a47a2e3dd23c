"""Schedules at their boundaries and against their closed forms."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparton.optim.schedules import (
    averaging_momentum,
    halving,
    halving_momentum,
    ramp,
    scaled_rate,
    warmup_cosine,
)


def test_warmup_rises_to_the_peak_and_the_cosine_falls_to_the_floor() -> None:
    rates = [warmup_cosine(step, 100, peak=0.1, warmup=10, floor=0.001) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(0.1)
    assert rates[99] == pytest.approx(0.001)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert warmup_cosine(50, 101, peak=1.0) == pytest.approx(0.5)
    assert warmup_cosine(25, 101, peak=1.0) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_single_step_has_the_peak() -> None:
    assert warmup_cosine(0, 1, peak=0.3) == pytest.approx(0.3)


@pytest.mark.parametrize(("steps", "warmup"), [(0, 0), (5, 5), (5, -1)])
def test_impossible_lengths_are_refused(steps: int, warmup: int) -> None:
    with pytest.raises(ValueError, match="Received"):
        warmup_cosine(0, steps, 1.0, warmup)


def test_ramp_is_linear_and_keeps_its_ends() -> None:
    assert [ramp(step, 5, 2.0, 10.0) for step in range(7)] == [2, 4, 6, 8, 10, 10, 10]
    assert ramp(0, 1, 2.0, 10.0) == 10.0


@given(st.lists(st.floats(-100, 100), min_size=1, max_size=30))
def test_momentum_below_its_ceiling_is_the_plain_mean(values: list[float]) -> None:
    average = 1e9
    for step, value in enumerate(values):
        momentum = averaging_momentum(step, 0.999)
        average = momentum * average + (1 - momentum) * value
    assert average == pytest.approx(sum(values) / len(values), abs=1e-6)


def test_momentum_stops_at_its_ceiling() -> None:
    assert averaging_momentum(10**6, 0.97) == 0.97


def test_linear_scaling() -> None:
    assert scaled_rate(0.1, 4, scale=True) == pytest.approx(0.4)
    assert scaled_rate(0.1, 4, scale=False) == 0.1


def test_halving_is_a_staircase_down_to_the_floor() -> None:
    rates = [halving(samples, 1e-3, 500_000, 1e-5) for samples in (0, 499_999, 500_000, 999_999, 1_000_000)]
    assert rates == [1e-3, 1e-3, 5e-4, 5e-4, 2.5e-4]
    assert halving(6 * 500_000, 1e-3, 500_000, 1e-5) == pytest.approx(1e-3 / 64)
    assert halving(7 * 500_000, 1e-3, 500_000, 1e-5) == 1e-5
    assert halving(10**15, 1e-3, 500_000, 1e-5) == 1e-5


def test_momentum_halves_its_distance_from_one_up_to_the_ceiling() -> None:
    momenta = [halving_momentum(stair * 500_000, 500_000, 0.99) for stair in range(8)]
    assert momenta == [0.5, 0.75, 0.875, 0.9375, 0.96875, 0.984375, 0.99, 0.99]
    assert halving_momentum(499_999, 500_000, 0.99) == 0.5
    assert halving_momentum(10**15, 500_000, 0.99) == 0.99


def test_stairs_without_length_are_refused() -> None:
    with pytest.raises(ValueError, match="every=0"):
        halving(1, 0.5, every=0)
    with pytest.raises(ValueError, match="every=0"):
        halving_momentum(1, every=0, ceiling=0.5)
