"""Which rank each task of a launch becomes: ranks of one host follow each other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """The place of one process in the world, as Horovod counts.

    Parameters
    ----------
    host
        Name of its host, equal for all processes there.
    rank, size
        Its number among all processes, and theirs.
    local_rank, local_size
        The same among the processes of its host.
    cross_rank, cross_size
        The same among the processes of equal local rank.
    """

    host: str
    rank: int
    size: int
    local_rank: int
    local_size: int
    cross_rank: int
    cross_size: int

    def environment(self) -> dict[str, str]:
        """Return the variables that Horovod reads."""
        numbers = {
            "RANK": self.rank,
            "SIZE": self.size,
            "LOCAL_RANK": self.local_rank,
            "LOCAL_SIZE": self.local_size,
            "CROSS_RANK": self.cross_rank,
            "CROSS_SIZE": self.cross_size,
        }
        return {"HOROVOD_HOSTNAME": self.host} | {f"HOROVOD_{key}": str(value) for key, value in numbers.items()}


def assign(hosts: Sequence[str]) -> list[Place]:
    """Return the place of each task; the first task is rank 0.

    Parameters
    ----------
    hosts
        The host of each task.
    """
    members: dict[str, list[int]] = {}
    for task, host in enumerate(hosts):
        members.setdefault(host, []).append(task)
    places: dict[int, Place] = {}
    for cross, (host, tasks) in enumerate(members.items()):
        for local, task in enumerate(tasks):
            peers = [number for number, others in enumerate(members.values()) if len(others) > local]
            places[task] = Place(host, len(places), len(hosts), local, len(tasks), peers.index(cross), len(peers))
    return [places[task] for task in range(len(hosts))]
