"""Who am I among the training processes, and how do I speak to the others."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

from sparton.distributed.collectives import Collectives, LocalCollectives
from sparton.errors import TrainingError


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


def connect(environment: Mapping[str, str] | None = None) -> Connection:
    """Join the world that the environment describes.

    ``HOROVOD_RANK`` and ``HOROVOD_SIZE`` (set by every Horovod launcher) with more than one process initialise
    Horovod; otherwise the process is alone and nothing of Horovod is imported.

    Parameters
    ----------
    environment
        The variables to read; those of the process by default.

    Raises
    ------
    TrainingError
        If the variables contradict each other or Horovod is not installed.
    """
    variables = os.environ if environment is None else environment
    rank, size = variables.get("HOROVOD_RANK"), variables.get("HOROVOD_SIZE")
    if (rank is None) != (size is None):
        raise TrainingError(
            f"HOROVOD_RANK={rank} and HOROVOD_SIZE={size}: expected both to be set or neither; "
            "start the workers with a Horovod launcher or unset the variable"
        )
    if size is None or _count(size) == 1:
        return Connection.local()
    return _connect_horovod()


def _count(size: str) -> int:
    if not size.isdecimal() or int(size) < 1:
        raise TrainingError(f"HOROVOD_SIZE={size!r}: expected the number of workers, 1 or more")
    return int(size)


def _connect_horovod() -> Connection:
    try:
        from sparton.distributed import horovod_backend
    except ImportError as error:
        raise TrainingError(f"more than one worker needs Horovod built for TensorFlow: {error}") from error
    rank, size, local_rank = horovod_backend.initialise()
    return Connection(World(rank, size, local_rank), horovod_backend.HorovodCollectives(rank))
