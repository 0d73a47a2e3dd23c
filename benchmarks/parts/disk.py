"""What the disk can do: the rates that floors are computed from."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from parts.contest import seconds_of

DISK_BYTES = 256 << 20
READ_BYTES = 1 << 20


def write_bandwidth(folder: Path) -> float:
    """Return the bytes/s at which new data reach the disk."""
    target = folder / "disk"
    try:
        return DISK_BYTES / seconds_of(writer(target, DISK_BYTES))
    finally:
        target.unlink(missing_ok=True)


def read_bandwidth(paths: Sequence[Path]) -> float:
    """Return the bytes/s at which one core reads files as they lie: in the system's cache, if they fit."""
    size = min(DISK_BYTES, sum(path.stat().st_size for path in paths))

    def run() -> None:
        left = size
        for path in paths:
            with path.open("rb", buffering=0) as stream:
                while left > 0 and (block := stream.read(min(left, READ_BYTES))):
                    left -= len(block)

    return size / seconds_of(run)


def writer(path: Path, size: int) -> Callable[[], None]:
    """Return what writes so many bytes to a file and waits for the disk."""
    content = np.random.default_rng(0).bytes(min(size, DISK_BYTES))

    def run() -> None:
        with path.open("wb") as stream:
            for start in range(0, size, len(content)):
                stream.write(content[: size - start])
            stream.flush()
            os.fsync(stream.fileno())

    return run
