from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
import threading
import time
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import psutil
import pytest

from sparton.distributed import Connection, World, slots
from sparton.distributed.launch import LaunchSettings, launch
from sparton.errors import TrainingError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

TWO = LaunchSettings(workers=2, start_timeout_s=240, environment={"SPARTON_TEST": "set"})
END_LIMIT_S = 60.0  # from a worker's failure to the end of the launch, on a busy machine
PAUSE_S = 6.0


def sums(connection: Connection) -> dict[str, Any]:
    """Check sums in a graph and eagerly, against closed forms."""
    import tensorflow as tf

    rank = connection.world.rank
    floats = np.random.default_rng(rank).normal(size=(50, 3)).astype("float32")

    @tf.function
    def reduce(x: tf.Tensor, scalar: tf.Tensor) -> list[tf.Tensor]:
        first, total, whole, half = connection.collectives.allreduce_sum(
            [x, scalar, tf.constant([rank, 5], tf.int64), tf.cast(x, tf.float16)]
        )
        (again,) = connection.collectives.allreduce_sum([2 * first])
        return [first, total, whole, half, again]

    @tf.function
    def gradient(x: tf.Tensor) -> tf.Tensor:
        with tf.GradientTape() as tape:
            tape.watch(x)
            (total,) = connection.collectives.allreduce_sum([x])
            loss = tf.reduce_sum(total**2) * float(rank + 1)
        return tape.gradient(loss, x)

    return {
        "graph": [value.numpy() for value in reduce(tf.constant(floats), tf.constant(float(rank + 1)))],
        "eager": connection.collectives.allreduce_sum([tf.constant(floats)])[0].numpy(),
        "gradient": gradient(tf.constant([1.0, 2.0])).numpy(),
    }


def exchanges(connection: Connection) -> dict[str, Any]:
    """Check the other collectives, agreement among the ranks included."""
    import keras
    import tensorflow as tf

    from sparton.distributed import agreement

    rank = connection.world.rank
    variables = [tf.Variable([float(rank)] * 3), keras.Variable(np.full((2, 2), rank), dtype="bfloat16")]
    connection.collectives.broadcast(variables, root=1)
    agreement.check(connection, variables)
    try:
        agreement.check(connection, {"same": np.ones(2), "drifted": np.full(2, rank)})
        disagreement = ""
    except TrainingError as error:
        disagreement = str(error)
    connection.collectives.barrier()
    return {
        "variables": [np.asarray(variable.numpy(), np.float32) for variable in variables],
        "disagreement": disagreement,
        "object": connection.collectives.broadcast_object({"from": rank}, root=1),
        "rows": connection.collectives.allgather(np.full((2 * rank, 2), rank + 1, np.uint32)),
    }


