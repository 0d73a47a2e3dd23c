from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sparton.distributed import Connection
from sparton.distributed.simulate import ENDING_S, simulate
from sparton.errors import TrainingError

SHAPES = st.lists(st.lists(st.integers(0, 3), max_size=3), min_size=1, max_size=4)
TYPES = st.sampled_from(["float32", "float64", "float16", "int32", "int64"])


def values(rank: int, shape: list[int], dtype: str, index: int) -> np.ndarray:
    generator = np.random.default_rng([rank, index])
    return np.asarray(generator.normal(0, 10, shape)).astype(dtype)


@settings(max_examples=20, deadline=None)
@given(shapes=SHAPES, dtype=TYPES, other=TYPES, ranks=st.integers(1, 4), graph=st.booleans())
def test_allreduce_is_the_sum_in_the_order_of_ranks(
    shapes: list[list[int]], dtype: str, other: str, ranks: int, graph: bool
) -> None:
    types = [dtype if index % 2 else other for index in range(len(shapes))]

    def run(connection: Connection) -> list[np.ndarray]:
        tensors = [
            tf.constant(values(connection.world.rank, shape, kind, index))
            for index, (shape, kind) in enumerate(zip(shapes, types, strict=True))
        ]
        reduce = tf.function(connection.collectives.allreduce_sum) if graph else connection.collectives.allreduce_sum
        return [result.numpy() for result in reduce(tensors)]

    results = simulate(ranks, run)
    for index, (shape, kind) in enumerate(zip(shapes, types, strict=True)):
        expected = np.zeros(shape, kind)
        for rank in range(ranks):
            expected = expected + values(rank, shape, kind, index)
        for result in results:
            assert result[index].dtype == expected.dtype
            np.testing.assert_array_equal(result[index], expected)


def test_more_ranks_than_cores_with_loops_in_the_graph() -> None:
    def run(connection: Connection) -> float:
        @tf.function
        def loop(x: tf.Tensor) -> tf.Tensor:
            for _ in tf.range(5):
                (x,) = connection.collectives.allreduce_sum([x])
            return x

        return float(loop(tf.constant(1.0)))

    assert simulate(7, run) == [7.0**5] * 7


def test_unknown_shapes_and_sparse_tensors() -> None:
    def run(connection: Connection) -> list[np.ndarray]:
        @tf.function(input_signature=[tf.TensorSpec([None, 2])])
        def reduce(x: tf.Tensor) -> list[tf.Tensor]:
            sparse = tf.IndexedSlices(x, tf.range(tf.shape(x)[0]), tf.constant([4, 2]))
            return connection.collectives.allreduce_sum([x, sparse])

        return [result.numpy() for result in reduce(tf.ones([3, 2]))]

    for dense, sparse in simulate(2, run):
        np.testing.assert_array_equal(dense, np.full((3, 2), 2.0))
        np.testing.assert_array_equal(sparse, [[2, 2]] * 3 + [[0, 0]])


def test_gradient_is_that_of_the_sum_of_losses() -> None:
    def loss(total: tf.Tensor, rank: int) -> tf.Tensor:
        return tf.reduce_sum(total**3) * float(rank + 1)

    def run(connection: Connection) -> np.ndarray:
        x = tf.constant([1.0, -2.0]) * float(connection.world.rank + 1)

        @tf.function
        def gradient() -> tf.Tensor:
            with tf.GradientTape() as tape:
                tape.watch(x)
                (total,) = connection.collectives.allreduce_sum([x])
                value = loss(total, connection.world.rank)
            return tape.gradient(value, x)

        return gradient().numpy()

    total = np.array([1.0, -2.0]) * 6
    for result in simulate(3, run):
        np.testing.assert_allclose(result, 3 * total**2 * 6, rtol=1e-6)


def test_broadcast_copies_bits_of_every_type() -> None:
    def run(connection: Connection) -> list[bytes]:
        rank = connection.world.rank
        variables: list[Any] = [
            tf.Variable(values(rank, [2, 3], "float32", 0)),
            tf.Variable(tf.cast(values(rank, [3], "float32", 1), tf.bfloat16)),
            tf.Variable(np.array(rank == 1)),
            tf.Variable(values(rank, [0, 2], "int64", 2)),
            keras.Variable(values(rank, [2], "float32", 3)),
        ]
        connection.collectives.broadcast(variables, root=1)
        return [variable.numpy().tobytes() for variable in variables]

    results = simulate(3, run)
    assert results[0] == results[1] == results[2]
    assert results[1][0] == values(1, [2, 3], "float32", 0).tobytes()


@pytest.mark.parametrize("dtype", ["float32", "uint32", "bool", "S3", "complex64"])
def test_allgather_of_ragged_rows(dtype: str) -> None:
    def rows(rank: int) -> np.ndarray:
        return np.arange(rank * 2 * 3).reshape(-1, 3).astype(dtype)  # none on rank 0

    results = simulate(3, lambda connection: connection.collectives.allgather(rows(connection.world.rank)))
    for result in results:
        np.testing.assert_array_equal(result, np.concatenate([rows(rank) for rank in range(3)]))
        assert result.dtype == np.dtype(dtype)


def test_allgather_of_rows_without_columns() -> None:
    results = simulate(2, lambda c: c.collectives.allgather(np.zeros((c.world.rank + 1, 0))))
    assert [result.shape for result in results] == [(3, 0), (3, 0)]


def test_broadcast_object() -> None:
    value = {"text": "jét", "list": [1, 2.5, None], "empty": {}}
    results = simulate(3, lambda c: c.collectives.broadcast_object(value if c.world.rank == 2 else None, root=2))
    assert results == [value] * 3


