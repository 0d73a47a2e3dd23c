"""Who am I among the training processes, and how do I speak to the others."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass

from sparton.distributed import devices
from sparton.distributed.collectives import Collectives, LocalCollectives
from sparton.distributed.direct import DIRECT_SUM_BYTES
from sparton.errors import ConfigError, TrainingError

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class World:
    """The place of a process among all processes of a training.

    Parameters
    ----------
    rank
        Number of this process, 0 ... size - 1.
    size
        Number of processes.
    local_rank
        Number of this process among those on the same host.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.rank < self.size:
            raise ValueError(f"expected 0 <= rank < size. Received: rank={self.rank}, size={self.size}")
        if not 0 <= self.local_rank < self.size:
            raise ValueError(f"expected 0 <= local_rank < size. Received: local_rank={self.local_rank}")

    @property
    def is_root(self) -> bool:
        """Whether this is rank 0, the one that writes."""
        return self.rank == 0


@dataclass(frozen=True)
class Connection:
    """A process's place in the world and its collectives; what training code is given."""

    world: World
    collectives: Collectives

    @classmethod
    def local(cls) -> Connection:
        """Return the connection of a process that trains alone."""
        return cls(World(), LocalCollectives())


LAUNCHERS = (
    ("HOROVOD_RANK", "HOROVOD_SIZE", "HOROVOD_LOCAL_RANK"),
    ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK"),
    ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID"),
)
"""How Horovod, Open MPI, and MPICH, Intel MPI or Slurm tell a process its rank, the world's size and its local rank."""


def described(environment: Mapping[str, str] | None = None) -> World | None:
    """Return the place that the environment gives to this process in a world of several; None if it is alone.

    Parameters and errors are those of :func:`announced`.
    """
    world = announced(environment)
    return None if world is None or world.size == 1 else world


def announced(environment: Mapping[str, str] | None = None) -> World | None:
    """Return the place that the environment gives to this process, in a world of one too; None if it names none.

    Parameters
    ----------
    environment
        The variables to read; those of the process by default.

    Raises
    ------
    ConfigError
        If the variables contradict each other, or are no numbers.
    """
    variables = os.environ if environment is None else environment
    for names in LAUNCHERS:
        rank, size = variables.get(names[0]), variables.get(names[1])
        if rank is None and size is None:
            continue
        if rank is None or size is None:
            raise ConfigError(
                f"{names[0]}={rank} and {names[1]}={size}: expected both to be set or neither; "
                "start the workers with a launcher or unset the variable"
            )
        number, count = _number(names[0], rank), _number(names[1], size)
        if not number < count:
            raise ConfigError(f"{names[0]}={rank} and {names[1]}={size}: expected a rank below the size")
        local = _number(names[2], variables.get(names[2]) or "0")
        return World(number, count, min(local, count - 1))
    return None


def connect(environment: Mapping[str, str] | None = None, direct_sum_bytes: int = DIRECT_SUM_BYTES) -> Connection:
    """Join the world that the environment describes.

    Where :func:`described` finds more than one process Horovod is initialised; otherwise the process is alone,
    nothing of Horovod is imported, and a GPU that Spark has assigned to it is the one that it uses.

    Parameters
    ----------
    environment
        The variables to read; those of the process by default.
    direct_sum_bytes
        Sums for which the vectors of all ranks together measure no more go straight from rank to rank on CPUs
        (:mod:`sparton.distributed.direct`); 0 leaves all to Horovod. Equal on all ranks.

    Raises
    ------
    ConfigError
        If the variables contradict each other, or are no numbers.
    TrainingError
        If Horovod is not installed or finds another world.
    """
    world = described(environment)
    if world is not None:
        return _connect_horovod(world, direct_sum_bytes)
    if devices.assigned_gpus():
        devices.pin_gpu(0, devices.assigned_gpus())
    return Connection.local()


def _number(name: str, text: str) -> int:
    lowest = 1 if name.endswith("SIZE") else 0
    if not text.isdecimal() or int(text) < lowest:
        raise ConfigError(f"{name}={text!r}: expected a whole number, {lowest} or more")
    return int(text)


def _connect_horovod(world: World, direct_sum_bytes: int) -> Connection:
    try:
        from sparton.distributed import horovod_backend
    except ImportError as error:
        raise TrainingError(f"more than one worker needs Horovod built for TensorFlow: {error}") from error
    rank, size, local_rank = horovod_backend.initialise()
    if (rank, size) != (world.rank, world.size):
        raise TrainingError(
            f"this process was started as rank {world.rank} of {world.size}, Horovod finds rank {rank} of {size}: it "
            "cannot speak to the launcher (is it built with MPI?); use horovodrun --gloo or a launcher on Spark"
        )
    collectives = horovod_backend.HorovodCollectives(rank, direct_sum_bytes)
    if rank == 0:
        interface = os.environ.get("HOROVOD_GLOO_IFACE")
        logger.info("world of %d connected%s", size, f" over {interface}" if interface else "")
    return Connection(World(rank, size, local_rank), collectives)
