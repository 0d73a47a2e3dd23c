"""The model of efficiency in cases that have a closed form."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from parts.scaling_model import (
    Exchange,
    Fit,
    Link,
    Workload,
    allreduce_seconds,
    bandwidth_for,
    efficiency,
    expected_maximum,
    fit_line,
    link_of,
    messages,
    spread,
    step_seconds,
)

LINK = Link(latency_s=1e-5, bytes_per_second=1e9, overhead_s=3e-4)
WORKLOAD = Workload(0.2, (4.0, 400.0, 2e5), spread_s=2e-3)
positive = st.floats(1e-9, 1e3)


def test_two_workers_cost_two_messages_and_the_bytes_once() -> None:
    assert allreduce_seconds(1e6, 2, LINK) == pytest.approx(3e-4 + 2e-5 + 1e-3, rel=1e-12)
    assert allreduce_seconds(1e6, 2, LINK, "tree") == allreduce_seconds(1e6, 2, LINK)


def test_ring_and_tree_of_a_thousand() -> None:
    bytes_s = 2 * 1023 / 1024 * 1e6 / 1e9
    assert allreduce_seconds(1e6, 1024, LINK) == pytest.approx(3e-4 + 2046e-5 + bytes_s, rel=1e-12)
    assert allreduce_seconds(1e6, 1024, LINK, "tree") == pytest.approx(3e-4 + 20e-5 + bytes_s, rel=1e-12)
    assert (messages(5, "ring"), messages(5, "tree")) == (8, 6)


def test_gathering_takes_half_the_messages_of_a_tree_and_all_the_bytes() -> None:
    assert allreduce_seconds(1e6, 2, LINK, "gather") == pytest.approx(3e-4 + 1e-5 + 1e-3, rel=1e-12)
    assert allreduce_seconds(1e6, 9, LINK, "gather") == pytest.approx(3e-4 + 4e-5 + 8e-3, rel=1e-12)
    assert [messages(count, "gather") for count in (1, 2, 3, 4, 5, 8, 9)] == [0, 1, 2, 2, 3, 3, 4]
    link = link_of(Fit(5e-4, 2e-10, 0.0), 3e-5, "gather")
    assert (link.latency_s, link.overhead_s) == pytest.approx((3e-5, 4.7e-4))


def test_vectors_beyond_the_limit_take_the_other_way() -> None:
    slow = Link(1e-3, 1e6)
    both = Exchange(LINK, "gather", 1000.0, Exchange(slow, "ring"))
    assert both.seconds(250.0, 4) == allreduce_seconds(250.0, 4, LINK, "gather")
    assert both.seconds(251.0, 4) == allreduce_seconds(251.0, 4, slow)
    expected = allreduce_seconds(4.0, 8, LINK, "gather") + sum(
        allreduce_seconds(size, 8, slow) for size in (400.0, 2e5)
    )
    assert step_seconds(Workload(0.2, (4.0, 400.0, 2e5)), 8, both) == pytest.approx(0.2 + expected, rel=1e-12)


def test_one_worker_exchanges_nothing_and_none_is_refused() -> None:
    assert allreduce_seconds(1e9, 1, LINK) == 0
    assert efficiency(WORKLOAD, 1, Exchange(LINK)) == 1
    with pytest.raises(ValueError, match="1 worker or more"):
        allreduce_seconds(1.0, 0, LINK)


@pytest.mark.parametrize(
    ("workers", "mean"),
    [
        (1, 0.0),
        (2, 1 / math.sqrt(math.pi)),
        (3, 1.5 / math.sqrt(math.pi)),
        (4, 6 / math.pi**1.5 * math.atan(math.sqrt(2))),
        (5, 2.5 / math.sqrt(math.pi) * (6 / math.pi * math.atan(math.sqrt(2)) - 1)),
    ],
)
def test_mean_of_the_largest_normal_number(workers: int, mean: float) -> None:
    assert expected_maximum(workers) == pytest.approx(mean, abs=1e-9)


def test_mean_of_the_largest_of_many_is_that_of_draws() -> None:
    draws = np.random.default_rng(3).standard_normal((4000, 1024)).max(axis=1)
    assert abs(expected_maximum(1024) - draws.mean()) < 5 * draws.std() / math.sqrt(4000)


def test_a_step_is_the_sum_of_its_parts() -> None:
    exchange = sum(allreduce_seconds(size, 8, LINK, "tree") for size in WORKLOAD.collectives)
    expected = 0.2 + 2e-3 * expected_maximum(8) + exchange
    assert step_seconds(WORKLOAD, 8, Exchange(LINK, "tree")) == pytest.approx(expected, rel=1e-12)
    assert efficiency(WORKLOAD, 8, Exchange(LINK, "tree")) == pytest.approx(0.2 / expected, rel=1e-12)


def test_workers_that_share_a_host_compute_longer_than_the_one_they_are_compared_with() -> None:
    free = Exchange(Link(0.0, math.inf))
    assert efficiency(Workload(0.2, (1e9,), shared_s=0.25), 2, free) == pytest.approx(0.8)
    assert efficiency(Workload(0.2, (1e9,)), 1024, free) == 1


@settings(deadline=None)
@given(positive, st.integers(1, 10))
def test_efficiency_falls_with_workers_and_a_tree_is_never_worse(step_s: float, power: int) -> None:
    work = Workload(step_s, (4.0, 1e6), spread_s=0.01 * step_s)
    values = [efficiency(work, 2**exponent, Exchange(LINK)) for exponent in range(power + 1)]
    assert all(0 < after < before <= 1 for before, after in pairwise(values))
    assert efficiency(work, 2**power, Exchange(LINK, "tree")) >= values[-1]


def test_bandwidth_for_an_efficiency_gives_it() -> None:
    needed = bandwidth_for(0.975, 0.197, 51.2e6, 24)
    assert efficiency(Workload(0.197, (51.2e6,)), 24, Exchange(Link(0.0, needed))) == pytest.approx(0.975, rel=1e-12)
    with pytest.raises(ValueError, match="between 0 and 1"):
        bandwidth_for(1.0, 0.197, 51.2e6, 24)


@given(positive, st.floats(1e-12, 1e-6))
def test_fit_finds_a_line(intercept: float, slope: float) -> None:
    sizes = [1e3 * 4**power for power in range(9)]
    found = fit_line(sizes, [intercept + slope * size for size in sizes])
    assert found.worst < 1e-6


def test_fit_weighs_small_messages_as_much_as_large_ones() -> None:
    sizes = [1e3 * 4**power for power in range(9)]
    found = fit_line(sizes, [(2e-4 + 1e-9 * size) * (1 + 0.05 * (-1) ** index) for index, size in enumerate(sizes)])
    assert found.intercept_s == pytest.approx(2e-4, rel=0.1)
    assert found.seconds_per_byte == pytest.approx(1e-9, rel=0.1)
    assert 0.04 < found.worst < 0.12
    with pytest.raises(ValueError, match="two sizes"):
        fit_line([1.0, 1.0], [1.0, 1.0])


def test_link_of_two_measured_workers_gives_back_what_was_measured() -> None:
    fit = Fit(5e-4, 2e-10, 0.0)
    link = link_of(fit, hop_s=3e-5)
    assert (link.latency_s, link.overhead_s) == pytest.approx((3e-5, 4.4e-4))
    assert allreduce_seconds(1e7, 2, link) == pytest.approx(5e-4 + 2e-3)
    slow = link_of(fit, hop_s=1.0)
    assert (slow.latency_s, slow.overhead_s) == (2.5e-4, 0.0)


def test_spread_is_that_within_turns() -> None:
    rng = np.random.default_rng(5)
    turns = [mean + 0.01 * rng.standard_normal(500) for mean in (0.2, 0.4, 0.1)]
    assert spread(turns) == pytest.approx(0.01, rel=0.1)
    assert spread([[1.0, 3.0], [7.0, 9.0]]) == pytest.approx(math.sqrt(2))
    with pytest.raises(ValueError, match="two steps"):
        spread([[1.0], [2.0]])
