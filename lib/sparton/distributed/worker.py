"""What runs in a worker process: logs to the driver, the task itself, and a report of how it ended."""

from __future__ import annotations

import faulthandler
import logging
import os
import socket
import sys
import threading
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cloudpickle  # type: ignore[import-untyped]

import sparton
from sparton.distributed import devices, wire
from sparton.distributed.relay import Address
from sparton.distributed.world import Connection, connect
from sparton.errors import TrainingError

CONNECT_TIMEOUT_S = 20.0
ACKNOWLEDGE_TIMEOUT_S = 5.0
ABORT_GRACE_S = 5.0  # for a worker to end by itself after another one has failed
EXIT_GRACE_S = 10.0  # for Horovod's own shutdown after a failure
EXIT_ABORTED = 70
MAX_REASON = 500  # characters of the one-line reason; the whole message is in the traceback
# What Horovod and Gloo say when another rank is gone.
ECHO_SIGNS = ("Horovod has been shut down", "Horovod initialization failed", "/gloo/", "gloo::")

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
    """

    fn: Callable[..., Any]
    args: tuple[Any, ...]
    driver: Address
    log_level: int
    all_ranks_log: bool
    threads: int | None
    stall_check_s: float
    stall_shutdown_s: float


def run(payload: bytes) -> bytes:
    """Run a pickled :class:`Task` and return its pickled result; an error is reported and ends the process.

    The payload comes from the driver through Horovod's authenticated channel, the result goes back the same way.
    """
    faulthandler.enable()
    task: Task = cloudpickle.loads(payload)
    rank = int(os.environ["HOROVOD_RANK"])
    devices.limit_worker_threads(task.threads)
    link = DriverLink(task.driver, rank)
    _configure_logging(link, task, rank)
    logger.debug("%s imports %s", sys.executable, sparton.__file__)
    try:
        connection = connect()
        _guard_against_stalls(connection, task, link)
        result: bytes = cloudpickle.dumps(task.fn(connection, *task.args))
    except BaseException as error:
        link.end("failure", **_describe(error))
        _exit_within(EXIT_GRACE_S)
        raise SystemExit(1) from error
    link.end("done")
    return result


class DriverLink:
    """A worker's line to the driver; the process ends when the driver says so or is gone."""

    def __init__(self, driver: Address, rank: int) -> None:
        self._secret = driver.secret
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._acknowledged = threading.Event()
        try:
            self._socket = socket.create_connection((driver.host, driver.port), CONNECT_TIMEOUT_S)
        except OSError as error:
            raise TrainingError(
                f"rank {rank} cannot reach the driver at {driver.host}:{driver.port} ({error}); workers must be able "
                "to open connections to the host in spark.driver.host"
            ) from error
        self._socket.settimeout(None)
        self.send("hello", rank=rank)
        threading.Thread(target=self._listen, name="sparton-driver-link", daemon=True).start()

    def send(self, kind: str, **content: Any) -> None:
        """Send one message; a lost connection is noticed by the listening thread."""
        line = wire.seal(self._secret, {"kind": kind, **content})
        try:
            with self._lock:
                self._socket.sendall(line)
        except OSError:
            return

    def end(self, kind: str, **content: Any) -> None:
        """Send the last message and wait until the driver has it."""
        self._ended.set()
        self.send(kind, **content)
        self._acknowledged.wait(ACKNOWLEDGE_TIMEOUT_S)

    def _listen(self) -> None:
        with self._socket.makefile("rb") as reader:
            while (kind := self._receive(reader)) is not None:
                if kind == "acknowledged":
                    self._acknowledged.set()
                else:
                    threading.Thread(target=self._stop, name="sparton-abort", daemon=True).start()
        self._acknowledged.set()  # by nobody, any more
        self._stop()

    def _stop(self) -> None:
        """End the process, unless it reports its own end within the grace."""
        if not self._ended.wait(ABORT_GRACE_S):
            self.send("log", logger=__name__, level=logging.WARNING, text=f"stopped here:\n{_main_stack()}")
            os._exit(EXIT_ABORTED)

    def _receive(self, reader: Any) -> str | None:
        """Return the kind of the driver's next message; None when the driver is gone."""
        try:
            return str(wire.unseal(self._secret, reader.readline(wire.MAX_LINE))["kind"])
        except (OSError, ValueError):
            return None


class DriverHandler(logging.Handler):
    """Sends log records to the driver."""

    def __init__(self, link: DriverLink) -> None:
        super().__init__()
        self._link = link

    def emit(self, record: logging.LogRecord) -> None:
        """Send one record as formatted text."""
        self._link.send("log", logger=record.name, level=record.levelno, text=wire.clip(self.format(record)))


def is_echo(error: BaseException) -> bool:
    """Tell whether an error only says that a collective ended because of another rank."""
    text = f"{type(error).__name__}: {error}"
    return any(sign in text for sign in ECHO_SIGNS)


def _main_stack() -> str:
    """Return where the main thread is, innermost call last."""
    frame = sys._current_frames().get(threading.main_thread().ident or 0)
    return wire.clip("".join(traceback.format_stack(frame)))


def _describe(error: BaseException) -> dict[str, Any]:
    reason = " ".join(f"{type(error).__name__}: {error}".split())
    trace = "".join(traceback.format_exception(error))
    return {"reason": reason[:MAX_REASON], "traceback": wire.clip(trace), "echo": is_echo(error)}


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
        link.end("stalled", seconds=seconds, traceback=_main_stack())
        os._exit(1)

    from sparton.distributed.stall import Guard

    Guard(activity.counts, task.stall_check_s, task.stall_shutdown_s, link.send, stop).start()


def _exit_within(seconds: float) -> None:
    timer = threading.Timer(seconds, os._exit, (1,))
    timer.daemon = True
    timer.start()
