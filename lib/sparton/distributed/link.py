"""The line of a process of a launch to the driver."""

from __future__ import annotations

import logging
import socket
import threading
from collections.abc import Callable
from typing import Any

from sparton.distributed import wire
from sparton.distributed.relay import WORKER, Address
from sparton.errors import WorkerError

CONNECT_TIMEOUT_S = 20.0
ACKNOWLEDGE_TIMEOUT_S = 5.0
ABORT_GRACE_S = 5.0  # for a process to end by itself after another one has failed


class DriverLink:
    """Sends messages to the driver, and acts when the driver says that all is over or is gone.

    Parameters
    ----------
    driver
        Where to connect to.
    rank
        The worker that the process is, or that it watches.
    stop
        Called in a thread of its own when the process does not report its end within the grace.
    role
        Whether it is the worker or its supervisor.

    Raises
    ------
    WorkerError
        If the driver cannot be reached.
    """

    def __init__(self, driver: Address, rank: int, stop: Callable[[], Any], role: str = WORKER) -> None:
        self._secret = driver.secret
        self._stop_process = stop
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._heard = threading.Event()
        self._acknowledged = threading.Event()
        try:
            self._socket = socket.create_connection((driver.host, driver.port), CONNECT_TIMEOUT_S)
        except OSError as error:
            raise WorkerError(
                f"rank {rank} on {socket.gethostname()} cannot reach the driver at {driver.host}:{driver.port} "
                f"({error}); workers must be able to open connections to the host in spark.driver.host, "
                "to the port in launch.port"
            ) from error
        self._socket.settimeout(None)
        wire.keep_alive(self._socket)
        self.send("hello", rank=rank, role=role, host=socket.gethostname())
        threading.Thread(target=self._listen, name="sparton-driver-link", daemon=True).start()
        # A process that ends at once would otherwise be one that has never reached the driver.
        self._heard.wait(ACKNOWLEDGE_TIMEOUT_S)

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
                if kind == "heard":
                    self._heard.set()
                elif kind == "acknowledged":
                    self._acknowledged.set()
                else:
                    threading.Thread(target=self._stop, name="sparton-abort", daemon=True).start()
        self._heard.set()
        self._acknowledged.set()  # by nobody, any more
        self._stop()

    def _stop(self) -> None:
        if not self._ended.wait(ABORT_GRACE_S):
            self._stop_process()

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
