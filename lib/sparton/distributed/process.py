"""A world of one rank: this process."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparton.distributed import devices
from sparton.distributed.launcher import Launcher, reason
from sparton.distributed.world import Connection
from sparton.errors import SpartonError, TrainingError, WorkerError, is_mendable


class ProcessLauncher(Launcher):
    """Runs the function here, without Horovod."""

    name = "process"

    def __init__(self, threads: int | None) -> None:
        self._threads = threads

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        """Run a function here; see :meth:`Launcher.run`. Errors of this project keep their kind."""
        if self._threads is not None:
            devices.limit_own_threads(self._threads)
        try:
            return [fn(Connection.local(), *args)]
        except SpartonError:
            raise
        except Exception as error:
            kind = WorkerError if is_mendable(error) else TrainingError
            raise kind(f"rank 0 of 1: {reason(error)}") from error
