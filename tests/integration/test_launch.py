"""What every launcher on Spark keeps: one suite, run with each."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import psutil
import pytest
from pyspark import InheritableThread

from sparton.distributed import Connection, World, slots
from sparton.distributed.launch import LaunchSettings, launch
from sparton.errors import TrainingError, WorkerError

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

LAUNCHERS = ["barrier", "spark"]
SETTINGS = {"workers": 2, "start_timeout_s": 300, "environment": {"SPARTON_TEST": "set"}}
every_launcher = pytest.mark.parametrize("launcher", LAUNCHERS)


def two(launcher: str, **changes: Any) -> LaunchSettings:
    return LaunchSettings.model_validate(SETTINGS | {"launcher": launcher} | changes)


END_LIMIT_S = 60.0  # from a worker's failure to the end of the launch, on a busy machine
PAUSE_S = 6.0


DIRECT_SUM_BYTES = {"spark": 0, "barrier": 2 * 602}
"""With the latter, of the vectors of :func:`sums` those of 600 bytes go from rank to rank, those of 604 by Horovod."""


def floats_of(rank: int, rows: int = 50) -> np.ndarray:
    return np.random.default_rng(rank).normal(size=(rows, 3)).astype("float32")


def sums(connection: Connection) -> dict[str, Any]:
    """Check sums in a graph and eagerly, against closed forms."""
    import tensorflow as tf

    from sparton.distributed.horovod_backend import HorovodCollectives

    assert isinstance(connection.collectives, HorovodCollectives)
    rank = connection.world.rank
    floats = floats_of(rank)

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

    @tf.function(input_signature=[tf.TensorSpec([None, 3])])
    def of_any_size(x: tf.Tensor) -> tf.Tensor:
        return connection.collectives.allreduce_sum([x])[0]

    return {
        "direct": connection.collectives._direct is not None,
        "of_any_size": [of_any_size(tf.constant(floats_of(rank, rows))).numpy() for rows in (50, 51)],
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
    print(f"printed by {os.getpid()}", flush=True)
    time.sleep(PAUSE_S)
    environment = {name: os.environ.get(name) for name in ("SPARTON_TEST", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS")}
    return {
        "world": connection.world,
        "process": os.getpid(),
        "environment": environment,
        **sums(connection),
        **exchanges(connection),
    }


def launched(launcher: str, *arguments: Any) -> Any:
    """Launch from another thread where the launcher works in any."""
    if launcher == "spark":
        return launch(*arguments)
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(launch, *arguments).result()


@every_launcher
def test_two_workers_compute_together(spark: SparkSession, caplog: pytest.LogCaptureFixture, launcher: str) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with caplog.at_level(logging.INFO, logger="sparton"):
        settings = two(launcher, direct_sum_bytes=DIRECT_SUM_BYTES[launcher])
        results = launched(launcher, everything, ["greetings"], spark, settings)

    assert [result["world"] for result in results] == [World(0, 2, 0), World(1, 2, 1)]
    assert len({os.getpid(), *(result["process"] for result in results)}) == 3
    assert all(
        r["environment"] == {"SPARTON_TEST": "set", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "300"} for r in results
    )
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers

    floats = [floats_of(rank) for rank in (0, 1)]
    total = floats[0] + floats[1]
    for result in results:
        assert result["direct"] == (launcher == "barrier")
        for found, rows in zip(result["of_any_size"], (50, 51), strict=True):
            np.testing.assert_array_equal(found, floats_of(0, rows) + floats_of(1, rows))
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
    assert f"rank 0: printed by {results[0]['process']}" in caplog.messages


def failing(connection: Connection) -> float:
    """Fail on rank 1 while rank 0 waits in a collective."""
    import tensorflow as tf

    connection.collectives.barrier()
    if connection.world.rank == 1:
        logging.getLogger("sparton.test").warning("failing at %.3f", time.time())
        raise ValueError("no jets\nin shard 7")
    return float(connection.collectives.allreduce_sum([tf.ones([])])[0])


@every_launcher
def test_an_error_in_a_worker_ends_the_launch_with_its_message(
    spark: SparkSession, caplog: pytest.LogCaptureFixture, launcher: str
) -> None:
    with pytest.raises(TrainingError, match=r"rank 1 of 2: ValueError: no jets in shard 7") as raised:
        launch(failing, [], spark, two(launcher, retries=3))  # in vain, so there is none
    assert not isinstance(raised.value, WorkerError)
    assert time.time() - failure_time(caplog) < END_LIMIT_S
    assert "in failing" in caplog.text  # the worker's own traceback


def dying_once(connection: Connection, note: str) -> int:
    """Die on rank 1 while rank 0 computes, if nobody has before."""
    connection.collectives.barrier()
    if Path(note).exists():
        return connection.world.rank
    if connection.world.rank == 1:
        logging.getLogger("sparton.test").warning("failing at %.3f", time.time())
        time.sleep(0.5)
        Path(note).touch()
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(600)
    return -1


@pytest.mark.parametrize(("launcher", "retries"), [("barrier", 1), ("spark", 0)])
def test_a_killed_worker_ends_the_launch_or_starts_it_again(
    spark: SparkSession, caplog: pytest.LogCaptureFixture, tmp_path: Path, launcher: str, retries: int
) -> None:
    settings = two(launcher, retries=retries)
    reason = "rank 1 of 2: the process was killed by signal 9 (SIGKILL)"
    if retries:
        assert launch(dying_once, [str(tmp_path / "note")], spark, settings) == [0, 1]
        (retried,) = [record for record in caplog.records if "starting again" in record.getMessage()]
        assert retried.getMessage().startswith(reason)
        assert retried.created - failure_time(caplog) < END_LIMIT_S
    else:
        with pytest.raises(WorkerError, match=f"^{re.escape(reason)}"):
            launch(dying_once, [str(tmp_path / "note")], spark, settings)
        assert time.time() - failure_time(caplog) < END_LIMIT_S


def never_run(connection: Connection) -> None:
    raise AssertionError("the workers must not come to this together")


class Killer(threading.Thread):
    """Kills a process of the first worker that it finds as soon as it runs, before it can have reached the driver."""

    def __init__(self, module: str) -> None:
        super().__init__(daemon=True)
        self._module = module
        self.rank = ""
        self.killed_at: float | None = None

    def run(self) -> None:
        for _ in range(6000):
            for process in psutil.Process().children(recursive=True):
                with contextlib.suppress(psutil.Error):
                    if self._module in process.cmdline():
                        self.rank = process.environ()["HOROVOD_RANK"]
                        process.kill()
                        self.killed_at = time.monotonic()
                        return
            time.sleep(0.02)


@pytest.mark.parametrize(
    ("launcher", "module"), [("barrier", "sparton.distributed.child"), ("spark", "horovod.spark.task.gloo_exec_fn")]
)
def test_a_worker_killed_before_it_connects_is_named_at_once(spark: SparkSession, launcher: str, module: str) -> None:
    killer = Killer(module)
    killer.start()
    expected = r"rank \d of 2: the process was killed by signal 9 \(SIGKILL\) before it reached the driver"
    with pytest.raises(WorkerError, match=f"^{expected}") as raised:
        launch(never_run, [], spark, two(launcher))
    assert killer.killed_at is not None
    assert time.monotonic() - killer.killed_at < END_LIMIT_S
    assert str(raised.value).startswith(f"rank {killer.rank} of 2")


@every_launcher
def test_a_worker_that_cannot_start_says_why(spark: SparkSession, launcher: str) -> None:
    without = two(launcher, environment={"PYTHONHOME": "/nonexistent"})
    with pytest.raises(TrainingError, match=r"^rank \d of 2: the process ended with exit status 1 before .* \| .+"):
        launch(never_run, [], spark, without)


def failure_time(caplog: pytest.LogCaptureFixture) -> float:
    (message,) = [text for text in caplog.messages if "failing at" in text]
    assert message.startswith("rank 1:")
    return float(message.rsplit(" ", 1)[1])


@every_launcher
def test_too_few_slots_are_refused_at_once(spark: SparkSession, launcher: str) -> None:
    assert slots.count(spark.sparkContext) == 2
    started = time.monotonic()
    with pytest.raises(TrainingError, match=r"3 workers need 3 task slots at once, .* offers 2 \(master local\[2\]"):
        launch(never_run, [], spark, two(launcher, workers=3))
    assert time.monotonic() - started < slots.EXECUTORS_WAIT_S


@pytest.mark.parametrize("key", ["spark.dynamicAllocation.enabled", "spark.speculation"])
@every_launcher
def test_settings_that_move_tasks_are_refused(spark: SparkSession, launcher: str, key: str) -> None:
    conf = spark.sparkContext._conf
    assert conf is not None
    conf.set(key, "true")
    try:
        with pytest.raises(TrainingError, match=f"{key}=true"):
            launch(never_run, [], spark, two(launcher))
    finally:
        conf.set(key, "false")


@every_launcher
def test_an_unknown_interface_is_refused(spark: SparkSession, launcher: str) -> None:
    expected = r"has no interface 'wlan7' with an IPv4 address; found .*lo.*; set launch.interface"
    with pytest.raises(TrainingError, match=expected):
        launch(never_run, [], spark, two(launcher, interface="wlan7", retries=3))


def test_horovods_launcher_refuses_other_threads(spark: SparkSession) -> None:
    with ThreadPoolExecutor(1) as pool, pytest.raises(TrainingError, match=r"main thread only .*launcher=barrier"):
        pool.submit(launch, never_run, [], spark, two("spark")).result()


def test_slots_that_another_job_holds_end_the_barrier_launch_in_time(spark: SparkSession) -> None:
    """Only then is it known that they will not be free; the job that waits for them is taken back."""
    context = spark.sparkContext

    def hold() -> None:
        context.setJobGroup("holding", "a job that holds a slot", interruptOnCancel=True)
        with contextlib.suppress(Exception):
            context.parallelize([0], 1).foreach(lambda _: time.sleep(120))

    holder = InheritableThread(target=hold)
    holder.start()
    try:
        wait_for_tasks(context, 1)
        started = time.monotonic()
        expected = r"0 of 2 workers have started within launch.start_timeout_s=3 s; 2 task slots must be free at once"
        with pytest.raises(WorkerError, match=expected):
            launch(never_run, [], spark, two("barrier", start_timeout_s=3))
        assert time.monotonic() - started < END_LIMIT_S
    finally:
        context.cancelJobGroup("holding")
        holder.join()
    wait_for_tasks(context, 0)


def wait_for_tasks(context: SparkContext, count: int) -> None:
    """Wait until Spark runs a number of tasks."""
    tracker = context.statusTracker()
    for _ in range(600):
        stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
        if sum(stage.numActiveTasks for stage in stages if stage is not None) == count:
            return
        time.sleep(0.1)
    raise AssertionError(f"Spark does not come to run {count} tasks")


def test_an_interrupted_barrier_launch_leaves_nothing_running(spark: SparkSession) -> None:
    """Ctrl-C while the workers start: their processes end with Spark's tasks."""

    def interrupt() -> None:
        for _ in range(6000):
            if workers():
                signal.raise_signal(signal.SIGINT)
                return
            time.sleep(0.02)

    def workers() -> list[psutil.Process]:
        found = []
        for process in psutil.Process().children(recursive=True):
            with contextlib.suppress(psutil.Error):
                if "sparton.distributed.child" in process.cmdline():
                    found.append(process)
        return found

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        with pytest.raises(KeyboardInterrupt):
            launch(never_run, [], spark, two("barrier"))
    finally:
        signal.signal(signal.SIGINT, handler)
    for process in workers():
        process.wait(END_LIMIT_S)
    wait_for_tasks(spark.sparkContext, 0)
