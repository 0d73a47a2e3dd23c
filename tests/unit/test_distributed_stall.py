from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest
import tensorflow as tf

from sparton.distributed import stall
from sparton.distributed.collectives import LocalCollectives
from sparton.distributed.times import Stopwatch, Times

SLACK_S = 0.35  # of a busy machine


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stall, "POLL_S", 0.01)


def test_collectives_in_graphs_are_counted() -> None:
    activity = stall.Activity()

    @tf.function
    def step(x: tf.Tensor) -> tf.Tensor:
        for _ in tf.range(3):
            x = activity.around(lambda value: value + 1, x)
        return x

    assert float(step(tf.constant(1.0))) == 4.0
    assert float(activity.around(lambda value: value * 2, tf.constant(1.0))) == 2.0
    assert activity.counts() == (4, 4)


def test_time_in_collectives_is_booked_apart_from_the_parts() -> None:
    """Also that of those inside a graph, from the moment at which the operand is there."""
    activity = stall.Activity()
    pause = tf.function(lambda x: activity.around(lambda value: value + slowly(value, 0.2), x))

    class Collectives(LocalCollectives):
        def waited(self) -> float:
            return activity.seconds()

    pause(tf.constant(1.0))  # traces
    before = activity.seconds()
    watch = Stopwatch(Collectives(), Times())
    for _ in watch.reading(delayed([1, 2], 0.1)):
        pause(slowly(tf.constant(1.0), 0.1))
        with activity.during():
            time.sleep(0.1)
        watch.lap("compute")
    in_steps = activity.seconds() - before
    with activity.during():  # outside of steps that is no exchange, but waiting for a rank that does something else
        time.sleep(0.1)
    watch.lap("other")
    times = watch.times
    assert times.exchange == pytest.approx(in_steps)
    assert 2 * 0.3 <= times.exchange < 2 * 0.3 + SLACK_S
    assert 2 * 0.1 <= times.input < 2 * 0.1 + SLACK_S
    assert 2 * 0.1 <= times.compute < 2 * 0.1 + SLACK_S
    assert 0.1 <= times.other < 0.1 + SLACK_S
    assert times.total == pytest.approx(sum(vars(times).values()))
    assert sum(times.shares().values()) == pytest.approx(1)


def slowly(value: tf.Tensor, seconds: float) -> tf.Tensor:
    """Return the value some time later, in a graph too."""

    def wait(array: tf.Tensor) -> tf.Tensor:
        time.sleep(seconds)
        return array

    return tf.py_function(wait, [value], tf.float32)


def delayed(values: list[int], seconds: float) -> Iterator[int]:
    for value in values:
        time.sleep(seconds)
        yield value


def test_a_collective_under_way_is_seen_from_another_thread() -> None:
    activity = stall.Activity()
    queue = tf.queue.FIFOQueue(1, [tf.float32])
    waiting = tf.function(lambda x: activity.around(lambda value: value + queue.dequeue(), x))
    thread = threading.Thread(target=waiting, args=(tf.constant(1.0),))
    thread.start()
    deadline = time.monotonic() + 20
    while activity.counts() != (1, 0):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    queue.enqueue(1.0)
    thread.join()
    assert activity.counts() == (1, 1)


class Recorder:
    """The counts that a guard reads, and what it does."""

    def __init__(self) -> None:
        self.begun, self.ended = 0, 0
        self.notes: list[str] = []
        self.waited: list[float] = []
        self.stopped = threading.Event()

    def stop(self, seconds: float) -> None:
        self.waited.append(seconds)
        self.stopped.set()

    def guard(self, check_s: float, shutdown_s: float) -> None:
        stall.Guard(lambda: (self.begun, self.ended), check_s, shutdown_s, self.notes.append, self.stop).start()


def test_a_wait_is_told_and_ended() -> None:
    recorder = Recorder()
    recorder.begun = 1
    started = time.monotonic()
    recorder.guard(0.1, 0.4)
    assert recorder.stopped.wait(10)
    assert time.monotonic() - started >= 0.4
    assert recorder.waited[0] > 0.4
    assert recorder.notes == ["waiting"]


def test_a_wait_that_ends_is_told_once_and_does_not_end_the_job() -> None:
    recorder = Recorder()
    recorder.begun = 1
    recorder.guard(0.1, 1.0)
    deadline = time.monotonic() + 10
    while recorder.notes != ["waiting"]:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    recorder.ended = 1
    assert not recorder.stopped.wait(1.3)
    assert recorder.notes == ["waiting", "resumed"]


def test_long_computations_and_many_quick_collectives_are_no_stalls() -> None:
    computing, busy = Recorder(), Recorder()
    computing.guard(0.05, 0.2)
    busy.guard(0.05, 0.2)
    deadline = time.monotonic() + 0.6
    while time.monotonic() < deadline:
        busy.ended, busy.begun = busy.begun, busy.begun + 1  # always inside one, never the same for long
        time.sleep(0.005)
    assert (computing.notes, busy.notes) == ([], [])
    assert not computing.stopped.is_set()
    assert not busy.stopped.is_set()
