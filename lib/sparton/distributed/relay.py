"""The driver's end of the line to its workers: live logs, failures with their cause, and the order to stop.

Horovod streams a worker's output to the driver in blocks of 64 KiB and loses what a killed worker had to say; here
every record arrives at once, a failing worker waits until its report is acknowledged, and the first failure makes the
driver stop the others, so that a launch ends in bounded time whatever they are doing.
"""

from __future__ import annotations

import contextlib
import logging
import secrets
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from sparton.distributed import wire

SECRET_BYTES = 32
SIGNALLED = 128  # an exit status above it is the number of a signal

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Address:
    """Where a worker reaches the driver, and the secret that both sign their messages with."""

    host: str
    port: int
    secret: bytes

    def __repr__(self) -> str:
        return f"Address({self.host}:{self.port})"


@dataclass(frozen=True)
class Failure:
    """Why a worker failed.

    Parameters
    ----------
    rank
        The worker.
    reason
        One line: the error's type and message.
    traceback
        The worker's own, empty if it died without a word.
    echo
        Whether the error only says that another rank failed or left.
    unheard
        Whether the process ended by itself before it reached the driver, so that only its output can say why.
    """

    rank: int
    reason: str
    traceback: str = ""
    echo: bool = False
    unheard: bool = False


class Relay:
    """Receives what the workers of one launch report; see :func:`listen`."""

    def __init__(self, secret: bytes) -> None:
        self.secret = secret
        self._lock = threading.Lock()
        self._failures: list[Failure] = []
        self._connected: dict[int, Any] = {}
        self._heard: set[int] = set()
        self._waiting: set[int] = set()

    def cause(self) -> Failure | None:
        """Return the failure that made the others fail: the first that is no echo, else the first."""
        with self._lock:
            return next((failure for failure in self._failures if not failure.echo), next(iter(self._failures), None))

    def serve(self, reader: Any, writer: Any) -> None:
        """Receive one worker's messages until it is done or gone."""
        hello = self._read(reader)
        if hello is None or hello["kind"] != "hello":
            return
        rank = int(hello["rank"])
        with self._lock:
            self._connected[rank] = writer
            self._heard.add(rank)
            failed = bool(self._failures)
        if failed:
            self._send(writer, "abort")
        while (message := self._read(reader)) is not None:
            if message["kind"] == "log":
                _log(rank, message)
            elif message["kind"] in ("waiting", "resumed"):
                self._note_wait(rank, message["kind"] == "waiting")
            else:
                break
        self._end(rank, message, writer)

    def exited(self, rank: int, code: int | None) -> None:
        """Take note that a worker's process has ended.

        Of a worker that has been heard its connection tells more. One that never connected is known by this alone;
        the others, which would wait for it until the time to start is over, are stopped.

        Parameters
        ----------
        rank
            The worker.
        code
            Its exit status, with 128 added to the number of a signal; None if whoever watched it is gone too.
        """
        if code == 0:
            return
        with self._lock:
            if rank in self._heard:
                return
            self._failures.append(_early_end(rank, code))
            others = list(self._connected.values())
        for other in others:
            self._send(other, "abort")

    def _note_wait(self, rank: int, waiting: bool) -> None:
        with self._lock:
            (self._waiting.add if waiting else self._waiting.discard)(rank)
        if waiting:
            logger.warning("rank %d waits in a collective for other ranks", rank)
        else:
            logger.warning("rank %d goes on", rank)

    def _stalled(self, rank: int, message: dict[str, Any]) -> Failure:
        """Describe a wait that was given up; call it with the lock held."""
        absent = sorted(other for other in self._connected if other not in self._waiting and other != rank)
        others = f"for ranks {absent}, which did not take part" if absent else "while all ranks wait in different ones"
        return Failure(rank, f"waited {message['seconds']:.0f} s in a collective {others}", message["traceback"])

    def _read(self, reader: Any) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):
            line = reader.readline(wire.MAX_LINE)
            if line:
                return wire.unseal(self.secret, line)
        return None

    def _end(self, rank: int, message: dict[str, Any] | None, writer: Any) -> None:
        """Note how a worker ended: ``done``, a reported failure, a wait given up, or silence."""
        with self._lock:
            self._connected.pop(rank, None)
            if message is None:
                self._failures.append(Failure(rank, "the process died without an error (killed, or out of memory)"))
            elif message["kind"] == "failure":
                self._failures.append(Failure(rank, message["reason"], message["traceback"], message["echo"]))
            elif message["kind"] == "stalled":
                self._failures.append(self._stalled(rank, message))
            failed = bool(self._failures)
            others = list(self._connected.values())
        self._send(writer, "acknowledged")
        if failed:
            for other in others:
                self._send(other, "abort")

    def _send(self, writer: Any, kind: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            writer.write(wire.seal(self.secret, {"kind": kind}))


@contextlib.contextmanager
def listen(host: str, bind: str) -> Iterator[tuple[Relay, Address]]:
    """Serve the workers of one launch.

    Parameters
    ----------
    host
        The name or address under which workers reach this machine.
    bind
        The local address to listen on; the port is any free one.
    """
    relay = Relay(secrets.token_bytes(SECRET_BYTES))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            relay.serve(self.rfile, self.wfile)

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True
        block_on_close = False

    with Server((bind, 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="sparton-relay", daemon=True)
        thread.start()
        try:
            yield relay, Address(host, server.server_address[1], relay.secret)
        finally:
            server.shutdown()
            thread.join()


def _early_end(rank: int, code: int | None) -> Failure:
    """Describe the end of a process that had not connected yet."""
    if code is None or code < 0:
        return Failure(rank, "the process was lost with its executor before it reached the driver")
    if code > SIGNALLED:
        number = code - SIGNALLED
        return Failure(rank, f"the process was killed by signal {number} before it reached the driver")
    reason = f"the process ended with exit status {code} before it reached the driver"
    return Failure(rank, reason, unheard=True)


def _log(rank: int, message: dict[str, Any]) -> None:
    logging.getLogger(message["logger"]).log(message["level"], "rank %d: %s", rank, message["text"])
