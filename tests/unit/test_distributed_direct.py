from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparton.distributed import direct
from sparton.distributed.direct import DirectSums
from sparton.errors import TrainingError

LOOPBACK = {"HOROVOD_GLOO_IFACE": "lo"}


@contextlib.contextmanager
def ranks(size: int) -> Iterator[list[DirectSums]]:
    """Give the ranks of one process, connected by pairs of sockets."""
    rounds = (size - 1).bit_length()
    pairs = {(rank, number): socket.socketpair() for rank in range(size) for number in range(rounds)}
    worlds = [
        DirectSums(
            rank,
            size,
            [pairs[rank, number][0] for number in range(rounds)],
            [pairs[(rank + 2**number) % size, number][1] for number in range(rounds)],
        )
        for rank in range(size)
    ]
    try:
        yield worlds
    finally:
        for world in worlds:
            world.close()


def together(calls: Sequence[Callable[[], Any]]) -> list[Any]:
    with ThreadPoolExecutor(len(calls)) as pool:
        return [future.result(timeout=30) for future in [pool.submit(call) for call in calls]]


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(0, 7), st.integers(0, 2**32 - 1))
def test_every_rank_gathers_the_vectors_of_all_in_their_order(size: int, length: int, seed: int) -> None:
    vectors = np.random.default_rng(seed).normal(size=(size, length)).astype(np.float32)
    with ranks(size) as worlds:
        for _ in range(2):
            found = together([lambda r=r: worlds[r].gather(vectors[r]) for r in range(size)])
            for rows in found:
                np.testing.assert_array_equal(rows, vectors)


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int32, np.int64])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_sums_have_the_same_bits_on_all_ranks_and_are_added_in_their_order(size: int, dtype: Any) -> None:
    vectors = (np.random.default_rng(1).normal(size=(size, 1000)) * 100).astype(dtype)
    expected = vectors[0].copy()
    for vector in vectors[1:]:
        expected = expected + vector
    with ranks(size) as worlds:
        found = together([lambda r=r: worlds[r].sum(vectors[r]) for r in range(size)])
    for total in found:
        assert total.dtype == dtype
        np.testing.assert_array_equal(total, expected)


@pytest.mark.parametrize("late", [0.0, 0.5])
def test_a_rank_that_waits_long_sleeps_and_gets_the_sum(late: float) -> None:
    vectors = np.arange(6.0).reshape(2, 3)

    def waiting(world: DirectSums) -> tuple[Any, float]:
        began = time.thread_time()
        return world.sum(vectors[0]), time.thread_time() - began

    def coming(world: DirectSums) -> Any:
        time.sleep(late)
        return world.sum(vectors[1])

    with ranks(2) as worlds:
        (first, used), second = together([lambda: waiting(worlds[0]), lambda: coming(worlds[1])])
    assert first.tolist() == second.tolist() == [3.0, 5.0, 7.0]
    assert used < 0.1


def test_overflow_is_infinite_without_a_warning() -> None:
    vector = np.full(3, 60000, np.float16)
    with ranks(2) as worlds:
        for total in together([lambda r=r: worlds[r].sum(vector) for r in range(2)]):
            assert np.isinf(total).all()


def test_vectors_larger_than_any_buffer_do_not_block() -> None:
    vectors = np.random.default_rng(2).normal(size=(3, 2_000_000))
    with ranks(3) as worlds:
        for rows in together([lambda r=r: worlds[r].gather(vectors[r]) for r in range(3)]):
            np.testing.assert_array_equal(rows, vectors)


def test_ranks_at_different_sums_are_told_so() -> None:
    with (
        ranks(2) as worlds,
        pytest.raises(TrainingError, match=r"rank 0 is at sum 1, of 8 bytes, and rank 1 at sum 1, of 12"),
    ):
        together([lambda: worlds[0].sum(np.zeros(2, np.float32)), lambda: _end_of(worlds[1], np.zeros(3, np.float32))])


def _end_of(world: DirectSums, vector: np.ndarray) -> None:
    """Sum as a process does that ends with its error."""
    with contextlib.suppress(TrainingError, ConnectionError):
        world._sources[0].settimeout(5)
        world.sum(vector)
    world.close()