def everything(connection: Connection, greeting: str) -> dict[str, Any]:
    """What one launch of two workers is asked, since each costs half a minute."""
    logger = logging.getLogger("sparton.test")
    logger.info("%s %.3f", greeting, time.time())
    time.sleep(PAUSE_S)
    environment = {name: os.environ.get(name) for name in ("SPARTON_TEST", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS")}
    return {
        "world": connection.world,
        "process": os.getpid(),
        "environment": environment,
        **sums(connection),
        **exchanges(connection),
    }


def test_two_workers_compute_together(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with caplog.at_level(logging.INFO, logger="sparton"):
        results = launch(everything, ["greetings"], spark, TWO)

    assert [result["world"] for result in results] == [World(0, 2, 0), World(1, 2, 1)]
    assert len({os.getpid(), *(result["process"] for result in results)}) == 3
    assert all(
        r["environment"] == {"SPARTON_TEST": "set", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "300"} for r in results
    )
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers

    floats = [np.random.default_rng(rank).normal(size=(50, 3)).astype("float32") for rank in (0, 1)]
    total = floats[0] + floats[1]
    for result in results:
        first, scalar, whole, half, again = result["graph"]
        np.testing.assert_array_equal(first, total)
        np.testing.assert_array_equal(again, 4 * total)
        np.testing.assert_array_equal(half, floats[0].astype("float16") + floats[1].astype("float16"))
        np.testing.assert_array_equal(result["eager"], total)
        assert (float(scalar), whole.tolist()) == (3.0, [1, 10])
        np.testing.assert_allclose(result["gradient"], 3 * 2 * 2 * np.array([1.0, 2.0]))
        np.testing.assert_array_equal(result["variables"][0], [1, 1, 1])
        np.testing.assert_array_equal(result["variables"][1], np.ones((2, 2)))
        assert "'drifted' on ranks [1] differs" in result["disagreement"]
        assert result["object"] == {"from": 1}
        np.testing.assert_array_equal(result["rows"], np.full((2, 2), 2))

    records = [record for record in caplog.records if "greetings" in record.getMessage()]
    assert [record.getMessage().split(" greetings ")[0] for record in records] == ["rank 0:"]
    sent = float(records[0].getMessage().rsplit(" ", 1)[1])
    assert records[0].created - sent < PAUSE_S - 1  # it was here before the worker went on


def failing(connection: Connection) -> float:
    """Fail on rank 1 while rank 0 waits in a collective."""
    import tensorflow as tf

    connection.collectives.barrier()
    if connection.world.rank == 1:
        logging.getLogger("sparton.test").warning("failing at %.3f", time.time())
        raise ValueError("no jets\nin shard 7")
    return float(connection.collectives.allreduce_sum([tf.ones([])])[0])


def test_an_error_in_a_worker_ends_the_launch_with_its_message(
    spark: SparkSession, caplog: pytest.LogCaptureFixture
) -> None:
    with pytest.raises(TrainingError, match=r"rank 1 of 2: ValueError: no jets in shard 7"):
        launch(failing, [], spark, TWO)
    assert time.time() - failure_time(caplog) < END_LIMIT_S
    assert "in failing" in caplog.text  # the worker's own traceback


def dying(connection: Connection) -> None:
    """Die on rank 1 while rank 0 computes."""
    connection.collectives.barrier()
    if connection.world.rank == 1:
        logging.getLogger("sparton.test").warning("failing at %.3f", time.time())
        time.sleep(0.5)
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)


def test_a_killed_worker_ends_the_launch(spark: SparkSession, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(TrainingError, match=r"rank 1 of 2: the process died without an error"):
        launch(dying, [], spark, TWO)
    assert time.time() - failure_time(caplog) < END_LIMIT_S


def never_run(connection: Connection) -> None:
    raise AssertionError("the workers must not come to this together")


class Killer(threading.Thread):
    """Kills the worker of one rank as soon as its Python runs, before it can have connected to the driver."""

    def __init__(self, rank: int) -> None:
        super().__init__(daemon=True)
        self._rank = str(rank)
        self.killed_at: float | None = None

    def run(self) -> None:
        for _ in range(6000):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if "horovod.spark.task.gloo_exec_fn" in process.cmdline() and self._is_mine(process):
                        process.kill()
                        self.killed_at = time.monotonic()
                        return
            time.sleep(0.02)

    def _is_mine(self, process: psutil.Process) -> bool:
        return process.environ().get("HOROVOD_RANK") == self._rank


@pytest.mark.parametrize("rank", [0, 1])
def test_a_worker_killed_before_it_connects_is_named_at_once(spark: SparkSession, rank: int) -> None:
    killer = Killer(rank)
    killer.start()
    expected = f"rank {rank} of 2: the process was killed by signal 9 before it reached the driver"
    with pytest.raises(TrainingError, match=f"^{expected}$"):
        launch(never_run, [], spark, TWO)
    assert killer.killed_at is not None
    assert time.monotonic() - killer.killed_at < END_LIMIT_S


def test_a_worker_that_cannot_start_says_why(spark: SparkSession) -> None:
    without = TWO.model_copy(update={"environment": {"PYTHONHOME": "/nonexistent"}})
    with pytest.raises(TrainingError, match=r"^rank \d of 2: the process ended with exit status 1 before .* \| .+"):
        launch(never_run, [], spark, without)


def failure_time(caplog: pytest.LogCaptureFixture) -> float:
    (message,) = [text for text in caplog.messages if "failing at" in text]
    assert message.startswith("rank 1:")
    return float(message.rsplit(" ", 1)[1])


def unused(connection: Connection) -> None:
    raise AssertionError("no worker must start")


def test_too_few_slots_are_refused_at_once(spark: SparkSession) -> None:
    assert slots.count(spark.sparkContext) == 2
    started = time.monotonic()
    with pytest.raises(TrainingError, match=r"3 workers need 3 task slots at once, .* offers 2 \(master local\[2\]"):
        launch(unused, [], spark, LaunchSettings(workers=3))
    assert time.monotonic() - started < 5


@pytest.mark.parametrize("key", ["spark.dynamicAllocation.enabled", "spark.speculation"])
def test_settings_that_move_tasks_are_refused(spark: SparkSession, key: str) -> None:
    conf = spark.sparkContext._conf
    assert conf is not None
    conf.set(key, "true")
    try:
        with pytest.raises(TrainingError, match=f"{key}=true"):
            launch(unused, [], spark, LaunchSettings(workers=2))
    finally:
        conf.set(key, "false")


def test_an_unknown_interface_is_refused(spark: SparkSession) -> None:
    with pytest.raises(TrainingError, match=r"interface 'wlan7' does not exist on the driver; found .*lo"):
        launch(unused, [], spark, LaunchSettings(workers=2, interface="wlan7"))


def test_other_threads_are_refused(spark: SparkSession) -> None:
    errors: list[TrainingError] = []

    def trial() -> None:
        try:
            launch(unused, [], spark, LaunchSettings(workers=2))
        except TrainingError as error:
            errors.append(error)

    thread = threading.Thread(target=trial)
    thread.start()
    thread.join()
    assert "main thread" in str(errors[0])
