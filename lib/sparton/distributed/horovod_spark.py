"""Workers as Horovod processes that Spark tasks start, through ``horovod.spark.run``."""

from __future__ import annotations

import collections
import logging
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]

from sparton.distributed import bootstrap, driver, horovod_hooks, interrupts, networks, relay, slots
from sparton.distributed.launcher import Launcher
from sparton.errors import SpartonError, TrainingError, WorkerError

if TYPE_CHECKING:
    from pyspark import SparkContext

    from sparton.distributed.launch import LaunchSettings
    from sparton.distributed.supervisor import Order

TAIL_WAIT_S = 2.0  # for the last output of processes that ended

logger = logging.getLogger(__name__)


class HorovodSparkLauncher(Launcher):
    """Starts workers by ``horovod.spark.run``, from the driver's main thread."""

    name = "spark"

    def __init__(self, context: SparkContext, settings: LaunchSettings) -> None:
        self._context = context
        self._settings = settings

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        """Run a function on all ranks; see :meth:`Launcher.run`."""
        context, settings, workers = self._context, self._settings, self._settings.workers
        if threading.current_thread() is not threading.main_thread():
            raise TrainingError(
                "horovod.spark.run works in the main thread only (it installs signal handlers); "
                "set launch.launcher=barrier, which works in any"
            )
        slots.require(context, workers)
        nics = _interfaces(context, settings.interface)
        logger.info("starting %d workers by horovod.spark.run (%s)", workers, context.master)
        started = time.monotonic()
        output = Tail()
        with (
            relay.listen(*driver.address(context), settings.port or 0, workers) as (line, address),
            interrupts.preserved(),
        ):
            order = driver.order(fn, args, address, context, settings)
            try:
                with horovod_hooks.installed(line.process_exited):
                    pickled = _start(order, context, settings, nics, output)
            except Exception as error:
                raise _explain(error, line, output, workers) from error
        driver.log_end(line, workers, time.monotonic() - started)
        return [cloudpickle.loads(result) for result in pickled]


class Tail:
    """A text stream that keeps the last lines which the processes wrote before they reached the driver."""

    def __init__(self) -> None:
        self._lines: collections.deque[str] = collections.deque(maxlen=relay.TAIL_LINES)

    def write(self, text: str) -> int:
        """Keep a piece of output."""
        self._lines.extend(text.splitlines())
        return len(text)

    def flush(self) -> None:
        """Do nothing; for the interface of a stream."""

    def lines(self) -> list[str]:
        """Return the lines that are kept."""
        return [line for line in self._lines if line.strip()]


def _start(
    order: Order, context: SparkContext, settings: LaunchSettings, nics: set[str] | None, output: Tail
) -> list[bytes]:
    try:
        import horovod.spark
    except ImportError as error:
        raise TrainingError(f"{settings.workers} workers need Horovod: {error}") from error
    cloudpickle.register_pickle_by_value(bootstrap)
    results: list[bytes] = horovod.spark.run(
        bootstrap.start,
        args=(list(order.paths), cloudpickle.dumps(order)),
        num_proc=settings.workers,
        start_timeout=settings.start_timeout_s,
        use_gloo=True,
        env={},
        stdout=output,
        stderr=output,
        verbose=0,
        nics=nics,
        executable=settings.python or context.pythonExec,
    )
    return results


def _interfaces(context: SparkContext, name: str | None) -> set[str] | None:
    """Return the interface to use, or None to let Horovod find one that all hosts share."""
    if name is not None:
        return {networks.choose(name, driver.LOOPBACK, 1).name}
    if not slots.is_local(context):
        return None
    return {networks.choose(None, driver.LOOPBACK, 1).name}


def _explain(error: Exception, line: relay.Relay, output: Tail, workers: int) -> SpartonError:
    """Return what to raise for a launch that failed; the workers' own words come before Horovod's."""
    if isinstance(error, SpartonError):
        return error
    cause = line.cause()
    if cause is None:
        time.sleep(TAIL_WAIT_S)
        logger.error("the workers could not run; their last output:\n%s", "\n".join(output.lines()))
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return WorkerError(" | ".join([f"{workers} workers could not run: {reason}", *output.lines()[-1:]]))
    if cause.unheard:
        time.sleep(TAIL_WAIT_S)
    return driver.explain(cause, line, workers, output.lines())
