"""Workers that something outside has started, each with the whole program: ``horovodrun``, ``mpirun`` or ``srun``."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sparton.distributed import devices
from sparton.distributed.launcher import Launcher
from sparton.distributed.world import Connection, World, connect, described
from sparton.errors import ConfigError, SpartonError, TrainingError

if TYPE_CHECKING:
    from sparton.distributed.launch import LaunchSettings

EXIT_GRACE_S = 10.0  # for Horovod's own shutdown after a failure

logger = logging.getLogger(__name__)


class ExternalLauncher(Launcher):
    """Runs the function in this process, which is one rank of a world that exists."""

    name = "external"

    def __init__(self, settings: LaunchSettings) -> None:
        self._settings = settings

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        """Run a function as the rank that this process is and return its result alone; see :meth:`Launcher.run`.

        An error ends the process soon, so that whoever started the world ends the others.
        """
        try:
            return [fn(join(self._settings), *args)]
        except BaseException as error:
            _end_soon()
            world = described() or World()
            if isinstance(error, SpartonError) or not isinstance(error, Exception):
                raise
            raise TrainingError(f"rank {world.rank} of {world.size}: {type(error).__name__}: {error}") from error


_joined: list[Connection] = []


def join(settings: LaunchSettings) -> Connection:
    """Return this process's connection to the world it was started in; the same one each time.

    Raises
    ------
    ConfigError
        If the world has another size than ``launch.workers``, or there is none.
    TrainingError
        If the processes cannot connect.
    """
    world = described()
    if world is None:
        raise ConfigError(
            "launch.launcher=external: nothing in the environment says that horovodrun, mpirun or srun has started "
            "this process; start it with one of them, or choose another launcher"
        )
    if world.size != settings.workers:
        raise ConfigError(
            f"launch.workers={settings.workers}, but {world.size} processes were started; make them equal"
        )
    if not _joined:
        # Processes that were started by hand are not limited to their share of the host.
        devices.limit_worker_threads(settings.threads_per_worker)
        connection = connect(direct_sum_bytes=settings.direct_sum_bytes)
        _guard(connection, settings)
        _joined.append(connection)
    return _joined[0]


def summon(settings: LaunchSettings, start: bool) -> None:
    """Tell the other ranks, which wait in :func:`summoned`, whether there is anything to do; for rank 0."""
    join(settings).collectives.broadcast_object({"start": start})


def summoned(settings: LaunchSettings) -> bool:
    """Wait for rank 0's word and return whether there is anything to do; for ranks other than 0."""
    return bool(join(settings).collectives.broadcast_object()["start"])


def _guard(connection: Connection, settings: LaunchSettings) -> None:
    activity = getattr(connection.collectives, "activity", None)
    if activity is None:
        return
    from sparton.distributed.stall import Guard

    rank = connection.world.rank

    def notify(kind: str) -> None:
        logger.warning("rank %d %s", rank, "waits in a collective for other ranks" if kind == "waiting" else "goes on")

    def stop(seconds: float) -> None:
        logger.error("rank %d waited %.0f s in a collective for other ranks; it ends", rank, seconds)
        os._exit(1)

    Guard(activity.counts, settings.stall_check_s, settings.stall_shutdown_s, notify, stop).start()


def _end_soon() -> None:
    from sparton.distributed.worker import exit_within

    exit_within(EXIT_GRACE_S)
