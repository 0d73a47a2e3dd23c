"""The criterion and the efficiencies of algorithms.md a.1, against numbers worked out by hand."""

from __future__ import annotations

import pytest

from sparton.distributed.simulate import simulate
from sparton.distributed.times import Times, WorkerTimes, gpu_time, scaling_efficiency
from sparton.distributed.world import Connection


def test_published_figures() -> None:
    """24 GPUs for 20 minutes at 97.5 %: 8.0 GPU hours, 7.8 of one GPU alone."""
    assert gpu_time(20 * 60, 24) / 3600 == pytest.approx(8.0)
    assert gpu_time(20 * 60, 24, 0.975) / 3600 == pytest.approx(7.8)
    assert scaling_efficiency({1: 1300.0, 24: 30_420.0}) == {1: 1.0, 24: pytest.approx(0.975)}


@pytest.mark.parametrize("throughputs", [{}, {2: 3.0}, {1: 0.0, 2: 1.0}, {1: 1.0, 2: -1.0}])
def test_efficiency_needs_the_throughput_of_one(throughputs: dict[int, float]) -> None:
    with pytest.raises(ValueError, match="that of 1 worker among them"):
        scaling_efficiency(throughputs)


def test_workers_are_averaged() -> None:
    own = (Times(1.0, 6.0, 2.0, 1.0), Times(3.0, 5.0, 4.0, 0.0))

    def rank(connection: Connection) -> WorkerTimes:
        return WorkerTimes.gathered(connection, own[connection.world.rank])

    for found in simulate(2, rank):
        assert found.workers == 2
        assert vars(found.mean) == {"input": 2.0, "compute": 5.5, "exchange": 3.0, "other": 0.5}
        assert found.worker_time == 22.0
        assert found.efficiency == pytest.approx(7.5 / 10.5)
        figures = found.figures()
        assert figures["worker_s"] == 22.0
        assert figures["efficiency_corrected_worker_s"] == pytest.approx(22 * 7.5 / 10.5)
        assert figures["exchange_share"] == pytest.approx(3 / 11)


def test_no_time_at_all_is_no_error() -> None:
    nothing = WorkerTimes(1, Times())
    assert nothing.efficiency == 1.0
    assert set(nothing.mean.shares().values()) == {0.0}
