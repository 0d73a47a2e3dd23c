"""What runs in each task of a barrier stage: the tasks agree on a world, then each supervises its worker."""

from __future__ import annotations

import contextlib
import json
import socket
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from sparton.distributed import devices, environment, networks, places, supervisor
from sparton.distributed.networks import Interface
from sparton.distributed.supervisor import Order
from sparton.errors import SpartonError, WorkerError


@dataclass(frozen=True)
class Outcome:
    """How a task ended.

    Parameters
    ----------
    rank
        The worker's; -1 where there is no world.
    result
        What its function returned, pickled; None if it failed.
    problem
        Why there is no world.
    final
        Whether a new start would meet the same problem.
    """

    rank: int
    result: bytes | None = None
    problem: str | None = None
    final: bool = False


@dataclass(frozen=True)
class Offer:
    """What a task tells the others about its host.

    Parameters
    ----------
    host
        Name.
    interface, address
        Where its worker will listen.
    probe
        Port for the others to try.
    rendezvous
        Port of the rendezvous, which the first task holds.
    gpus
        Addresses of the GPUs that Spark has assigned to it.
    problem, final
        Why it cannot take part, and whether it never will.
    """

    host: str
    interface: str = ""
    address: str = ""
    probe: int = 0
    rendezvous: int = 0
    gpus: Sequence[str] = ()
    problem: str | None = None
    final: bool = False


def run(order: Order, interface: str | None) -> Outcome:
    """Take part in a world and supervise its worker of this task.

    Nothing is raised: Spark would start the whole stage again, with workers that nobody waits for.
    """
    from pyspark import BarrierTaskContext

    context = BarrierTaskContext.get()
    with contextlib.ExitStack() as held:
        task, tasks = context.partitionId(), len(context.getTaskInfos())
        server, offer = prepare(order, interface, task, tasks, held)
        resources = context.resources()
        offer = replace(offer, gpus=resources["gpu"].addresses if "gpu" in resources else [])
        offers = [Offer(**json.loads(text)) for text in context.allGather(json.dumps(asdict(offer)))]
        lost = next((other for other in offers if other.problem), None)
        if lost is not None:
            return Outcome(-1, problem=lost.problem, final=lost.final)
        world = places.assign([other.address for other in offers])
        if len({other.address for other in offers}) > 1:
            closed = next(filter(None, context.allGather(closed_ports(offers, task))), None)
            if closed is not None:
                return Outcome(-1, problem=closed)
        if server is not None:
            server.open_to(world, [other.address for other in offers])
        place = world[task]
        gpus = devices.own_gpus([other.address for other in offers], [other.gpus for other in offers], task)
        try:
            variables = environment.of_horovod(place, offer.interface, offers[0].address, offers[0].rendezvous)
            result = supervisor.run(order, place.rank, variables, gpus)
        except WorkerError as error:
            return Outcome(place.rank, problem=str(error))
        return Outcome(place.rank, result)


def prepare(
    order: Order, interface: str | None, task: int, tasks: int, held: contextlib.ExitStack
) -> tuple[Any, Offer]:
    """Return the rendezvous, where this task holds it, and what to tell the others.

    Parameters
    ----------
    order, interface
        What the driver has sent.
    task, tasks
        The number of this task, and of all.
    held
        Closes what listens.
    """
    host = socket.gethostname()
    try:
        found = _interface(order, interface)
        probe = held.enter_context(networks.reachable(found.address, tasks))
        if task:
            return None, Offer(host, found.name, found.address, probe)
        from sparton.distributed import rendezvous

        server = held.enter_context(rendezvous.serving(found.address))
        return server, Offer(host, found.name, found.address, probe, server.port)
    except SpartonError as error:
        return None, Offer(host, problem=str(error), final=not isinstance(error, WorkerError))
    except (OSError, ImportError) as error:
        return None, Offer(host, problem=f"host {host}: {type(error).__name__}: {error}")


def _interface(order: Order, name: str | None) -> Interface:
    """Return the interface to use, and see that the driver can be reached."""
    driver = order.driver
    try:
        socket.create_connection((driver.host, driver.port), networks.PROBE_TIMEOUT_S).close()
    except OSError as error:
        raise WorkerError(
            f"host {socket.gethostname()} cannot reach the driver at {driver.host}:{driver.port} "
            f"({error.strerror or error}); workers must be able to open connections to the host in spark.driver.host, "
            "to the port in launch.port"
        ) from error
    return networks.choose(name, driver.host, driver.port)


def closed_ports(offers: Sequence[Offer], task: int) -> str:
    """Return which hosts a task cannot open connections to, and the way out; empty if it can to all."""
    own = offers[task]
    others = {offer.host: (offer.address, offer.probe) for offer in offers if offer.address != own.address}
    bad = networks.unreachable(others)
    if not bad:
        return ""
    return (
        f"{own.host} cannot reach {', '.join(bad)}: workers must be able to open connections to each other on any port "
        "above 1023; open them, or name the network that the hosts share with launch.interface"
    )
