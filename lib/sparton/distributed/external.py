"""Workers that something outside has started, each with the whole program: ``horovodrun``, ``mpirun`` or ``srun``.

Nobody watches them from here. Each rank ends by itself, in bounded time and with the cause in its own output, when it
fails, when others are gone, when they do not come and when they keep it waiting; what has started it sees its status.
"""

from __future__ import annotations

import contextlib
import http.client
import logging
import os
import threading
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from sparton.distributed import agreement, devices, direct, environment
from sparton.distributed.launcher import Launcher, reason
from sparton.distributed.world import Connection, World, announced, connect
from sparton.errors import ConfigError, SpartonError, TrainingError

if TYPE_CHECKING:
    from sparton.distributed.launch import LaunchSettings

EXIT_GRACE_S = 10.0  # for Horovod's own shutdown after a failure
GLOO_GRACE_S = 30  # Gloo aborts the process without a word to its user, so it gives up later
LOOK_UP_S = 2.0

logger = logging.getLogger(__name__)


class ExternalLauncher(Launcher):
    """Runs the function in this process, which is one rank of a world that exists."""

    name = "external"

    def __init__(self, settings: LaunchSettings) -> None:
        self._settings = settings

    def run(self, fn: Callable[..., Any], args: tuple[Any, ...]) -> list[Any]:
        """Run a function as the rank that this process is and return its result alone; see :meth:`Launcher.run`.

        An error ends the process soon, so that whoever started the world ends the others; one that is alone goes on.
        """
        world = _own_place()
        try:
            return [fn(join(self._settings), *args)]
        except BaseException as error:
            if world.size > 1:
                _end_soon()
            if isinstance(error, SpartonError) or not isinstance(error, Exception):
                raise
            told = direct.shown(error)
            text = str(told) if isinstance(told, SpartonError) else f"{reason(told)}{_hint(told)}"
            raise TrainingError(f"rank {world.rank} of {world.size}: {text}") from error


_joined: list[Connection] = []


def join(settings: LaunchSettings) -> Connection:
    """Return this process's connection to the world it was started in; the same one each time.

    From then on lines of this package's log begin with the rank, and of ranks other than 0 those below warnings are
    left out, unless ``launch.all_ranks_log``. Where the others do not come within ``launch.start_timeout_s`` the
    process ends with status 1 and says which ones.

    Raises
    ------
    ConfigError
        If the world has another size than ``launch.workers``, or there is none.
    TrainingError
        If the processes cannot connect.
    """
    world = place(settings)
    if not _joined:
        _mark_log(world, settings.all_ranks_log)
        _set_environment(settings)
        # Processes that were started by hand are not limited to their share of the host.
        devices.limit_worker_threads(settings.threads_per_worker)
        with _among_the_others(world, settings):
            connection = _connected(world, settings)
        _guard(connection, settings)
        # Each process reads its own configuration, and ranks that sum in different ways would wait for each other.
        agreement.check_given(connection, {"launch.direct_sum_bytes": str(settings.direct_sum_bytes)})
        _joined.append(connection)
    return _joined[0]


def summon(settings: LaunchSettings, start: bool) -> None:
    """Tell the other ranks, which wait in :func:`summoned`, whether there is anything to do; for rank 0."""
    join(settings).collectives.broadcast_object({"start": start})


def summoned(settings: LaunchSettings) -> bool:
    """Wait for rank 0's word and return whether there is anything to do; for ranks other than 0."""
    return bool(join(settings).collectives.broadcast_object()["start"])


def place(settings: LaunchSettings) -> World:
    """Return the place of this process in the world that it was started in.

    Raises
    ------
    ConfigError
        If the world has another size than ``launch.workers``, or there is none.
    """
    world = _own_place()
    if world.size != settings.workers:
        raise ConfigError(
            f"launch.workers={settings.workers}, but {world.size} processes were started; make them equal"
        )
    return world


def _own_place() -> World:
    world = announced()
    if world is None:
        raise ConfigError(
            "launch.launcher=external: nothing in the environment says that horovodrun, mpirun or srun has started "
            "this process; start it with one of them, or choose another launcher"
        )
    return world


