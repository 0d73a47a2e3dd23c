"""What a command takes: seconds from its start to its end, and the most memory that it and its children held."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

POLL_S = 0.1


@dataclass(frozen=True)
class Taken:
    """Seconds, peak resident bytes of the process and its children together, and whether it ended by itself."""

    seconds: float
    peak: int
    ended: bool


def measure(command: Sequence[str], folder: Path, limit_s: float) -> Taken:
    """Run a command in a folder, for ``limit_s`` seconds at most.

    Raises
    ------
    RuntimeError
        If it fails; its last lines are told.
    """
    peak, ended = 0, True
    log = folder / "log"
    with log.open("w") as output:
        started = time.perf_counter()
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT)
        while process.poll() is None:
            peak = max(peak, _resident(process.pid))
            if time.perf_counter() - started > limit_s:
                ended = False
                _kill(process.pid)
            time.sleep(POLL_S)
        seconds = time.perf_counter() - started
    if ended and process.returncode:
        raise RuntimeError(f"{' '.join(command)}: exit {process.returncode}\n{log.read_text()[-2000:]}")
    return Taken(seconds, peak, ended)


def _tree(pid: int) -> list[psutil.Process]:
    try:
        root = psutil.Process(pid)
        return [root, *root.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _resident(pid: int) -> int:
    total = 0
    for process in _tree(pid):
        try:
            total += process.memory_info().rss
        except psutil.NoSuchProcess:
            continue
    return total


def _kill(pid: int) -> None:
    for process in reversed(_tree(pid)):
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
