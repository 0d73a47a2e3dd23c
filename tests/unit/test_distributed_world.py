from __future__ import annotations

import os
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf

from sparton.distributed import Connection, World, connect
from sparton.distributed.world import announced, described
from sparton.errors import ConfigError


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
    ("environment", "named"),
    [
        ({"HOROVOD_RANK": "0"}, "HOROVOD_RANK=0 and HOROVOD_SIZE=None: expected both"),
        ({"HOROVOD_SIZE": "2"}, "HOROVOD_RANK=None and HOROVOD_SIZE=2: expected both"),
        ({"HOROVOD_RANK": "0", "HOROVOD_SIZE": "two"}, "HOROVOD_SIZE='two': expected a whole number, 1 or more"),
        ({"PMI_RANK": "0", "PMI_SIZE": "2", "MPI_LOCALRANKID": "a"}, "MPI_LOCALRANKID='a': expected a whole number"),
        ({"OMPI_COMM_WORLD_RANK": "4", "OMPI_COMM_WORLD_SIZE": "4"}, "OMPI_COMM_WORLD_SIZE=4: expected a rank below"),
    ],
)
def test_contradictions_are_errors_of_the_configuration(environment: dict[str, str], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        connect(environment)


@pytest.mark.parametrize(
    ("environment", "place"),
    [
        ({"HOROVOD_RANK": "1", "HOROVOD_SIZE": "4", "HOROVOD_LOCAL_RANK": "1"}, World(1, 4, 1)),
        (
            {"OMPI_COMM_WORLD_RANK": "3", "OMPI_COMM_WORLD_SIZE": "4", "OMPI_COMM_WORLD_LOCAL_RANK": "1"},
            World(3, 4, 1),
        ),
        ({"PMI_RANK": "2", "PMI_SIZE": "4", "MPI_LOCALRANKID": "0"}, World(2, 4, 0)),
        ({"PMI_RANK": "2", "PMI_SIZE": "4"}, World(2, 4, 0)),
        ({"PMI_RANK": "0", "PMI_SIZE": "1"}, None),
        ({"SLURM_PROCID": "0", "SLURM_NTASKS": "8"}, None),  # so says a batch script too, which is alone
        ({}, None),
    ],
)
def test_the_launchers_from_outside_are_understood(environment: dict[str, str], place: World | None) -> None:
    assert described(environment) == place
    assert announced(environment) == (World() if environment.get("PMI_SIZE") == "1" else place)


def test_processes_of_mpi_do_not_train_alone_where_horovod_cannot_speak_to_it() -> None:
    """A build without MPI would take each of them for a world of its own, and each would train on all jets."""
    variables = {"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}
    program = """
import horovod.tensorflow
from sparton.distributed import connect
if horovod.tensorflow.mpi_built():
    print("built with MPI")
else:
    connect()
"""
    ended = subprocess.run(
        [sys.executable, "-c", program], env=os.environ | variables, capture_output=True, text=True, check=False
    )
    expected = "started as rank 1 of 2, Horovod finds rank 0 of 1: it cannot speak to the launcher"
    assert expected in ended.stderr or "built with MPI" in ended.stdout


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


def test_a_lone_worker_uses_the_gpu_that_spark_has_assigned(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    assert connect({}).world.size == 1
    assert caplog.text == ""
    monkeypatch.setenv("SPARTON_GPUS", "3")
    assert connect({}).world.size == 1
    assert "Spark has assigned GPU 3, but TensorFlow" in caplog.text  # there is none here