def _mark_log(world: World, all_ranks: bool) -> None:
    """Let the log say which rank speaks, as it does where a driver gathers it."""
    package = __name__.partition(".")[0]
    make = logging.getLogRecordFactory()

    def marked(*args: Any, **kwargs: Any) -> logging.LogRecord:
        record = make(*args, **kwargs)
        if record.name.partition(".")[0] == package:
            record.msg = f"rank {world.rank}: {record.msg}"
        return record

    logging.setLogRecordFactory(marked)
    if not (world.is_root or all_ranks):
        logger_of_package = logging.getLogger(package)
        logger_of_package.setLevel(max(logger_of_package.level, logging.WARNING))


def _set_environment(settings: LaunchSettings) -> None:
    """Set what a worker has under other launchers; what the process was started with counts more."""
    patient = settings.model_copy(update={"start_timeout_s": settings.start_timeout_s + GLOO_GRACE_S})
    for name, value in environment.of_worker(patient).items():
        os.environ.setdefault(name, value)
    os.environ.update(settings.environment)


def _among_the_others(world: World, settings: LaunchSettings) -> contextlib.AbstractContextManager[None]:
    """Let Horovod find the others where neither ``horovodrun`` nor MPI tells it where they are."""
    from sparton.distributed import horovod_backend, without_mpi

    if world.size == 1 or "HOROVOD_RANK" in os.environ or horovod_backend.speaks_mpi():
        return contextlib.nullcontext()
    if settings.rendezvous is None:
        raise ConfigError(
            f"rank {world.rank} of {world.size}: Horovod is built without MPI here, so the processes must be told "
            "where to find each other: --set launch.rendezvous=HOST:PORT, with the host of rank 0 (127.0.0.1 where "
            "all are on one host) and a port that is free there"
        )
    return without_mpi.meet(world, settings.rendezvous, settings.interface, settings.start_timeout_s, os.environ)


def _connected(world: World, settings: LaunchSettings) -> Connection:
    """Connect to the others, or end the process when they have not come in time."""
    connected = threading.Event()

    def watch() -> None:
        if not connected.wait(settings.start_timeout_s):
            absent = _absent(world)
            others = f"ranks {absent} of {world.size} have" if absent else f"the world of {world.size} has"
            logger.error(
                "%s not connected within launch.start_timeout_s=%d s; this process ends. Look at the output of the "
                "others and of what has started them, and see that all hosts reach each other",
                others,
                settings.start_timeout_s,
            )
            os._exit(1)

    threading.Thread(target=watch, name="sparton-start-watch", daemon=True).start()
    try:
        return connect(direct_sum_bytes=settings.direct_sum_bytes)
    finally:
        connected.set()


def _absent(world: World) -> list[int]:
    """Return the ranks that have not left their address at Horovod's rendezvous; none where nobody can say."""
    host, port = (os.environ.get(f"HOROVOD_GLOO_RENDEZVOUS_{name}", "") for name in ("ADDR", "PORT"))
    absent = []
    try:
        for rank in range(world.size):
            connection = http.client.HTTPConnection(host, int(port), timeout=LOOK_UP_S)
            connection.request("GET", f"/global/{rank}")
            if connection.getresponse().status == http.HTTPStatus.NOT_FOUND:
                absent.append(rank)
            connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        return []
    return absent


def _guard(connection: Connection, settings: LaunchSettings) -> None:
    activity = getattr(connection.collectives, "activity", None)
    if activity is None:
        return
    from sparton.distributed.stall import Guard
    from sparton.distributed.worker import main_stack

    def notify(kind: str) -> None:
        logger.warning("waits in a collective for other ranks" if kind == "waiting" else "goes on")

    def stop(seconds: float) -> None:
        logger.error("waited %.0f s in a collective for other ranks; it ends here:\n%s", seconds, main_stack())
        os._exit(1)

    Guard(activity.counts, settings.stall_check_s, settings.stall_shutdown_s, notify, stop).start()


def _hint(error: BaseException) -> str:
    """Return where the cause of an error is to be found that another rank has caused."""
    from sparton.distributed.worker import is_echo

    return "; another rank has ended: its output, or that of what has started it, says why" if is_echo(error) else ""


def _end_soon() -> None:
    from sparton.distributed.worker import exit_within

    exit_within(EXIT_GRACE_S)