def test_results_come_in_the_order_of_ranks() -> None:
    def run(connection: Connection) -> int:
        time.sleep(0.05 * (3 - connection.world.rank))
        connection.collectives.barrier()
        return connection.world.rank

    assert simulate(3, run) == [0, 1, 2]


def test_ranks_leave_a_barrier_together() -> None:
    def run(connection: Connection) -> tuple[float, float]:
        time.sleep(0.3 * connection.world.rank)
        before = time.monotonic()
        connection.collectives.barrier()
        return before, time.monotonic()

    results = simulate(2, run)
    assert min(after for _, after in results) >= max(before for before, _ in results)


def reduce_in_graph(connection: Connection) -> None:
    tf.function(lambda: connection.collectives.allreduce_sum([tf.ones([2])]))()


def test_an_error_names_its_rank_and_frees_the_others() -> None:
    def run(connection: Connection) -> None:
        if connection.world.rank == 1:
            raise KeyError("mass")
        reduce_in_graph(connection)

    with pytest.raises(TrainingError, match=r"rank 1 of 3: KeyError: 'mass'") as caught:
        simulate(3, run, timeout_s=20)
    assert isinstance(caught.value.__cause__, KeyError)


def test_different_collectives_are_an_error() -> None:
    def run(connection: Connection) -> None:
        reduce_in_graph(connection) if connection.world.rank else connection.collectives.barrier()

    with pytest.raises(TrainingError, match="different collectives"):
        simulate(2, run, timeout_s=20)


def test_different_shapes_are_an_error() -> None:
    def run(connection: Connection) -> None:
        connection.collectives.allreduce_sum([tf.ones([1 + connection.world.rank])])

    with pytest.raises(TrainingError, match="different collectives"):
        simulate(2, run, timeout_s=20)


def test_different_row_layouts_are_an_error() -> None:
    def run(connection: Connection) -> None:
        connection.collectives.allgather(np.zeros((2, 3), "float32" if connection.world.rank else "float64"))

    with pytest.raises(TrainingError, match=r"allgather: the rows of ranks \[1\]"):
        simulate(2, run, timeout_s=20)


def test_a_rank_that_ends_early_is_an_error() -> None:
    def run(connection: Connection) -> None:
        if connection.world.rank == 0:
            connection.collectives.barrier()

    with pytest.raises(TrainingError, match=r"rank 0 of 2.*ranks \[1\] had ended"):
        simulate(2, run, timeout_s=20)


def test_ranks_that_hang_are_given_up() -> None:
    def run(connection: Connection) -> None:
        if connection.world.rank == 0:
            time.sleep(3)
        connection.collectives.barrier()

    started, threads = time.monotonic(), threading.active_count()
    with pytest.raises(TrainingError, match=r"ranks \[0, 1\] of 2 did not end within 0.5 s"):
        simulate(2, run, timeout_s=0.5)
    # They are waited for: threads that are left inside TensorFlow may crash the end of the interpreter.
    assert threading.active_count() == threads
    assert time.monotonic() - started < ENDING_S


def test_a_process_that_is_stopped_gives_no_rank_up() -> None:
    """As by SIGSTOP, or by a machine that has no time for it."""
    program = (
        "import time\n"
        "from sparton.distributed.simulate import simulate\n"
        "def run(connection):\n"
        "    print('running', flush=True)\n"
        "    time.sleep(1)\n"
        "    connection.collectives.barrier()\n"
        "simulate(2, run, timeout_s=3)\n"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(signal.SIGSTOP)
        time.sleep(3.5)
        process.send_signal(signal.SIGCONT)
        process.stdout.read()
    assert process.returncode == 0


def train(connection: Connection, x: np.ndarray, y: np.ndarray, steps: int) -> list[np.ndarray]:
    """SGD with momentum on a small network; rank r owns a slice of each global batch, of unequal length."""
    hidden, head = (keras.initializers.GlorotUniform(seed=seed) for seed in (1, 2))
    layers = [keras.layers.Dense(8, "tanh", kernel_initializer=hidden), keras.layers.Dense(1, kernel_initializer=head)]
    model = keras.Sequential([keras.Input([4]), *layers])
    optimizer = keras.optimizers.SGD(0.05, momentum=0.9)
    optimizer.build(model.trainable_variables)
    weights = [variable.value for variable in model.trainable_variables]
    rank, size = connection.world.rank, connection.world.size

    @tf.function
    def step(inputs: tf.Tensor, targets: tf.Tensor) -> None:
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum((model(inputs)[:, 0] - targets) ** 2)
        gradients = tape.gradient(loss, weights)
        *sums, rows = connection.collectives.allreduce_sum([*gradients, tf.cast(tf.shape(inputs)[0], tf.float32)])
        optimizer.apply_gradients([(total / rows, v) for total, v in zip(sums, model.trainable_variables, strict=True)])

    for number in range(steps):
        batch = slice(32 * number, 32 * (number + 1))
        cuts = np.sort(np.random.default_rng(number).integers(0, 33, size - 1))
        own = slice(*np.concatenate([[0], cuts, [32]])[rank : rank + 2])
        step(tf.constant(x[batch][own]), tf.constant(y[batch][own]))
    return [np.asarray(variable) for variable in model.variables]


@pytest.mark.parametrize("ranks", [2, 3])
def test_n_ranks_with_their_shares_equal_one_rank_with_the_whole_batch(ranks: int) -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(320, 4)).astype("float32")
    y = np.sin(x.sum(axis=1)).astype("float32")
    alone = train(Connection.local(), x, y, 10)
    for weights in simulate(ranks, lambda connection: train(connection, x, y, 10)):
        for one, many in zip(alone, weights, strict=True):
            np.testing.assert_allclose(many, one, rtol=1e-5, atol=1e-6)