def test_a_rank_that_has_gone_is_named() -> None:
    with ranks(3) as worlds:
        worlds[1].close()
        with pytest.raises(ConnectionError, match=rf"{direct.GONE} (1|0 or 1|1 or 2)"):
            worlds[0].sum(np.zeros(3))


class Gather:
    """What Horovod does for ranks that are threads."""

    def __init__(self, size: int) -> None:
        self._rows: list[Any] = [None] * size
        self._barrier = threading.Barrier(size)

    def of(self, rank: int) -> Callable[[np.ndarray], np.ndarray]:
        def gather(row: np.ndarray) -> np.ndarray:
            self._rows[rank] = row
            self._barrier.wait(10)
            return np.concatenate(self._rows)

        return gather


@pytest.mark.parametrize("size", [2, 3, 4, 5])
def test_ranks_connect_and_sum(size: int) -> None:
    gather = Gather(size)
    worlds = together([lambda r=r: direct.connect(r, size, gather.of(r), environment=LOOPBACK) for r in range(size)])
    try:
        for total in together([lambda r=r: worlds[r].sum(np.array([1.0, r])) for r in range(size)]):
            assert total.tolist() == [size, size * (size - 1) / 2]
    finally:
        for world in worlds:
            world.close()


@pytest.mark.parametrize("environment", [{}, {"HOROVOD_GLOO_IFACE": "none"}])
def test_without_an_interface_no_rank_sums_directly(environment: dict[str, str]) -> None:
    gather = Gather(2)
    own = [LOOPBACK, environment]
    found = together([lambda r=r: direct.connect(r, 2, gather.of(r), environment=own[r]) for r in range(2)])
    assert found == [None, None]


def test_if_one_rank_does_not_want_none_does() -> None:
    gather = Gather(2)
    found = together([lambda r=r: direct.connect(r, 2, gather.of(r), r == 0, LOOPBACK) for r in range(2)])
    assert found == [None, None]


def test_strangers_are_passed_over() -> None:
    gather, strangers = Gather(2), []

    def visited(row: np.ndarray) -> np.ndarray:
        """Gather, and let somebody without the secret knock at rank 0 before rank 1 does."""
        rows = gather.of(1)(row)
        host, port = bytes(rows[0][: direct.ADDRESS_BYTES]).rstrip(b"\0").decode().split()
        for words in (b"", b"hello\n", b'0000 {"rank": 1, "round": 0}\n'):
            strangers.append(socket.create_connection((host, int(port))))
            strangers[-1].sendall(words)
            if not words:
                strangers[-1].close()
        return rows

    worlds = together(
        [
            lambda: direct.connect(0, 2, gather.of(0), environment=LOOPBACK),
            lambda: direct.connect(1, 2, visited, environment=LOOPBACK),
        ]
    )
    assert [total.tolist() for total in together([lambda r=r: worlds[r].sum(np.array([r, 2])) for r in (0, 1)])] == [
        [1, 4]
    ] * 2
    for connection in (*worlds, *strangers):
        connection.close()


def test_a_rank_that_does_not_come_is_named() -> None:
    def gather(row: np.ndarray) -> np.ndarray:
        with socket.create_server(("127.0.0.1", 0)) as silent:
            other = direct._row(f"127.0.0.1 {silent.getsockname()[1]}", bytes(32))
            listening.append(silent.dup())
        return np.concatenate([row, other])

    listening: list[socket.socket] = []
    with pytest.raises(TrainingError, match=r"ranks \[1\] have not connected"):
        direct.connect(0, 2, gather, environment=LOOPBACK, timeout_s=0.3)
    for each in listening:
        each.close()


def test_a_rank_that_cannot_be_reached_is_named() -> None:
    def gather(row: np.ndarray) -> np.ndarray:
        with socket.create_server(("127.0.0.1", 0)) as closed:
            port = closed.getsockname()[1]
        return np.concatenate([row, direct._row(f"127.0.0.1 {port}", bytes(32))])

    with pytest.raises(TrainingError, match=r"cannot connect to rank 1 at 127\.0\.0\.1:\d+: .*direct_sum_bytes: 0"):
        direct.connect(0, 2, gather, environment=LOOPBACK, timeout_s=1)
