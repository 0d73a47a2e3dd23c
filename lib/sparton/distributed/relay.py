"""The driver's end of the line to its workers: live logs, failures with their cause, and the order to stop.

Each rank has two connections: one of the worker itself, one of the supervisor that has started it and sees how it
ends. Every record arrives at once, a failing worker waits until its report is acknowledged, and the first failure makes
the driver stop the others, so that a launch ends in bounded time whatever they are doing.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import secrets
import signal
import socketserver
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from sparton.distributed import wire
from sparton.errors import TrainingError

SECRET_BYTES = 32
SIGNALLED = 128  # an exit status above it is the number of a signal
TAIL_LINES = 40
SHOWN_HOSTS = 8
HELLO_TIMEOUT_S = 30.0
"""How long a stranger that says nothing can hold a thread of the driver."""
EXIT_ABORTED = 70  # of a worker that has ended because the driver said so
WORKER, SUPERVISOR = "worker", "supervisor"
FINAL_WORDS = frozenset({"done", "failure", "stalled", "exited"})

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
        Whether only the process's last output can say why it ended.
    final
        Whether a new start would fail in the same way.
    """

    rank: int
    reason: str
    traceback: str = ""
    echo: bool = False
    unheard: bool = False
    final: bool = False


class Relay:
    """Receives what the workers of one launch report; see :func:`listen`."""

    def __init__(self, secret: bytes, workers: int = 0) -> None:
        self.secret = secret
        self._workers = workers
        self._hosts: dict[int, str] = {}
        self._lock = threading.Lock()
        self._failures: list[Failure] = []
        self._failed_at: float | None = None
        self._over = False
        self._connected: dict[tuple[str, int], Any] = {}
        self._heard: set[tuple[str, int]] = set()
        self._ended: set[int] = set()
        self._waiting: set[int] = set()
        self._memory: dict[int, int] = {}
        self._tails: dict[int, collections.deque[str]] = {}

    def cause(self) -> Failure | None:
        """Return the failure that made the others fail: the first that is no echo, else the first."""
        with self._lock:
            return next((failure for failure in self._failures if not failure.echo), next(iter(self._failures), None))

    def failed_for(self) -> float:
        """Return the seconds since the first failure; 0 while there is none."""
        with self._lock:
            return 0.0 if self._failed_at is None else time.monotonic() - self._failed_at

    def started(self) -> int:
        """Return how many workers have been heard."""
        with self._lock:
            return sum(role == WORKER for role, _ in self._heard)

    def memory(self) -> list[int]:
        """Return the largest memory in bytes of each worker that has ended, in no order."""
        with self._lock:
            return list(self._memory.values())

    def tail(self, rank: int) -> list[str]:
        """Return the last lines that a worker has written on its standard output and error."""
        with self._lock:
            return list(self._tails.get(rank, ()))

    def serve(self, reader: Any, writer: Any, greeted: Callable[[], Any]) -> None:
        """Receive the messages of one process until it is done or gone; ``greeted`` is called if it has the secret."""
        hello = self._read(reader)
        if hello is None or hello["kind"] != "hello":
            return
        greeted()
        rank, role = int(hello["rank"]), str(hello["role"])
        with self._lock:
            repeated = (role, rank) in self._heard  # Spark has started a lost task again, whose world is gone
            if not repeated:
                self._connected[role, rank] = writer
                self._heard.add((role, rank))
            starting = role == SUPERVISOR and not repeated
            if starting:
                self._hosts[rank] = str(hello["host"])
            hosts = [self._hosts[each] for each in sorted(self._hosts)]
            stopping = self._over or bool(self._failures)
        self._send(writer, "heard")
        if stopping or repeated:
            self._send(writer, "abort")
        elif starting and len(hosts) == self._workers:
            logger.info("%d workers have started on %s: loading TensorFlow, connecting", len(hosts), _listed(hosts))
        if repeated:
            return
        while (message := self._read(reader)) is not None and message["kind"] not in FINAL_WORDS:
            self._take(rank, message)
        self._end(rank, role, message, writer)

    def exited(self, rank: int, code: int | None, killed_for: str | None = None) -> None:
        """Take note that a worker's process has ended, as whoever watched it says.

        Of a worker that has reported its end that report tells more.

        Parameters
        ----------
        rank
            The worker.
        code
            Its exit status, with 128 added to the number of a signal; None if whoever watched it is gone too.
        killed_for
            Why the kernel has killed it, where that is known.
        """
        with self._lock:
            heard = (WORKER, rank) in self._heard
            if rank in self._ended or (code == 0 and not heard):
                return
            self._ended.add(rank)
            self._fail(_silent_end(rank, code, heard, killed_for))
        self._abort()

    def process_exited(self, rank: int, code: int | None) -> None:
        """Take note that the process which supervises a worker has ended, as its launcher says.

        It is news only where it has never connected; otherwise its own connection tells more, and sooner.
        """
        with self._lock:
            known = (SUPERVISOR, rank) in self._heard
        if not known and code != 0:
            self.exited(rank, code)

    def _take(self, rank: int, message: dict[str, Any]) -> None:
        """Act on a message that is not the last one of its process."""
        if message["kind"] == "log":
            _log(rank, message)
        elif message["kind"] == "output":
            with self._lock:
                tail = self._tails.setdefault(rank, collections.deque(maxlen=TAIL_LINES))
                tail.append(message["text"])
            _log(rank, {"logger": __name__, **message})
        elif message["kind"] in ("waiting", "resumed"):
            self._note_wait(rank, message["kind"] == "waiting")

    def _note_wait(self, rank: int, waiting: bool) -> None:
        with self._lock:
            (self._waiting.add if waiting else self._waiting.discard)(rank)
        if waiting:
            logger.warning("rank %d waits in a collective for other ranks", rank)
        else:
            logger.warning("rank %d goes on", rank)

    def _stalled(self, rank: int, message: dict[str, Any]) -> Failure:
        """Describe a wait that was given up; call it with the lock held."""
        workers = [other for role, other in self._connected if role == WORKER and other != rank]
        absent = sorted(other for other in workers if other not in self._waiting)
        others = f"for ranks {absent}, which did not take part" if absent else "while all ranks wait in different ones"
        return Failure(rank, f"waited {message['seconds']:.0f} s in a collective {others}", message["traceback"])

    def _read(self, reader: Any) -> dict[str, Any] | None:
        with contextlib.suppress(OSError, ValueError):
            line = reader.readline(wire.MAX_LINE)
            if line:
                return wire.unseal(self.secret, line)
        return None

    def _end(self, rank: int, role: str, message: dict[str, Any] | None, writer: Any) -> None:
        """Note how a process ended: ``done``, a reported failure, a wait given up, an exit status, or silence."""
        with self._lock:
            self._connected.pop((role, rank), None)
            supervised = (SUPERVISOR, rank) in self._connected
            if role == WORKER and message is not None:
                self._ended.add(rank)
                self._note_end(rank, message)
            if role == SUPERVISOR and message is not None:
                self._memory[rank] = message["memory"]
        if role == SUPERVISOR and message is not None:
            self.exited(rank, message["code"], message["killed_for"])
        elif role == SUPERVISOR or (message is None and not supervised):
            self.exited(rank, None)
        self._send(writer, "acknowledged")
        self._abort()

    def _note_end(self, rank: int, message: dict[str, Any]) -> None:
        """Note a worker's last message; call it with the lock held."""
        if message["kind"] == "failure":
            echo, final = message["echo"], message["final"]
            self._fail(Failure(rank, message["reason"], message["traceback"], echo, final=final))
        elif message["kind"] == "stalled":
            self._fail(self._stalled(rank, message))

    def _fail(self, failure: Failure) -> None:
        """Note a failure; call it with the lock held."""
        self._failures.append(failure)
        self._failed_at = self._failed_at or time.monotonic()

    def dismiss(self) -> None:
        """Tell everybody who is still there, or comes late, to stop: the launch is over."""
        with self._lock:
            self._over = True
        self._abort()

    def _abort(self) -> None:
        """Tell everybody to stop, if something has failed or the launch is over."""
        with self._lock:
            others = list(self._connected.values()) if self._over or self._failures else []
        for other in others:
            self._send(other, "abort")

    def _send(self, writer: Any, kind: str) -> None:
        with contextlib.suppress(OSError, ValueError):
            writer.write(wire.seal(self.secret, {"kind": kind}))


