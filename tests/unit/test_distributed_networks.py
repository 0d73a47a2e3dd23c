"""Interfaces, ports that are blocked, and the rendezvous that hears the world alone."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
from collections.abc import Iterator

import pytest

from sparton.distributed import networks, places, rendezvous
from sparton.errors import TrainingError

LOOPBACK = "127.0.0.1"


@contextlib.contextmanager
def dropping() -> Iterator[int]:
    """A port that answers no further request to connect, like one behind a firewall: its queue is full."""
    with socket.socket() as server, contextlib.ExitStack() as held:
        server.bind((LOOPBACK, 0))
        server.listen(0)
        for _ in range(3):
            filler = held.enter_context(socket.socket())
            filler.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                filler.connect(server.getsockname())
        yield server.getsockname()[1]


def test_the_interface_is_the_one_towards_the_driver() -> None:
    found = networks.choose(None, LOOPBACK, 4040)
    assert found.address == LOOPBACK
    assert found.is_loopback
    assert networks.choose(found.name, "198.51.100.1", 4040) == found


def test_an_unknown_interface_is_named_with_those_that_exist() -> None:
    with pytest.raises(
        TrainingError, match=r"has no interface 'wlan7' with an IPv4 address; found .*; set launch\.int"
    ):
        networks.choose("wlan7", LOOPBACK, 4040)


def test_ports_that_can_be_reached_are_no_problem() -> None:
    with networks.reachable(LOOPBACK, 3) as one, networks.reachable(LOOPBACK, 3) as other:
        assert networks.unreachable({"a": (LOOPBACK, one), "b": (LOOPBACK, other)}) == []


def test_blocked_ports_are_named_within_seconds(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(networks, "PROBE_TIMEOUT_S", 0.5)
    with socket.socket() as unused, dropping() as dropped:
        unused.bind((LOOPBACK, 0))
        refused = unused.getsockname()[1]
        started = time.monotonic()
        found = networks.unreachable({"a": (LOOPBACK, refused), "b": (LOOPBACK, dropped)})
    assert found == [f"a at {LOOPBACK}:{refused} (Connection refused)", f"b at {LOOPBACK}:{dropped} (timed out)"]
    assert time.monotonic() - started < 5


def ask(port: int, method: str, path: str, body: bytes | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=10)
    try:
        connection.request(method, path, body)
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


def test_the_rendezvous_keeps_what_was_written_first() -> None:
    with rendezvous.serving(LOOPBACK) as server:
        server.open_to(places.assign(["a", "a"]), [LOOPBACK])
        assert ask(server.port, "GET", "/global/0")[0] == 404
        assert ask(server.port, "PUT", "/global/0", b"here")[0] == 200
        ask(server.port, "PUT", "/global/0", b"stranger")
        assert ask(server.port, "GET", "/global/0") == (200, b"here")


def test_the_rendezvous_hears_the_hosts_of_its_world_alone() -> None:
    with rendezvous.serving(LOOPBACK) as server:
        assert ask(server.port, "PUT", "/global/0", b"early")[0] == rendezvous.FORBIDDEN
        server.open_to(places.assign(["a", "b"]), ["192.0.2.7", "192.0.2.8"])
        for method in ("PUT", "GET", "DELETE"):
            assert ask(server.port, method, "/global/0", b"x" if method == "PUT" else None)[0] == rendezvous.FORBIDDEN
