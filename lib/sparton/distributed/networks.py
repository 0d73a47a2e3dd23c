"""Which network a host offers to the workers, and whether its neighbours can be reached there."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import psutil

from sparton.errors import TrainingError

PROBE_TIMEOUT_S = 5.0
PROBES_AT_ONCE = 32

Address = tuple[str, int]
"""Host and port."""


@dataclass(frozen=True)
class Interface:
    """A network interface of this host and its IPv4 address."""

    name: str
    address: str

    @property
    def is_loopback(self) -> bool:
        """Whether other hosts cannot reach it."""
        return ipaddress.ip_address(self.address).is_loopback


def address_of(text: str) -> Address:
    """Return host and port of ``host:port``.

    Raises
    ------
    ValueError
        If it is none.
    """
    host, colon, port = text.rpartition(":")
    if not (host and colon and port.isdecimal() and 0 < int(port) < 1 << 16):
        raise ValueError(f"expected HOST:PORT. Received: {text!r}")
    return host, int(port)


def interfaces() -> dict[str, list[str]]:
    """Return the IPv4 addresses of each interface of this host."""
    found = psutil.net_if_addrs().items()
    return {name: [item.address for item in items if item.family == socket.AF_INET] for name, items in found}


def choose(name: str | None, host: str, port: int) -> Interface:
    """Return the interface to exchange data on.

    Parameters
    ----------
    name
        Its name; None takes the one from which packets to the driver leave.
    host, port
        Where the driver listens.

    Raises
    ------
    TrainingError
        If this host has no such interface.
    """
    present = interfaces()
    if name is not None:
        if not present.get(name):
            known = ", ".join(sorted(key for key, addresses in present.items() if addresses))
            raise TrainingError(
                f"host {socket.gethostname()} has no interface {name!r} with an IPv4 address; found {known}; "
                "set launch.interface to one that all hosts have"
            )
        return Interface(name, present[name][0])
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as route:
        route.connect((host, port))  # sends nothing
        address = str(route.getsockname()[0])
    for key, addresses in present.items():
        if address in addresses or (ipaddress.ip_address(address).is_loopback and "127.0.0.1" in addresses):
            return Interface(key, addresses[0])
    raise TrainingError(f"host {socket.gethostname()}: no interface has the address {address}; set launch.interface")


@contextmanager
def reachable(address: str, peers: int) -> Iterator[int]:
    """Listen at an address for a while, for the others to try; yields the port."""
    with socket.create_server((address, 0), backlog=peers) as server:
        yield int(server.getsockname()[1])


def unreachable(others: Mapping[str, tuple[str, int]]) -> list[str]:
    """Return what goes wrong when this host opens connections to others, each in one line.

    Parameters
    ----------
    others
        Address and port of each, by name.
    """
    with ThreadPoolExecutor(PROBES_AT_ONCE) as pool:
        answers = pool.map(_try, others.values())
    return [
        f"{name} at {address}:{port} ({answer})"
        for (name, (address, port)), answer in zip(others.items(), answers, strict=True)
        if answer
    ]


def _try(target: tuple[str, int]) -> str:
    try:
        socket.create_connection(target, PROBE_TIMEOUT_S).close()
    except OSError as error:
        return error.strerror or str(error)
    return ""