@contextlib.contextmanager
def listen(host: str, bind: str, port: int = 0, workers: int = 0) -> Iterator[tuple[Relay, Address]]:
    """Serve the workers of one launch; those that are left when the block ends are told to stop.

    Parameters
    ----------
    host
        The name or address under which workers reach this machine.
    bind
        The local address to listen on.
    port
        The port; 0 takes any free one.
    workers
        How many are to start before the log says so.

    Raises
    ------
    TrainingError
        If the port is taken.
    """
    relay = Relay(secrets.token_bytes(SECRET_BYTES), workers)

    class Handler(socketserver.StreamRequestHandler):
        def setup(self) -> None:
            super().setup()
            wire.keep_alive(self.connection)

        def handle(self) -> None:
            self.connection.settimeout(HELLO_TIMEOUT_S)
            relay.serve(self.rfile, self.wfile, lambda: self.connection.settimeout(None))

    class Server(socketserver.ThreadingTCPServer):
        allow_reuse_address = True
        daemon_threads = True
        block_on_close = False

    try:
        server = Server((bind, port), Handler)
    except OSError as error:
        raise TrainingError(
            f"launch.port={port}: the driver cannot listen there ({error}); name a free port"
        ) from error
    with server:
        thread = threading.Thread(target=server.serve_forever, args=(0.1,), name="sparton-relay", daemon=True)
        thread.start()
        try:
            yield relay, Address(host, server.server_address[1], relay.secret)
        finally:
            relay.dismiss()
            server.shutdown()
            thread.join()


def _listed(hosts: list[str]) -> str:
    """Return the names of hosts, in the order of ranks, as a log can bear them."""
    names = list(dict.fromkeys(hosts))
    more = f" and {len(names) - SHOWN_HOSTS} more" if len(names) > SHOWN_HOSTS else ""
    return ("host " if len(names) == 1 else "hosts ") + ", ".join(names[:SHOWN_HOSTS]) + more


def _silent_end(rank: int, code: int | None, heard: bool, killed_for: str | None) -> Failure:
    """Describe the end of a process that has not reported it."""
    when = "" if heard else " before it reached the driver"
    if code is None or code < 0:
        return Failure(rank, f"the process was lost with its executor{when}")
    if code > SIGNALLED:
        number = code - SIGNALLED
        reason = f"the process was killed by signal {_signal_name(number)}{when}"
        if killed_for is not None:
            return Failure(rank, f"{reason}: {killed_for}")
        return Failure(rank, reason, unheard=number != signal.SIGKILL)
    return Failure(rank, f"the process ended with exit status {code}{when}", unheard=True)


def _signal_name(number: int) -> str:
    with contextlib.suppress(ValueError):
        return f"{number} ({signal.Signals(number).name})"
    return str(number)


def _log(rank: int, message: dict[str, Any]) -> None:
    logging.getLogger(message["logger"]).log(message["level"], "rank %d: %s", rank, message["text"])
