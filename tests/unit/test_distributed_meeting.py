from __future__ import annotations

import contextlib
import hashlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest

from sparton.distributed import meeting, wire
from sparton.distributed.direct import DirectSums
from sparton.errors import TrainingError

LOOPBACK = {"HOROVOD_GLOO_IFACE": "lo"}

Gatherer = Callable[[np.ndarray], np.ndarray]


class Gather:
    """What Horovod does for ranks that are threads."""

    def __init__(self, size: int) -> None:
        self._rows: list[Any] = [None] * size
        self._barrier = threading.Barrier(size)

    def of(self, rank: int) -> Gatherer:
        def gather(row: np.ndarray) -> np.ndarray:
            self._rows[rank] = row
            self._barrier.wait(10)
            return np.concatenate(self._rows)

        return gather


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=30) for future in [pool.submit(call) for call in calls]]


def connected(gathers: Sequence[Gatherer]) -> list[DirectSums]:
    """Connect ranks and see that they can sum."""
    size = len(gathers)
    worlds = together([lambda r=r: meeting.connect(r, size, gathers[r], environment=LOOPBACK) for r in range(size)])
    for total in together([lambda r=r: worlds[r].sum(np.array([1.0, r])) for r in range(size)]):
        assert total.tolist() == [size, size * (size - 1) / 2]
    return worlds


def close(worlds: Sequence[DirectSums]) -> None:
    for world in worlds:
        world.close()


def address_of(row: np.ndarray) -> tuple[str, int]:
    host, port = bytes(row[: meeting.ADDRESS_BYTES]).rstrip(b"\0").decode().split()
    return host, int(port)


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_ranks_connect_and_sum(size: int) -> None:
    gather = Gather(size)
    close(connected([gather.of(rank) for rank in range(size)]))


@pytest.mark.parametrize("environment", [{}, {"HOROVOD_GLOO_IFACE": "none"}])
def test_without_an_interface_no_rank_sums_directly(environment: dict[str, str]) -> None:
    gather = Gather(2)
    own = [LOOPBACK, environment]
    found = together([lambda r=r: meeting.connect(r, 2, gather.of(r), environment=own[r]) for r in range(2)])
    assert found == [None, None]


def test_if_one_rank_does_not_want_none_does() -> None:
    gather = Gather(2)
    found = together([lambda r=r: meeting.connect(r, 2, gather.of(r), r == 0, LOOPBACK) for r in range(2)])
    assert found == [None, None]


class Strangers:
    """Somebody without the secret, who knocks at rank 0 before rank 1 does."""

    def __init__(self, words: Sequence[bytes]) -> None:
        self._words = words
        self.connections: list[socket.socket] = []

    def before(self, gather: Gatherer) -> Gatherer:
        """Return what gathers for rank 1 and then lets each stranger say its words, and leave if it has none."""

        def visited(row: np.ndarray) -> np.ndarray:
            rows = gather(row)
            for words in self._words:
                self.connections.append(socket.create_connection(address_of(rows[0])))
                self.connections[-1].sendall(words)
            return rows

        return visited

    def close(self) -> None:
        for connection in self.connections:
            connection.close()


@contextlib.contextmanager
def strangers(*words: bytes) -> Iterator[Strangers]:
    knocking = Strangers(words)
    yield knocking
    knocking.close()


@pytest.mark.parametrize(
    "words",
    [
        pytest.param([b""] * 12, id="silent"),
        pytest.param([b"hel"] * 12, id="half a line"),
        pytest.param([b"hello\n", b'0000 {"rank": 1, "round": 0}\n', b"\n\n", b"x" * 4096], id="without the secret"),
    ],
)
def test_strangers_hold_up_nobody(words: list[bytes]) -> None:
    gather, began = Gather(2), time.monotonic()
    with strangers(*words) as knocking:
        worlds = connected([gather.of(0), knocking.before(gather.of(1))])
        assert time.monotonic() - began < meeting.HELLO_TIMEOUT_S
        for stranger in knocking.connections:
            stranger.settimeout(5)
            with contextlib.suppress(ConnectionResetError):
                assert stranger.recv(1) == b""
    close(worlds)


