"""Progress lines, commands whose output goes to a log file, and the one-line error."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

REMINDER_S = 60.0
"""Seconds between two signs of life of a long command."""

ERROR_MARKS = ("error:", "error ", "e: ")
"""How pip, compilers and apt-get begin a line that names a cause, in lower case."""


class SetupError(Exception):
    """What went wrong and the way out, in one line."""


def say(message: str) -> None:
    """Print one progress line."""
    print(f"environment: {message}", flush=True)


def duration(seconds: float) -> str:
    """Return a time as people say it: ``8 s``, ``3 min 05 s``."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"


@contextmanager
def progress(doing: str, done: str) -> Iterator[None]:
    """Say what is being done, and how long it took."""
    start = time.monotonic()
    say(doing)
    yield
    say(f"{done} in {duration(time.monotonic() - start)}")


def run_logged(command: Sequence[str], log: Path, purpose: str, env: Mapping[str, str]) -> None:
    """Run a command with its output in ``log``; its process group dies with this process.

    Raises
    ------
    SetupError
        If it ends with another exit status than 0; the line names the purpose, the cause and the log.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    with log.open("w", encoding="utf-8", errors="replace") as output:
        # Descriptors stay open so that a child that outlives a killed setup keeps the setup's lock.
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=env,
            start_new_session=True,
            close_fds=False,
        )
        try:
            status = _wait(process, log)
        except BaseException:
            os.killpg(process.pid, signal.SIGTERM)
            process.wait()
            raise
    if status:
        raise SetupError(f"{purpose} failed ({failure_cause(log) or f'exit status {status}'}); its output: {log}")


def _wait(process: subprocess.Popen[bytes], log: Path) -> int:
    start = time.monotonic()
    while True:
        try:
            return process.wait(timeout=REMINDER_S)
        except subprocess.TimeoutExpired:
            say(f"... {duration(time.monotonic() - start)}; output: {log}")


def failure_cause(log: Path) -> str:
    """Return the last line of a log that names an error, cut to 200 characters; empty where there is none."""
    lines = log.read_text(encoding="utf-8", errors="replace").splitlines()
    causes = [line.strip() for line in lines if line.strip().lower().startswith(ERROR_MARKS) or ": error: " in line]
    return causes[-1][:200] if causes else ""


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """Return a process environment without what would lead Python or pip out of the virtual environment."""
    astray = {"PYTHONHOME", "PYTHONPATH", "PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_REQUIRE_HASHES"}
    return {name: value for name, value in environ.items() if name not in astray} | {"PIP_USER": "0"}
