"""Workers as Horovod processes that Spark tasks start, through ``horovod.spark.run``."""

from __future__ import annotations

import collections
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]
import psutil  # type: ignore[import-untyped]

import sparton
from sparton.distributed import bootstrap, horovod_hooks, interrupts, relay, slots
from sparton.distributed.launch import LaunchSettings
from sparton.distributed.worker import Task
from sparton.errors import SpartonError, TrainingError

if TYPE_CHECKING:
    from pyspark import SparkContext

LOOPBACK = "127.0.0.1"
TAIL_LINES = 40
TAIL_WAIT_S = 2.0  # for the last output of workers that ended

logger = logging.getLogger(__name__)


def run(fn: Callable[..., Any], args: tuple[Any, ...], context: SparkContext, settings: LaunchSettings) -> list[Any]:
    """Run ``fn(connection, *args)`` on ``settings.workers`` Horovod processes; see :func:`launch.launch`."""
    if threading.current_thread() is not threading.main_thread():
        raise TrainingError(
            "several workers can only be launched from the main thread (Horovod installs signal handlers); "
            "run trials one after the other, or each in its own process"
        )
    slots.require(context, settings.workers)
    nics = _interfaces(context, settings.interface)
    logger.info("starting %d Horovod workers on Spark (%s)", settings.workers, context.master)
    started = time.monotonic()
    output = Tail()
    with relay.listen(*_driver_address(context)) as (line, address), interrupts.preserved():
        try:
            task = _task(fn, args, address, settings)
            pickled = _start(task, context, settings, nics, output, line)
        except Exception as error:
            raise _explain(error, line, output, settings) from error
    logger.info("%d workers ended after %.1f s", settings.workers, time.monotonic() - started)
    return [cloudpickle.loads(result) for result in pickled]


def worker_environment(settings: LaunchSettings) -> dict[str, str]:
    """Return the variables that are added to those of an executor's Python process."""
    return {
        "TF_CPP_MIN_LOG_LEVEL": os.environ.get("TF_CPP_MIN_LOG_LEVEL", "2"),
        "HOROVOD_STALL_CHECK_TIME_SECONDS": str(settings.stall_check_s),
        "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": str(settings.stall_shutdown_s),
        # Gloo's own limit of 30 s is too short when one host imports TensorFlow much more slowly than another.
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(settings.start_timeout_s),
        **settings.environment,
    }


class Tail:
    """A text stream that keeps the last lines which the workers wrote outside of the log."""

    def __init__(self) -> None:
        self._lines: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)

    def write(self, text: str) -> int:
        """Keep a piece of output."""
        self._lines.extend(text.splitlines())
        return len(text)

    def flush(self) -> None:
        """Do nothing; for the interface of a stream."""

    def text(self) -> str:
        """Return the lines that are kept."""
        return "\n".join(self._lines)


def _task(fn: Callable[..., Any], args: tuple[Any, ...], address: relay.Address, settings: LaunchSettings) -> Task:
    level = logging.getLogger("sparton").getEffectiveLevel()
    return Task(
        fn=fn,
        args=args,
        driver=address,
        log_level=level,
        all_ranks_log=settings.all_ranks_log,
        threads=settings.threads_per_worker,
        stall_check_s=settings.stall_check_s,
        stall_shutdown_s=settings.stall_shutdown_s,
    )


def _start(
    task: Task,
    context: SparkContext,
    settings: LaunchSettings,
    nics: set[str] | None,
    output: Tail,
    line: relay.Relay,
) -> list[bytes]:
    try:
        import horovod.spark
    except ImportError as error:
        raise TrainingError(f"{settings.workers} workers need Horovod: {error}") from error
    cloudpickle.register_pickle_by_value(bootstrap)
    with horovod_hooks.installed(line.exited):
        results: list[bytes] = horovod.spark.run(
            bootstrap.start,
            args=(_import_paths(context), cloudpickle.dumps(task)),
            num_proc=settings.workers,
            start_timeout=settings.start_timeout_s,
            use_gloo=True,
            env=worker_environment(settings),
            stdout=output,
            stderr=output,
            verbose=0,
            nics=nics,
            executable=settings.python or context.pythonExec,
        )
    return results


def _import_paths(context: SparkContext) -> list[str]:
    """Return where workers may find this project: first the files given to Spark, then where the driver has it."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(sparton.__file__)))
    shipped = [str(name) for name in getattr(context, "_python_includes", [])]
    return [*shipped, here]


def _driver_address(context: SparkContext) -> tuple[str, str]:
    """Return the name under which workers reach the driver, and the local address to listen on."""
    if slots.is_local(context):
        return LOOPBACK, LOOPBACK
    return context.getConf().get("spark.driver.host") or socket.getfqdn(), ""


def _interfaces(context: SparkContext, name: str | None) -> set[str] | None:
    """Return the interface to use, or None to let Horovod find one that all hosts share."""
    present = psutil.net_if_addrs()
    if name is not None:
        if name not in present:
            raise TrainingError(f"interface {name!r} does not exist on the driver; found {', '.join(sorted(present))}")
        return {name}
    if not slots.is_local(context):
        return None
    return {key for key, addresses in present.items() if any(item.address == LOOPBACK for item in addresses)} or None


def _explain(error: Exception, line: relay.Relay, output: Tail, settings: LaunchSettings) -> SpartonError:
    """Return what to raise for a launch that failed; the workers' own words come before Horovod's."""
    if isinstance(error, SpartonError):
        return error
    cause = line.cause()
    if cause is not None:
        details = cause.traceback if cause.traceback and not cause.echo else f"{cause.traceback}\n{output.text()}"
        logger.error("rank %d failed\n%s", cause.rank, details)
        last_words = _last_words(output) if cause.unheard else []
        return TrainingError(" | ".join([f"rank {cause.rank} of {settings.workers}: {cause.reason}", *last_words]))
    time.sleep(TAIL_WAIT_S)
    logger.error("the workers could not run; their last output:\n%s", output.text())
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return TrainingError(" | ".join([f"{settings.workers} workers could not run: {reason}", *_last_words(output)]))


def _last_words(output: Tail) -> list[str]:
    return output.text().strip().splitlines()[-1:]
