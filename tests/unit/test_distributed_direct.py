from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sparton.distributed import direct
from sparton.distributed.direct import DirectSums
from sparton.errors import TrainingError


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


@pytest.mark.parametrize("compiled", [False, True])
@pytest.mark.parametrize("lengths", [(2, 3), (3, 2)])
def test_ranks_at_different_sums_are_all_told_so(lengths: tuple[int, int], compiled: bool) -> None:
    """The one that waits for less ends first, and the other one sees a connection that is closed."""
    with ranks(2) as worlds:
        found = together([lambda r=r: _end_of(worlds[r], lengths[r], compiled) for r in range(2)])
    for rank, error in enumerate(found):
        own, other = 4 * lengths[rank], 4 * lengths[1 - rank]
        assert isinstance(error, TrainingError)
        expected = f"rank {rank} is at sum 1, of {own} bytes, and rank {1 - rank} at sum 1, of {other}: {direct.APART}"
        assert str(error) == expected


def test_a_rank_that_has_gone_is_told_from_one_that_is_elsewhere() -> None:
    with ranks(2) as worlds:
        worlds[1].close()
        error = _end_of(worlds[0], 2, compiled=True)
    assert isinstance(error, ConnectionError)
    assert str(error).startswith(f"{direct.GONE} 1: ")


def _end_of(world: DirectSums, length: int, compiled: bool) -> BaseException:
    """Return the error that a process ends with which sums a vector, in a graph or not."""

    def total(vector: tf.Tensor) -> tf.Tensor:
        return tf.numpy_function(world.sum, [vector], tf.float32)

    try:
        (tf.function(total) if compiled else total)(tf.zeros(length))
    except (tf.errors.OpError, TrainingError, ConnectionError) as error:
        return direct.shown(error)
    finally:
        world.close()
    raise AssertionError("the ranks were at one sum")


def test_a_rank_that_has_gone_is_named() -> None:
    with ranks(3) as worlds:
        worlds[1].close()
        with pytest.raises(ConnectionError, match=rf"{direct.GONE} (1|0 or 1|1 or 2)"):
            worlds[0].sum(np.zeros(3))
