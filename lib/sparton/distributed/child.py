"""The training process: takes its task from its supervisor, gives the result back, and never outlives it."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import sys
import threading
from io import FileIO

LENGTH_BYTES = 8
PR_SET_PDEATHSIG = 1  # Linux, <sys/prctl.h>


def main() -> None:
    """Read a task from standard input, run it, and write the result to the file descriptor of the first argument.

    Standard input stays open as long as the supervisor lives.
    """
    die_with_parent()
    source = FileIO(os.dup(0))
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    payload = _read(source, int.from_bytes(_read(source, LENGTH_BYTES), "little"))
    threading.Thread(target=_end_with, args=(source,), name="sparton-supervised", daemon=True).start()
    from sparton.distributed import worker

    result = worker.run(payload)
    with os.fdopen(int(sys.argv[1]), "wb") as target:
        target.write(len(result).to_bytes(LENGTH_BYTES, "little") + result)


def die_with_parent() -> None:
    """Let the kernel kill this process when its supervisor ends, even if all threads here are busy."""
    with contextlib.suppress(OSError, AttributeError):  # Linux alone has it; the open pipe works everywhere
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def _read(source: FileIO, count: int) -> bytes:
    """Return exactly ``count`` bytes; a supervisor that is gone ends the process."""
    parts = bytearray()
    while len(parts) < count:
        piece = source.read(count - len(parts))
        if not piece:
            os._exit(1)
        parts += piece
    return bytes(parts)


def _end_with(source: FileIO) -> None:
    """End the process when the pipe from the supervisor closes."""
    source.read(1)
    os._exit(1)


if __name__ == "__main__":
    main()
