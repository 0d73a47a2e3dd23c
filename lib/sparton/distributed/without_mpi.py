"""Processes that ``mpirun`` or ``srun`` has started find each other without MPI, which Horovod need not be built with.

They leave their addresses where ``launch.rendezvous`` says. Rank 0 serves them there, and Gloo after that.
"""

from __future__ import annotations

import contextlib
import hashlib
import http
import http.client
import os
import socket
import time
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from sparton.distributed import environment, networks, places, rendezvous, wire
from sparton.distributed.networks import Address
from sparton.distributed.rendezvous import MEETING
from sparton.distributed.world import World
from sparton.errors import ConfigError, WorkerError

JOB_VARIABLES = ("PMIX_NAMESPACE", "OMPI_MCA_ess_base_jobid", "SLURM_JOB_ID", "SLURM_STEP_ID")
"""What launchers name a job by, to all of its processes alike."""

POLL_S = 0.2
REQUEST_TIMEOUT_S = 5.0

Found = dict[int, dict[str, Any]]


@contextlib.contextmanager
def meet(world: World, where: str, interface: str | None, timeout_s: float, job: Mapping[str, str]) -> Iterator[None]:
    """Set the variables by which Horovod finds the others; they can be found within the block.

    Parameters
    ----------
    world
        The place of this process.
    where
        Host of rank 0 and a port that is free there, ``host:port``; the same for all processes.
    interface
        Network interface to exchange data on; None takes the one towards ``where``.
    timeout_s
        Seconds within which all must have come.
    job
        The process's environment: what other jobs leave at the same place is not heard.

    Raises
    ------
    ConfigError
        If the host has no address, or rank 0 cannot listen there.
    TrainingError
        If this host has no such interface.
    WorkerError
        If a process does not come in time.
    """
    host, port = networks.address_of(where)
    try:
        target = socket.gethostbyname(host), port
    except OSError as error:
        raise ConfigError(
            f"launch.rendezvous={where}: host {socket.gethostname()} knows no {host} ({error.strerror or error}); give "
            "the name or address of the host of rank 0"
        ) from error
    own = networks.choose(interface, *target)
    key = _key(where, world, job)
    with contextlib.ExitStack() as held:
        if world.is_root:
            found = _gathered(held, target, key, world, own.address, timeout_s)
        else:
            found = _asked(target, key, world, own.address, timeout_s)
        addresses = [found[rank]["address"] for rank in range(world.size)]
        place = replace(places.assign(addresses)[world.rank], rank=world.rank)
        os.environ.update(environment.of_horovod(place, own.name, *target))
        yield


def _gathered(
    held: contextlib.ExitStack, where: Address, key: bytes, world: World, address: str, timeout_s: float
) -> Found:
    """Serve the others until all have come and return what they say; the last that they find is rank 0's own."""
    try:
        server = held.enter_context(rendezvous.serving(*where, accepted=lambda value: _opened(key, value) is not None))
    except OSError as error:
        raise ConfigError(
            f"launch.rendezvous={where[0]}:{where[1]}: rank 0, on {socket.gethostname()}, cannot listen there "
            f"({error.strerror or error}); name the host of rank 0 and a port that is free on it"
        ) from error
    deadline = time.monotonic() + timeout_s
    others = range(1, world.size)
    while missing := [rank for rank in others if server.value(MEETING, str(rank)) is None]:
        _wait(deadline, f"ranks {missing} of {world.size} have not come to", where, timeout_s)
    found = {rank: _opened(key, server.value(MEETING, str(rank))) for rank in others}
    found[0] = {"address": address}
    places_of_all = places.assign([found[rank]["address"] for rank in range(world.size)])
    server.open_to(places_of_all, server.hosts | {address, where[0]})
    for rank in (*others, 0):  # the server has forgotten what it had
        server.keep(MEETING, str(rank), wire.seal(key, found[rank]))
    return found


def _asked(where: Address, key: bytes, world: World, address: str, timeout_s: float) -> Found:
    """Leave this process's address with rank 0, and return those of all once it has them."""
    deadline = time.monotonic() + timeout_s
    own = wire.seal(key, {"address": address})
    found: Found = {}
    while not _request(where, "PUT", world.rank, own):
        _wait(deadline, "rank 0 does not listen at", where, timeout_s)
    while 0 not in found:
        first = _opened(key, _request(where, "GET", 0))
        if first is None:
            _wait(deadline, f"rank 0 waits for others of {world.size} at", where, timeout_s)
        else:
            found[0] = first
    for rank in range(1, world.size):
        answer = _opened(key, _request(where, "GET", rank))
        if answer is None:
            raise WorkerError(f"rank 0 at {where[0]}:{where[1]} is gone")
        found[rank] = answer
    return found


def _request(where: Address, method: str, rank: int, body: bytes | None = None) -> bytes | None:
    """Return the answer; None if there is nothing, or nobody."""
    connection = http.client.HTTPConnection(*where, timeout=REQUEST_TIMEOUT_S)
    try:
        connection.request(method, f"/{MEETING}/{rank}", body)
        answer = connection.getresponse()
        content = answer.read(wire.MAX_LINE)
        return (content or b" ") if answer.status == http.HTTPStatus.OK else None
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()


def _wait(deadline: float, what: str, where: Address, timeout_s: float) -> None:
    if time.monotonic() >= deadline:
        raise WorkerError(
            f"{what} launch.rendezvous={where[0]}:{where[1]} within launch.start_timeout_s={timeout_s:.0f} s; look at "
            "the output of the others and of what has started them, and see that all hosts reach that port"
        )
    time.sleep(POLL_S)


def _key(where: str, world: World, job: Mapping[str, str]) -> bytes:
    """Return what messages of this job are sealed with; not a secret, it tells jobs from each other."""
    names = [f"{name}={job[name]}" for name in JOB_VARIABLES if name in job]
    return hashlib.sha256("\n".join([where, str(world.size), *names]).encode()).digest()


def _opened(key: bytes, value: bytes | None) -> Any:
    try:
        return None if value is None else wire.unseal(key, value)
    except ValueError:
        return None
