"""Signals: what SIGTERM means while something is written, and handlers that Horovod does not put back."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
from collections.abc import Iterator
from types import FrameType

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_SIGNALLED = 128  # plus the signal's number, as shells count


@contextlib.contextmanager
def sigterm_as_ctrl_c(came: threading.Event) -> Iterator[None]:
    """Let SIGTERM do what Ctrl-C does within the block, so that nothing half-written stays; ``came`` is set by it.

    Where it has a handler already, or in another thread than the main one, nothing changes.
    """

    def terminate(number: int, frame: FrameType | None) -> None:
        came.set()
        # The handler of Ctrl-C decides: PySpark's cancels the jobs, that of --watch lets a batch end.
        interrupt = signal.getsignal(signal.SIGINT)
        if not callable(interrupt):
            raise KeyboardInterrupt
        interrupt(number, frame)

    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGTERM) != signal.SIG_DFL:
        yield
        return
    signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextlib.contextmanager
def terminating() -> Iterator[None]:
    """Let SIGTERM end the block as an exception would, and then the process.

    Raises
    ------
    SystemExit
        With status 143, after SIGTERM and where nothing else has a handler for it.
    """
    came = threading.Event()
    try:
        with sigterm_as_ctrl_c(came):
            yield
    except KeyboardInterrupt:
        if came.is_set():
            raise SystemExit(EXIT_SIGNALLED + signal.SIGTERM) from None
        raise


@contextlib.contextmanager
def preserved() -> Iterator[None]:
    """Restore the handlers afterwards, and raise what the signal means if one of them ended the block with an error.

    Raises
    ------
    KeyboardInterrupt, SystemExit
        In place of the block's exception, after SIGINT and SIGTERM.
    """
    handlers = {number: signal.getsignal(number) for number in SIGNALS}
    reader, writer = socket.socketpair()
    with reader, writer:
        reader.setblocking(False)
        writer.setblocking(False)
        previous = signal.set_wakeup_fd(writer.fileno())
        try:
            yield
        except Exception:
            _raise_received(reader)
            raise
        finally:
            signal.set_wakeup_fd(previous)
            for number, handler in handlers.items():
                signal.signal(number, signal.SIG_DFL if handler is None else handler)


def _raise_received(reader: socket.socket) -> None:
    """Raise for the signals whose numbers Python has written to the wake-up descriptor."""
    with contextlib.suppress(BlockingIOError):
        received = reader.recv(1024)
        if signal.SIGINT in received:
            raise KeyboardInterrupt from None
        if signal.SIGTERM in received:
            raise SystemExit(EXIT_SIGNALLED + signal.SIGTERM) from None
