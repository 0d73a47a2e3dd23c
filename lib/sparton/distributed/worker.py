"""What runs in a worker process: logs to the driver, the task itself, and a report of how it ended."""

from __future__ import annotations

import faulthandler
import logging
import os
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

import sparton
from sparton.distributed import devices, direct, wire
from sparton.distributed.launcher import reason
from sparton.distributed.link import DriverHandler, DriverLink
from sparton.distributed.relay import EXIT_ABORTED, Address
from sparton.distributed.world import Connection, connect
from sparton.errors import is_mendable

EXIT_GRACE_S = 10.0  # for Horovod's own shutdown after a failure
# What is said when another rank is gone: by Horovod, by Gloo, by direct sums.
ECHO_SIGNS = ("Horovod has been shut down", "Horovod initialization failed", "/gloo/", "gloo::", direct.GONE)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """What the driver sends to every worker.

    Parameters
    ----------
    fn, args
        ``fn(connection, *args)`` is called.
    driver
        Where to report to.
    log_level
        Level of the driver's log; ranks other than 0 report warnings and worse, unless ``all_ranks_log``.
    threads
        Threads of TensorFlow's operations; None shares the host's cores among its workers.
    stall_check_s, stall_shutdown_s
        Seconds of waiting in a collective until a warning and until the end.
    direct_sum_bytes
        Vectors of all ranks up to this size together are summed without Horovod.
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    driver: Address
    log_level: int
    all_ranks_log: bool
    threads: int | None
    stall_check_s: float
    stall_shutdown_s: float
    direct_sum_bytes: int


def run(payload: bytes) -> bytes:
    """Run a pickled :class:`Task` and return its pickled result; an error is reported and ends the process.

    The payload comes from the driver through the launcher's authenticated channel, the result goes back the same way.
    """
    faulthandler.enable()
    task: Task = cloudpickle.loads(payload)
    rank = int(os.environ["HOROVOD_RANK"])
    devices.limit_worker_threads(task.threads)
    link = report_to(task.driver, rank)
    _configure_logging(link, task, rank)
    logger.debug("%s imports %s", sys.executable, sparton.__file__)
    try:
        connection = connect(direct_sum_bytes=task.direct_sum_bytes)
        _guard_against_stalls(connection, task, link)
        result: bytes = cloudpickle.dumps(task.fn(connection, *task.args))
    except BaseException as error:
        link.end("failure", **_describe(error))
        exit_within(EXIT_GRACE_S)
        raise SystemExit(1) from error
    link.end("done")
    return result


def report_to(driver: Address, rank: int) -> DriverLink:
    """Return this process's line to the driver; when all is over, the process says where it was and ends."""

    def stop() -> None:
        link.send("log", logger=__name__, level=logging.WARNING, text=f"stopped here:\n{main_stack()}")
        os._exit(EXIT_ABORTED)

    link = DriverLink(driver, rank, stop)
    return link


def is_echo(error: BaseException) -> bool:
    """Tell whether an error only says that a collective ended because of another rank."""
    text = f"{type(error).__name__}: {error}"
    return any(sign in text for sign in ECHO_SIGNS)


def main_stack() -> str:
    """Return where the main thread is, innermost call last."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return wire.clip("".join(traceback.format_stack(frame)))


def _describe(error: BaseException) -> dict[str, Any]:
    trace = "".join(traceback.format_exception(error))
    error = direct.shown(error)
    final = not is_mendable(error)
    return {"reason": reason(error), "traceback": wire.clip(trace), "echo": is_echo(error), "final": final}


def _configure_logging(link: DriverLink, task: Task, rank: int) -> None:
    root = logging.getLogger()
    root.handlers[:] = [DriverHandler(link)]
    root.setLevel(logging.WARNING)
    verbose = rank == 0 or task.all_ranks_log
    logging.getLogger("sparton").setLevel(task.log_level if verbose else max(task.log_level, logging.WARNING))


def _guard_against_stalls(connection: Connection, task: Task, link: DriverLink) -> None:
    activity = getattr(connection.collectives, "activity", None)
    if activity is None:
        return

    def stop(seconds: float) -> None:
        link.end("stalled", seconds=seconds, traceback=main_stack())
        os._exit(1)

    from sparton.distributed.stall import Guard

    Guard(activity.counts, task.stall_check_s, task.stall_shutdown_s, link.send, stop).start()


def exit_within(seconds: float) -> None:
    """End this process with status 1 after some time, whatever it does then."""
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()