def test_of_too_many_strangers_the_first_have_to_go_and_no_rank(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "UNHEARD", 3)
    gather, gone = Gather(2), []

    with strangers(*[b""] * 40) as knocking:

        def late(row: np.ndarray) -> np.ndarray:
            """Come when all but the last three were sent away, long before their time is over."""
            rows = knocking.before(gather.of(1))(row)
            for number, stranger in enumerate(knocking.connections):
                stranger.settimeout(0.2 if number >= 37 else 2)
                with contextlib.suppress(TimeoutError):
                    gone.append((number, stranger.recv(1)))
            return rows

        worlds = connected([gather.of(0), late])
    assert gone == [(number, b"") for number in range(37)]
    close(worlds)


def test_a_stranger_that_goes_on_and_on_is_hung_up_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(meeting, "HELLO_TIMEOUT_S", 0.3)
    gather, dripped = Gather(2), []

    with strangers(b"") as knocking:

        def late(row: np.ndarray) -> np.ndarray:
            rows = knocking.before(gather.of(1))(row)
            (stranger,) = knocking.connections
            with contextlib.suppress(ConnectionError):
                for number in range(50):
                    stranger.sendall(b"x")
                    dripped.append(number)
                    time.sleep(0.1)
            return rows

        worlds = connected([gather.of(0), late])
    assert len(dripped) < 10
    close(worlds)


class Other:
    """What stands for rank 1 of 2 to rank 0."""

    def __init__(self, serve: Callable[[socket.socket, bytes], None]) -> None:
        self._serve = serve
        self._server = socket.create_server(("127.0.0.1", 0))
        self._thread = threading.Thread(target=self._run, daemon=True)

    def gather(self, row: np.ndarray) -> np.ndarray:
        rows = np.concatenate([row, meeting._row(f"127.0.0.1 {self._server.getsockname()[1]}", bytes(32))])
        self._secret = hashlib.sha256(rows[:, meeting.ADDRESS_BYTES :].tobytes()).digest()
        self._source = socket.create_connection(address_of(rows[0]))
        self._source.sendall(wire.seal(self._secret, {"rank": 1, "round": 0}))
        self._thread.start()
        return rows

    def _run(self) -> None:
        self._serve(self._server, self._secret)

    def close(self) -> None:
        self._thread.join(10)
        self._server.close()
        self._source.close()


def heard(server: socket.socket, secret: bytes, answer: dict[str, Any]) -> None:
    connection, _ = server.accept()
    with connection, connection.makefile("rb") as reader:
        assert wire.unseal(secret, reader.readline()) == {"rank": 0, "round": 0}
        connection.sendall(wire.seal(secret, answer))


def test_a_rank_that_was_sent_away_comes_again() -> None:
    """As one is of which a rank has heard nothing while too many others came."""

    def busy(server: socket.socket, secret: bytes) -> None:
        for _ in range(2):
            server.accept()[0].close()
        heard(server, secret, {"heard": [0, 0]})

    other = Other(busy)
    world = meeting.connect(0, 2, other.gather, environment=LOOPBACK)
    assert world is not None
    world.close()
    other.close()


def test_an_answer_that_no_rank_would_give_is_refused() -> None:
    other = Other(lambda server, secret: heard(server, secret, {"heard": [1, 0]}))
    with pytest.raises(TrainingError, match="rank 1 has not answered as expected"):
        meeting.connect(0, 2, other.gather, environment=LOOPBACK)
    other.close()


def test_a_rank_that_does_not_come_is_named() -> None:
    listening = socket.create_server(("127.0.0.1", 0))

    def gather(row: np.ndarray) -> np.ndarray:
        return np.concatenate([row, meeting._row(f"127.0.0.1 {listening.getsockname()[1]}", bytes(32))])

    with pytest.raises(TrainingError, match=r"ranks \[1\] have not connected"):
        meeting.connect(0, 2, gather, environment=LOOPBACK, timeout_s=0.3)
    listening.close()


def test_a_rank_that_cannot_be_reached_is_named() -> None:
    def gather(row: np.ndarray) -> np.ndarray:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        return np.concatenate([row, meeting._row(f"127.0.0.1 {port}", bytes(32))])

    with pytest.raises(TrainingError, match=r"cannot connect to rank 1 at 127\.0\.0\.1:\d+: .*direct_sum_bytes: 0"):
        meeting.connect(0, 2, gather, environment=LOOPBACK, timeout_s=1)
