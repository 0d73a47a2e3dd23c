"""Signals during a launch: Horovod replaces the handlers of SIGINT and SIGTERM and never puts them back."""

from __future__ import annotations

import contextlib
import signal
import socket
from collections.abc import Iterator

SIGNALS = (signal.SIGINT, signal.SIGTERM)
EXIT_SIGNALLED = 128  # plus the signal's number, as shells count


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
