"""Workers that the tasks of one Spark barrier stage start; all or none of them run."""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]

from sparton.distributed import barrier_task, driver, relay, slots
from sparton.distributed.barrier_task import Outcome
from sparton.distributed.launcher import Launcher
from sparton.errors import TrainingError, WorkerError

if TYPE_CHECKING:
    from pyspark import SparkContext

    from sparton.distributed.launch import LaunchSettings
    from sparton.distributed.relay import Relay
    from sparton.distributed.supervisor import Order

POLL_S = 0.1
END_GRACE_S = 20.0  # for the tasks to end by themselves after a worker has failed
CANCEL_GRACE_S = 20.0  # for Spark to end a cancelled job

_numbers = itertools.count(1)
logger = logging.getLogger(__name__)


class BarrierLauncher(Launcher):
    """Starts workers from a barrier stage, from any thread of the driver.

    The tasks exchange addresses through Spark, so nothing listens on the driver but the line to the workers.
    """

    name = "barrier"

    def __init__(self, context: SparkContext, settings: LaunchSettings) -> None:
        self._context = context
        self._settings = settings

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        """Run a function on all ranks; see :meth:`Launcher.run`."""
        settings, workers = self._settings, self._settings.workers
        slots.require(self._context, workers)
        logger.info("starting %d workers in a barrier stage on Spark (%s)", workers, self._context.master)
        started = time.monotonic()
        with relay.listen(*driver.address(self._context), settings.port or 0, workers) as (line, address):
            order = driver.order(fn, args, address, self._context, settings)
            job = _Job(self._context, order, settings)
            try:
                outcomes = _wait(job, line, settings)
            finally:
                job.end()
        driver.log_end(line, workers, time.monotonic() - started)
        ranked = sorted(outcomes, key=lambda outcome: outcome.rank)
        return [cloudpickle.loads(outcome.result) for outcome in ranked]


class _Job:
    """The Spark job, in a thread of its own, so that it can be left when something else is known."""

    def __init__(self, context: SparkContext, order: Order, settings: LaunchSettings) -> None:
        from pyspark import InheritableThread

        self._context = context
        self._group = f"sparton-launch-{next(_numbers)}"
        self._task = _task(order, settings.interface)
        self._workers = settings.workers
        self.outcomes: list[Outcome] | None = None
        self.error: Exception | None = None
        self._thread = InheritableThread(target=self._collect, name=self._group, daemon=True)
        self._thread.start()

    def ended(self, seconds: float) -> bool:
        """Wait for some time and tell whether the job has ended."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    def end(self) -> None:
        """Cancel the job unless it has ended; its tasks' processes end with it."""
        if self._thread.is_alive():
            self._context.cancelJobGroup(self._group)
            if not self.ended(CANCEL_GRACE_S):
                logger.warning("Spark has not ended the cancelled job %s after %.0f s", self._group, CANCEL_GRACE_S)

    def _collect(self) -> None:
        try:
            self._context.setJobGroup(self._group, f"{self._workers} training workers", interruptOnCancel=True)
            data = self._context.parallelize(range(self._workers), self._workers)
            self.outcomes = data.barrier().mapPartitions(self._task).collect()
        except Exception as error:
            self.error = error


def _task(order: Order, interface: str | None) -> Callable[[Iterable[int]], Iterator[Outcome]]:
    def task(_: Iterable[int]) -> Iterator[Outcome]:
        yield barrier_task.run(order, interface)

    return task


def _wait(job: _Job, line: Relay, settings: LaunchSettings) -> list[Outcome]:
    """Return how the tasks ended, or raise why they did not end well."""
    deadline = time.monotonic() + settings.start_timeout_s
    while not job.ended(POLL_S):
        if line.failed_for() > END_GRACE_S:
            break
        if line.started() < settings.workers and time.monotonic() > deadline and line.cause() is None:
            raise WorkerError(
                f"{line.started()} of {settings.workers} workers have started within launch.start_timeout_s="
                f"{settings.start_timeout_s} s; {settings.workers} task slots must be free at once: end other jobs of "
                "this application, or give it more cores"
            )
    cause = line.cause()
    if cause is not None:
        raise driver.explain(cause, line, settings.workers)
    return _sound(job, settings.workers)


def _sound(job: _Job, workers: int) -> list[Outcome]:
    outcomes = job.outcomes
    if outcomes is None:
        reason = (str(job.error).strip().splitlines() or [type(job.error).__name__])[0]
        raise WorkerError(f"the Spark job of {workers} workers failed: {reason}") from job.error
    bad = next((outcome for outcome in outcomes if outcome.problem), None)
    if bad is not None:
        raise (TrainingError if bad.final else WorkerError)(f"{workers} workers could not start: {bad.problem}")
    lost = [outcome.rank for outcome in outcomes if outcome.result is None]
    if lost:
        raise WorkerError(f"ranks {lost} of {workers} have ended without a result")
    return outcomes
