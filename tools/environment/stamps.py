"""Which steps of a setup are done, for which inputs; and one setup at a time."""

from __future__ import annotations

import fcntl
import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from environment.console import say

STARTED = "started"


def digest(*parts: str | Path) -> str:
    """Return the SHA-256 (hex) of texts and of files' contents, in this order."""
    total = hashlib.sha256()
    for part in parts:
        content = part.read_bytes() if isinstance(part, Path) else part.encode()
        total.update(hashlib.sha256(content).digest())
    return total.hexdigest()


class Stamps:
    """One small file for each step: the digest of its inputs once it is done, ``started`` while it runs."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def is_current(self, step: str, inputs: str) -> bool:
        """Tell whether the step was done for exactly these inputs."""
        return self._read(step) == inputs

    def was_interrupted(self, step: str) -> bool:
        """Tell whether the step began and did not end."""
        return self._read(step) == STARTED

    def knows(self, step: str) -> bool:
        """Tell whether the step was ever begun in this environment."""
        return bool(self._read(step))

    @contextmanager
    def step(self, step: str, inputs: str) -> Iterator[None]:
        """Mark the step as begun, and as done when the block ends without an error."""
        self._write(step, STARTED)
        yield
        self._write(step, inputs)

    def _read(self, step: str) -> str:
        path = self._folder / step
        return path.read_text(encoding="utf-8") if path.is_file() else ""

    def _write(self, step: str, text: str) -> None:
        self._folder.mkdir(parents=True, exist_ok=True)
        aside = self._folder / f"{step}.new"
        aside.write_text(text, encoding="utf-8")
        aside.replace(self._folder / step)


@contextmanager
def exclusive(path: Path, what: str) -> Iterator[None]:
    """Hold a lock file for the block; where another process holds it, say so and wait."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        # Inherited by children: one that outlives a killed setup keeps the lock until it ends.
        os.set_inheritable(handle.fileno(), True)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say(f"{what} is busy with another setup; waiting for it (lock: {path})")
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
