"""Processes with the variables that ``mpirun`` gives them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

MPICH = ("PMI_RANK", "PMI_SIZE", "MPI_LOCALRANKID")
OPEN_MPI = ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE", "OMPI_COMM_WORLD_LOCAL_RANK")

Ended = tuple[int, str]
"""Status and output."""


def free_port() -> int:
    """Return a port that nobody listens on."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def run_rank(rank: int, arguments: Sequence[str], names: Sequence[str] = MPICH, **variables: str) -> Ended:
    """Run Python as a rank of two on one host."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("HOROVOD_")}
    place = dict(zip(names, (str(rank), "2", str(rank)), strict=True))
    ended = subprocess.run(
        [sys.executable, *arguments],
        env=own | place | variables, capture_output=True, text=True, timeout=180, check=False,
    )  # fmt: skip
    return ended.returncode, ended.stdout + ended.stderr


def run_both(arguments: Sequence[str], names: Sequence[str] = MPICH) -> list[Ended]:
    """Run Python as both ranks of two at once."""
    with ThreadPoolExecutor(2) as pool:
        return list(pool.map(lambda rank: run_rank(rank, arguments, names), range(2)))
