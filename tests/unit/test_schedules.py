"""Schedules at their boundaries and against their closed forms."""

from __future__ import annotations

import itertools
import math
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparton.optim.schedules import (
    WarmupShape,
    averaging_momentum,
    halving,
    halving_momentum,
    ramp,
    scaled_rate,
    warmup,
    warmup_cosine,
)


def test_warmup_rises_to_the_peak_and_the_cosine_falls_to_the_floor() -> None:
    rates = [warmup_cosine(step, 100, peak=0.1, warmup_steps=10, floor=0.001) for step in range(100)]
    assert rates[0] == pytest.approx(0.01)
    assert rates[9] == pytest.approx(0.1)
    assert rates[10] == pytest.approx(0.1)
    assert rates[99] == pytest.approx(0.001)
    assert rates[:10] == sorted(rates[:10])
    assert rates[10:] == sorted(rates[10:], reverse=True)


SHAPES = get_args(WarmupShape)


@given(st.floats(1e-6, 1.0), st.floats(1.0, 1e3), st.integers(1, 200), st.sampled_from(SHAPES))
def test_every_warmup_rises_to_exactly_its_end(first: float, factor: float, steps: int, shape: WarmupShape) -> None:
    rates = [warmup((step + 1) / steps, first, first * factor, shape) for step in range(steps)]
    assert rates[-1] == first * factor
    assert all(one <= other * (1 + 1e-12) for one, other in itertools.pairwise(rates))
    assert rates[0] >= first * (1 - 1e-12)


def test_warmups_half_way_are_their_closed_forms() -> None:
    values = {shape: warmup(0.5, 1.0, 9.0, shape) for shape in SHAPES}
    expected = {"linear": 5.0, "exponential": 3.0, "quadratic": 3.0, "root": 1 + 8 * math.sqrt(0.5)}
    assert values == pytest.approx(expected | {"cosine": 5.0, "constant": 1.0})
    assert warmup(0.0, 1.0, 9.0, "cosine") == 1.0


@pytest.mark.parametrize("workers", [1, 2, 24])
def test_linear_from_one_worker_is_horovods_callback(workers: int) -> None:
    """Its rate is initial_lr (e (N - 1) / W + 1) / N with e = epoch + (batch + 1) / S and initial_lr = N rate."""
    rate, epochs, steps = 0.1, 5, 7
    for step in range(epochs * steps):
        epoch, batch = divmod(step, steps)
        reached = epoch + batch / steps + 1 / steps
        theirs = workers * rate * (reached * (workers - 1) / epochs + 1) / workers
        ours = warmup_cosine(step, 100, workers * rate, epochs * steps, first=rate)
        assert ours == pytest.approx(theirs, rel=1e-12)


def test_impossible_warmups_are_refused() -> None:
    with pytest.raises(ValueError, match="positive first rate"):
        warmup(0.5, 0.0, 1.0, "exponential")
    with pytest.raises(ValueError, match=r"share in \[0, 1\]"):
        warmup(1.5, 0.0, 1.0)


def test_cosine_is_half_way_down_in_the_middle() -> None:
    assert warmup_cosine(50, 101, peak=1.0) == pytest.approx(0.5)
    assert warmup_cosine(25, 101, peak=1.0) == pytest.approx((1 + math.cos(math.pi / 4)) / 2)


def test_single_step_has_the_peak() -> None:
    assert warmup_cosine(0, 1, peak=0.3) == pytest.approx(0.3)


@pytest.mark.parametrize(("steps", "warmup_steps"), [(0, 0), (5, 5), (5, -1)])
def test_impossible_lengths_are_refused(steps: int, warmup_steps: int) -> None:
    with pytest.raises(ValueError, match="Received"):
        warmup_cosine(0, steps, 1.0, warmup_steps)


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
