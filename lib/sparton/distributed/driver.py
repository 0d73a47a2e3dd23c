"""What the launchers on Spark share: what they send to the workers, and what they make of a failure."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import cloudpickle  # type: ignore[import-untyped]

import sparton
from sparton.distributed import environment, slots
from sparton.distributed.relay import Address, Failure, Relay
from sparton.distributed.supervisor import Order
from sparton.distributed.worker import Task
from sparton.errors import TrainingError, WorkerError

if TYPE_CHECKING:
    from pyspark import SparkContext

    from sparton.distributed.launch import LaunchSettings

LOOPBACK = "127.0.0.1"

logger = logging.getLogger(__name__)


def address(context: SparkContext) -> tuple[str, str]:
    """Return the name under which workers reach the driver, and the local address to listen on."""
    if slots.is_local(context):
        return LOOPBACK, LOOPBACK
    conf = context.getConf()
    host = conf.get("spark.driver.host") or socket.getfqdn()
    return host, conf.get("spark.driver.bindAddress") or (LOOPBACK if host == LOOPBACK else "")


def order(
    fn: Callable[..., Any], args: tuple[Any, ...], driver: Address, context: SparkContext, settings: LaunchSettings
) -> Order:
    """Return what all supervisors are sent."""
    task = Task(
        fn=fn,
        args=args,
        driver=driver,
        log_level=logging.getLogger("sparton").getEffectiveLevel(),
        all_ranks_log=settings.all_ranks_log,
        threads=settings.threads_per_worker,
        stall_check_s=settings.stall_check_s,
        stall_shutdown_s=settings.stall_shutdown_s,
        direct_sum_bytes=settings.direct_sum_bytes,
    )
    return Order(
        task=cloudpickle.dumps(task),
        driver=driver,
        environment=environment.of_worker(settings),
        paths=import_paths(context),
        python=settings.python,
        all_ranks_log=settings.all_ranks_log,
        one_host=slots.is_local(context),
    )


def import_paths(context: SparkContext) -> list[str]:
    """Return where workers may find this project: first the files given to Spark, then where the driver has it."""
    here = os.path.dirname(os.path.dirname(os.path.abspath(sparton.__file__)))
    shipped = [str(name) for name in getattr(context, "_python_includes", [])]
    return [*shipped, here]


def log_end(line: Relay, workers: int, seconds: float) -> None:
    """Log how long a launch took, and how much memory its workers held, which executors must have beside Spark's."""
    memory = f"; each held {max(line.memory()) / 1e9:.2f} GB or less" if line.memory() else ""
    logger.info("%d workers ended after %.1f s%s", workers, seconds, memory)


def explain(cause: Failure, line: Relay, workers: int, output: Sequence[str] = ()) -> TrainingError:
    """Return what to raise for a launch in which a worker has failed, and log the details.

    Parameters
    ----------
    cause
        The failure.
    line
        What the workers have said.
    workers
        Their number.
    output
        Last lines that reached the driver in another way.
    """
    lines = [*line.tail(cause.rank), *output]
    tail = "\n".join(lines)
    logger.error("rank %d failed\n%s", cause.rank, cause.traceback if cause.traceback and not cause.echo else tail)
    last_words = lines[-1:] if cause.unheard else []
    reason = " | ".join([f"rank {cause.rank} of {workers}: {cause.reason}", *last_words])
    return TrainingError(reason) if cause.final else WorkerError(reason)
