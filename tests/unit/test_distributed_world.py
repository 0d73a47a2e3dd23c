from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from sparton.distributed import Connection, World, connect
from sparton.errors import TrainingError


@pytest.mark.parametrize(("rank", "size", "local_rank"), [(2, 2, 0), (-1, 2, 0), (0, 0, 0), (0, 2, 2)])
def test_world_refuses_impossible_places(rank: int, size: int, local_rank: int) -> None:
    with pytest.raises(ValueError, match="expected 0 <="):
        World(rank, size, local_rank)


def test_only_rank_zero_is_root() -> None:
    assert [World(rank, 3, rank).is_root for rank in range(3)] == [True, False, False]


@pytest.mark.parametrize("environment", [{}, {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "1"}])
def test_connect_alone(environment: dict[str, str]) -> None:
    assert connect(environment).world == World(0, 1, 0)


@pytest.mark.parametrize(
    "environment", [{"HOROVOD_RANK": "0"}, {"HOROVOD_SIZE": "2"}, {"HOROVOD_RANK": "0", "HOROVOD_SIZE": "two"}]
)
def test_connect_refuses_contradictions(environment: dict[str, str]) -> None:
    with pytest.raises(TrainingError, match="HOROVOD_SIZE"):
        connect(environment)


def test_a_process_that_is_alone_imports_neither_horovod_nor_spark() -> None:
    program = """
import sys
import numpy as np
from sparton.distributed import connect
from sparton.distributed.launch import launch
heavy = sorted({"tensorflow", "horovod", "pyspark"} & set(sys.modules))
assert not heavy, heavy
def train(connection, factor):
    import tensorflow as tf
    total, = connection.collectives.allreduce_sum([tf.ones([2]) * factor])
    connection.collectives.broadcast([tf.Variable(1.0)])
    connection.collectives.barrier()
    return connection.world.size, total.numpy().tolist()
assert launch(train, [3.0]) == [(1, [3.0, 3.0])]
assert "horovod" not in sys.modules and "pyspark" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=120)


def test_local_collectives() -> None:
    collectives = Connection.local().collectives
    sparse = tf.IndexedSlices(tf.ones([1, 2]), tf.constant([1]), tf.constant([2, 2]))
    dense, same = collectives.allreduce_sum([sparse, tf.constant([4])])
    np.testing.assert_array_equal(dense, [[0, 0], [1, 1]])
    np.testing.assert_array_equal(same, [4])
    array = np.arange(3)
    gathered = collectives.allgather(array)
    np.testing.assert_array_equal(gathered, array)
    assert gathered is not array
    assert collectives.broadcast_object({"a": (1, None)}) == {"a": [1, None]}


def test_local_collectives_refuse_what_others_would() -> None:
    collectives = Connection.local().collectives
    with pytest.raises(ValueError, match="root"):
        collectives.broadcast([], root=1)
    with pytest.raises(ValueError, match="rows"):
        collectives.allgather(np.array(3.0))
    with pytest.raises(TypeError):
        collectives.broadcast_object(object())
