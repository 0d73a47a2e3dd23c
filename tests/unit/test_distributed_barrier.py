"""What the tasks of a barrier stage find out before a worker starts."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from sparton.distributed import barrier_task, networks, relay
from sparton.distributed.barrier_task import Offer
from sparton.distributed.relay import Address
from sparton.distributed.supervisor import Order

LOOPBACK = "127.0.0.1"


def order(driver: Address) -> Order:
    return Order(task=b"", driver=driver, environment={}, paths=[], python=None, all_ranks_log=False)


def prepared(driver: Address, task: int, interface: str | None = None) -> tuple[Any, Offer]:
    with contextlib.ExitStack() as held:
        return barrier_task.prepare(order(driver), interface, task, 2, held)


def test_the_first_task_holds_the_rendezvous() -> None:
    with relay.listen(LOOPBACK, LOOPBACK) as (_, driver):
        server, first = prepared(driver, 0)
        nothing, second = prepared(driver, 1)
    assert (first.problem, second.problem) == (None, None)
    assert first.rendezvous == server.port
    assert (nothing, second.rendezvous) == (None, 0)
    assert first.address == second.address == LOOPBACK
    assert first.interface in networks.interfaces()


def test_a_driver_that_cannot_be_reached_is_named_before_anything_starts() -> None:
    with socket.socket() as unused:
        unused.bind((LOOPBACK, 0))
        _, offer = prepared(Address(LOOPBACK, unused.getsockname()[1], b""), 0)
    assert offer.problem is not None
    assert f"host {socket.gethostname()} cannot reach the driver at {LOOPBACK}:" in offer.problem
    assert "(Connection refused)" in offer.problem
    assert "launch.port" in offer.problem
    assert not offer.final  # it may listen again


def test_an_interface_that_a_host_lacks_is_final() -> None:
    with relay.listen(LOOPBACK, LOOPBACK) as (_, driver):
        _, offer = prepared(driver, 1, "wlan7")
    assert offer.problem is not None
    assert "has no interface 'wlan7'" in offer.problem
    assert offer.final


def test_closed_ports_between_hosts_are_named_with_the_way_out() -> None:
    with socket.socket() as unused, networks.reachable(LOOPBACK, 2) as port:
        unused.bind(("127.0.0.2", 0))
        blocked = unused.getsockname()[1]
        offers = [Offer("a", "lo", LOOPBACK, port), Offer("b", "lo", "127.0.0.2", blocked)]
        found = barrier_task.closed_ports(offers, 0)
        assert barrier_task.closed_ports(offers, 1) == ""
    assert found.startswith(f"a cannot reach b at 127.0.0.2:{blocked} (Connection refused): workers must be able to")
    assert "launch.interface" in found
