"""The criterion and the efficiencies of algorithms.md a.1, against numbers worked out by hand."""

from __future__ import annotations

import json
from dataclasses import asdict

import pytest

from sparton.distributed.simulate import simulate
from sparton.distributed.times import Times, WorkerTimes, scaling_efficiency
from sparton.distributed.world import Connection


def test_published_figures() -> None:
    """24 GPUs for 20 minutes at 97.5 %: 8.0 GPU hours, 7.8 of one GPU alone."""
    figures = WorkerTimes(((24, Times(compute=19.5 * 60, exchange=0.5 * 60)),)).figures()
    assert figures["worker_s"] / 3600 == pytest.approx(8.0)
    assert figures["efficiency_corrected_worker_s"] / 3600 == pytest.approx(7.8)
    assert scaling_efficiency({1: 1300.0, 24: 30_420.0}) == {1: 1.0, 24: pytest.approx(0.975)}


@pytest.mark.parametrize("throughputs", [{}, {2: 3.0}, {1: 0.0, 2: 1.0}, {1: 1.0, 2: -1.0}])
def test_efficiency_needs_the_throughput_of_one(throughputs: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="that of 1 worker among them"):
        scaling_efficiency(throughputs)


def test_workers_are_averaged() -> None:
    own = (Times(1.0, 6.0, 2.0, 1.0), Times(3.0, 5.0, 4.0, 0.0))

    def rank(connection: Connection) -> WorkerTimes:
        return WorkerTimes(((2, own[connection.world.rank]),)).gathered(connection)

    for found in simulate(2, rank):
        assert found.workers == 2
        assert vars(found.mean) == {"input": 2.0, "compute": 5.5, "exchange": 3.0, "other": 0.5}
        assert vars(found.total) == {name: 2 * value for name, value in vars(found.mean).items()}
        assert found.efficiency == pytest.approx(7.5 / 10.5)
        figures = found.figures()
        assert figures["worker_s"] == 22.0
        assert figures["efficiency_corrected_worker_s"] == pytest.approx(22 * 7.5 / 10.5)
        assert figures["exchange_share"] == pytest.approx(3 / 11)


def test_each_world_counts_with_its_own_workers() -> None:
    """One worker for 10 s, then four for 5 s, and one again for 3 s: 18 s by the clock, 33 s of workers."""
    times = WorkerTimes(
        ((1, Times(1.0, 8.0, 0.0, 1.0)), (4, Times(0.5, 2.0, 1.5, 1.0)), (1, Times(0.0, 2.0, 0.0, 1.0)))
    )
    figures = times.figures()
    assert figures["mean_training_s"] == 18.0
    assert figures["worker_s"] == 10 + 4 * 5 + 3
    efficiency = 1 - 4 * 1.5 / (9 + 4 * 4 + 2)
    assert figures["efficiency_outside_exchange"] == pytest.approx(efficiency)
    assert figures["efficiency_corrected_worker_s"] == pytest.approx(33 * efficiency)
    shares = {name: figures[f"{name}_share"] for name in vars(times.own)}
    assert shares == pytest.approx({"input": 3 / 33, "compute": 18 / 33, "exchange": 6 / 33, "other": 6 / 33})


def test_a_world_goes_on_where_another_one_was() -> None:
    """Through a checkpoint; one of the same size goes on with the times of its own."""
    times = WorkerTimes.start(2)
    times.own.compute += 5.0
    found = WorkerTimes.of(json.loads(json.dumps(asdict(times))))
    assert found == times == found.taken_over(2)
    later = found.taken_over(3)
    later.own.compute += 1.0
    assert later.worlds == ((2, Times(compute=5.0)), (3, Times(compute=1.0)))
    assert later.taken_over(2).worlds == (*later.worlds, (2, Times()))

    def rank(connection: Connection) -> WorkerTimes:
        own = later.taken_over(2)
        own.own.input = 1.0 + connection.world.rank
        return own.gathered(connection)

    for each in simulate(2, rank):
        assert each.worlds == (*later.worlds, (2, Times(input=1.5)))


def test_no_time_at_all_is_no_error() -> None:
    nothing = WorkerTimes.start(1)
    assert nothing.efficiency == 1.0
    assert set(nothing.total.shares().values()) == {0.0}
