"""What every launcher keeps: one suite, run with each; tests/launchers.py says which points one of them cannot keep."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import numpy as np
import psutil
import pytest
from pyspark import InheritableThread

from sparton.distributed import Connection, World, interrupts, slots
from sparton.errors import TrainingError
from tests.launchers import POINTS, Launches, Outside, keeping

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

# Workers cannot import this module.
cloudpickle.register_pickle_by_value(sys.modules[__name__])

SETTINGS = {"start_timeout_s": 300, "environment": {"SPARTON_TEST": "set"}}
END_LIMIT_S = 60.0  # from a worker's failure to the end of the launch, on a busy machine
PAUSE_S = 6.0

DIRECT_SUM_BYTES = {"spark": 0, "barrier": 2 * 602, "external": 2 * 602, "process": 0}
"""With 1204, of the vectors of :func:`sums` those of 600 bytes go from rank to rank, those of 604 by Horovod."""


@pytest.fixture(scope="module")
def processes() -> Iterator[list[Outside]]:
    """What starts processes for the launcher ``external``, once it is used."""
    used: list[Outside] = []
    yield used
    for outside in used:
        outside.close()


@pytest.fixture
def launches(spark: SparkSession, processes: list[Outside], tmp_path: Path) -> Launches:
    def outside() -> Outside:
        if not processes:
            processes.append(Outside())
        return processes[0]

    folder = tmp_path / "call"
    folder.mkdir()
    return Launches(spark, outside, folder, SETTINGS)


def floats_of(rank: int, rows: int = 50) -> np.ndarray:
    return np.random.default_rng(rank).normal(size=(rows, 3)).astype("float32")


def sums(connection: Connection) -> dict[str, Any]:
    """Check sums in a graph and eagerly, against closed forms."""
    import tensorflow as tf

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
        "direct": getattr(connection.collectives, "_direct", None) is not None,
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

    rank, last = connection.world.rank, connection.world.size - 1
    variables = [tf.Variable([float(rank)] * 3), keras.Variable(np.full((2, 2), rank), dtype="bfloat16")]
    connection.collectives.broadcast(variables, root=last)
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
        "object": connection.collectives.broadcast_object({"from": rank}, root=last),
        "rows": connection.collectives.allgather(np.full((2 * rank, 2), rank + 1, np.uint32)),
    }


def everything(connection: Connection, greeting: str, pause: float) -> dict[str, Any]:
    """What one launch is asked, since each costs half a minute."""
    logger = logging.getLogger("sparton.test")
    logger.info("%s %.3f", greeting, time.time())
    print(f"printed by {os.getpid()}", flush=True)
    time.sleep(pause)
    environment = {name: os.environ.get(name) for name in ("SPARTON_TEST", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS")}
    return {
        "world": connection.world,
        "process": os.getpid(),
        "environment": environment,
        **sums(connection),
        **exchanges(connection),
    }


@keeping("results")
def test_ranks_compute_together(launches: Launches, caplog: pytest.LogCaptureFixture, launcher: str) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    with caplog.at_level(logging.INFO, logger="sparton"):
        # From another thread where the launcher works in any.
        options = {"thread": launcher == "barrier", "direct_sum_bytes": DIRECT_SUM_BYTES[launcher]}
        pause = PAUSE_S if launcher in ("barrier", "spark") else 0.0
        results = launches.run(launcher, everything, "greetings", pause, **options).results

    assert results is not None
    size = launches.settings(launcher).workers
    assert [result["world"] for result in results] == [World(rank, size, rank) for rank in range(size)]
    processes = {result["process"] for result in results}
    assert len(processes) == size
    assert (os.getpid() in processes) == (launcher == "process")
    if launcher != "process":
        expected = {"SPARTON_TEST": "set", "HOROVOD_STALL_SHUTDOWN_TIME_SECONDS": "300"}
        assert all(result["environment"] == expected for result in results)
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == handlers

    floats = [floats_of(rank) for rank in range(size)]
    total = sum(floats[1:], floats[0])
    for result in results:
        assert result["direct"] == (DIRECT_SUM_BYTES[launcher] > 0)
        for found, rows in zip(result["of_any_size"], (50, 51), strict=True):
            np.testing.assert_array_equal(found, sum(floats_of(rank, rows) for rank in range(size)))
        first, scalar, whole, half, again = result["graph"]
        np.testing.assert_array_equal(first, total)
        np.testing.assert_array_equal(again, 2 * size * total)
        np.testing.assert_array_equal(half, sum(own.astype("float16") for own in floats))
        np.testing.assert_array_equal(result["eager"], total)
        ranks = sum(range(size))
        assert (float(scalar), whole.tolist()) == (ranks + size, [ranks, 5 * size])
        np.testing.assert_allclose(result["gradient"], (ranks + size) * 2 * size * np.array([1.0, 2.0]))
        np.testing.assert_array_equal(result["variables"][0], [size - 1] * 3)
        np.testing.assert_array_equal(result["variables"][1], np.full((2, 2), size - 1))
        assert ("'drifted' on ranks [1] differs" in result["disagreement"]) == (size > 1)
        assert result["object"] == {"from": size - 1}
        np.testing.assert_array_equal(result["rows"], np.full((2 * ranks, 2), size))

    records = [record for record in caplog.records if "greetings" in record.getMessage()]
    prefix = "" if launcher in POINTS["log"].unless else "rank 0: "
    assert [record.getMessage().split("greetings ")[0] for record in records] == [prefix]  # rank 1 speaks too low
    if pause:
        sent = float(records[0].getMessage().rsplit(" ", 1)[1])
        assert records[0].created - sent < PAUSE_S - 1  # it was here before the worker went on
    started = rf"{size} workers have started on host \S+: loading TensorFlow, connecting"
    assert sum(bool(re.fullmatch(started, text)) for text in caplog.messages) == (launcher in ("barrier", "spark"))
    connected = "rank 0: world of 2 connected over lo"
    assert [text for text in caplog.messages if "connected over" in text] == [connected] * (launcher != "process")
    if launcher not in POINTS["output"].unless:
        assert f"rank 0: printed by {results[0]['process']}" in caplog.messages


def failing(connection: Connection) -> float:
    """Fail on the last rank while others wait in a collective."""
    import tensorflow as tf

    connection.collectives.barrier()
    if connection.world.rank == connection.world.size - 1:
        logging.getLogger("sparton.test").warning("failing at %.3f", time.time())
        raise ValueError("no jets\nin shard 7")
    return float(connection.collectives.allreduce_sum([tf.ones([])])[0])


@keeping("error")
def test_an_error_in_a_worker_ends_the_launch_with_its_message(
    launches: Launches, caplog: pytest.LogCaptureFixture, launcher: str
) -> None:
    ended = launches.run(launcher, failing, retries=3)  # in vain, so there is none
    size = launches.settings(launcher).workers
    assert f"rank {size - 1} of {size}: ValueError: no jets in shard 7" in ended.said
    assert ended.kind == "TrainingError"
    assert ended.at - failure_time(caplog, launcher) < END_LIMIT_S
    assert not ended.left
    if launcher == "external":  # the other one points there
        assert "rank 0 of 2: ConnectionError: direct sums: no more connection to rank 1" in ended.said
        assert "another rank has ended: its output, or that of what has started it, says why" in ended.said
    if launcher != "process":  # where it is the cause of the exception
        assert "in failing" in caplog.text  # the worker's own traceback


def out_of_range(connection: Connection, note: str) -> None:
    """Train on numbers whose squares are no numbers."""
    from sparton.sgd.settings import KMeansSettings
    from sparton.sgd.train import fit

    with open(note, "a") as stream:
        stream.write(".")
    rows = np.random.default_rng(0).normal(size=(200, 3)).astype("float32") * 1e25
    fit(rows, KMeansSettings(n_clusters=2, scaling="none"), connection=connection)


@keeping("range", spark=True, barrier=True)
def test_numbers_out_of_range_end_all_as_one_error(launches: Launches, tmp_path: Path, launcher: str) -> None:
    note = tmp_path / "starts"
    ended = launches.run(launcher, out_of_range, str(note), retries=3)
    assert re.search("squared distances of the centroids exceed float32; standardise the features", ended.said)
    assert ended.kind == "TrainingError"
    assert not ended.left
    assert len(note.read_text()) == launches.settings(launcher).workers


def apart(connection: Connection, note: str) -> None:
    """Sum vectors of other lengths on each rank, in a graph."""
    import tensorflow as tf

    with open(note, "a") as stream:
        stream.write(".")

    @tf.function
    def summed() -> tf.Tensor:
        return connection.collectives.allreduce_sum([tf.ones(2 + connection.world.rank)])[0]

    summed()


@keeping("apart", spark=True)
def test_ranks_at_different_sums_end_all_as_one_error(launches: Launches, tmp_path: Path, launcher: str) -> None:
    note = tmp_path / "starts"
    ended = launches.run(launcher, apart, str(note), retries=3)
    expected = r"rank (0 is at sum 1, of 8 bytes, and rank 1 at sum 1, of 12|1 is at sum 1, of 12 bytes, .*): all ranks"
    assert re.search(f"{expected} must call the same sums in the same order", ended.said)
    assert ended.kind == "TrainingError"
    assert not ended.left
    assert len(note.read_text()) == 2


def dying_once(connection: Connection, note: str, together: bool) -> int:
    """Die on the last rank, if nobody has before, while others compute, or wait in a collective with ``together``.

    Where the rank is the caller's process it only fails as disks do.
    """
    connection.collectives.barrier()
    rank, size = connection.world.rank, connection.world.size
    if Path(note).exists():
        return rank
    if rank == size - 1:
        logging.getLogger("sparton.test").warning("failing at %.3f", time.time())
        time.sleep(0.5)
        Path(note).touch()
        if size == 1:
            raise OSError("a disk")
        os.kill(os.getpid(), signal.SIGKILL)
    if together:
        connection.collectives.barrier()
    time.sleep(600)
    return -1


KILLED = "rank 1 of 2: the process was killed by signal 9 (SIGKILL)"
CAUSES = {
    "process": "rank 0 of 1: OSError: a disk",
    "external": "another rank has ended: its output, or that of what has started it, says why",
}


@keeping("killed")
def test_a_killed_worker_ends_the_launch(
    launches: Launches, caplog: pytest.LogCaptureFixture, tmp_path: Path, launcher: str
) -> None:
    """Whatever the others do, where somebody watches them; else they notice it in their next collective."""
    ended = launches.run(launcher, dying_once, str(tmp_path / "note"), launcher == "external")
    assert CAUSES.get(launcher, KILLED) in ended.said
    assert ended.kind == ("TrainingError" if launcher == "external" else "WorkerError")
    assert ended.at - failure_time(caplog, launcher) < END_LIMIT_S
    assert not ended.left


@keeping("retry", spark=True)
def test_a_lost_worker_starts_the_launch_again(
    launches: Launches, caplog: pytest.LogCaptureFixture, tmp_path: Path, launcher: str
) -> None:
    results = launches.run(launcher, dying_once, str(tmp_path / "note"), False, retries=1).results
    assert results == list(range(launches.settings(launcher).workers))
    (retried,) = [record for record in caplog.records if "starting again" in record.getMessage()]
    assert retried.getMessage().startswith(CAUSES.get(launcher, KILLED))
    assert retried.created - failure_time(caplog, launcher) < END_LIMIT_S


def hanging(connection: Connection) -> None:
    """Hang on rank 1, outside of any collective."""
    connection.collectives.barrier()
    if connection.world.rank == 1:
        logging.getLogger("sparton.test").warning("failing at %.3f", time.time())
        time.sleep(600)
    connection.collectives.barrier()


@keeping("hang", spark=True)
def test_a_rank_that_keeps_others_waiting_ends_the_launch(
    launches: Launches, caplog: pytest.LogCaptureFixture, launcher: str
) -> None:
    ended = launches.run(launcher, hanging, stall_check_s=1, stall_shutdown_s=3, grace_s=1.0)
    whom = "other ranks; it ends here" if launcher == "external" else r"ranks \[1\], which did not take part"
    assert re.search(rf"waited [345] s in a collective for {whom}", ended.said)
    assert "rank 0: waits in a collective for other ranks" in caplog.text.replace("rank 0 waits", "rank 0: waits")
    assert "in hanging" in caplog.text  # where the waiting rank was
    assert ended.at - failure_time(caplog, launcher) < END_LIMIT_S


def never_run(connection: Connection) -> None:
    raise AssertionError("the workers must not come to this together")


def workers(module: str) -> list[psutil.Process]:
    """Return the ranks below this process whose command line names a module."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.Error):
            named = any(part.endswith(module) for part in process.cmdline())
            if named and "HOROVOD_RANK" in process.environ():
                found.append(process)
    return found


class Killer(threading.Thread):
    """Kills a process of the first worker that it finds as soon as it runs, before it can have reached the driver."""

    def __init__(self, module: str) -> None:
        super().__init__(daemon=True)
        self._module = module
        self.rank = ""
        self.killed_at: float | None = None

    def run(self) -> None:
        for _ in range(6000):
            for process in workers(self._module):
                with contextlib.suppress(psutil.Error):
                    self.rank = process.environ()["HOROVOD_RANK"]
                    process.kill()
                    self.killed_at = time.monotonic()
                    return
            time.sleep(0.02)


MODULES = {
    "barrier": "sparton.distributed.child",
    "spark": "horovod.spark.task.gloo_exec_fn",
    "external": "sparton_never_run.py",
}
"""What the command line of a worker's process names."""


@keeping("early")
def test_a_worker_killed_before_it_connects_is_named_at_once(launches: Launches, launcher: str) -> None:
    killer = Killer(MODULES[launcher])
    killer.start()
    if launcher == "external":
        said = horovodrun(launches.folder, "import time; time.sleep(600)").stdout
        expected = f"Process name: {killer.rank}\nExit code: 137"
    else:
        said = launches.run(launcher, never_run).said
        expected = f"rank {killer.rank} of 2: the process was killed by signal 9 (SIGKILL) before it reached the driver"
    assert killer.killed_at is not None
    assert time.monotonic() - killer.killed_at < END_LIMIT_S
    assert expected in said


def horovodrun(folder: Path, program: str, *command: str, how: str = "") -> subprocess.CompletedProcess[str]:
    """Run a program on two processes; its standard output is that of all, errors included."""
    path = folder / MODULES["external"]
    path.write_text(program)
    ended = subprocess.run(
        ["horovodrun", "-np", "2", "--gloo", "--network-interfaces", "lo", *command, sys.executable, str(path), how],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1, ended.stdout
    return ended


DYING = """
import logging, os, signal, sys, time
from sparton.distributed.launch import LaunchSettings, launch

def fail(connection):
    import tensorflow as tf

    connection.collectives.barrier()
    if connection.world.rank == 1:
        print("failing at %.3f" % time.time(), flush=True)
        if sys.argv[1] == "killed":
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("no jets in shard 7")
    connection.collectives.allreduce_sum([tf.ones([])])

logging.basicConfig(level=logging.INFO)
launch(fn=fail, settings=LaunchSettings(workers=2))
"""


@pytest.mark.parametrize(
    ("how", "status", "cause"),
    [
        ("raises", 1, "[1]<stderr>:sparton.errors.TrainingError: rank 1 of 2: ValueError: no jets in shard 7"),
        pytest.param("killed", 137, "another rank has ended: its output", marks=pytest.mark.slow),
    ],
)
def test_horovodrun_ends_with_the_cause_and_the_status(tmp_path: Path, how: str, status: int, cause: str) -> None:
    said = horovodrun(tmp_path, DYING, how=how).stdout
    assert cause in said
    assert f"Process name: 1\nExit code: {status}\n" in said
    (failed,) = re.findall(r"<stdout>:failing at (\d+\.\d+)", said)
    assert time.time() - float(failed) < END_LIMIT_S


@keeping("unable", external=True)
def test_a_worker_that_cannot_start_says_why(launches: Launches, launcher: str) -> None:
    without = {"PYTHONHOME": "/nonexistent"}
    if launcher == "external":
        said = horovodrun(launches.folder, "", "env", "PYTHONHOME=/nonexistent").stdout
        assert re.search(r"\[[01]\]<stderr>:.*No module named 'encodings'", said)
        assert re.search(r"Process name: [01]\nExit code: 1\n", said)
    else:
        said = launches.run(launcher, never_run, environment=without).said
        assert re.match(r"rank \d of 2: the process ended with exit status 1 before .* \| .+", said)


def failure_time(caplog: pytest.LogCaptureFixture, launcher: str) -> float:
    (message,) = [text for text in caplog.messages if "failing at" in text]
    assert launcher == "process" or message.startswith("rank 1:")
    return float(message.rsplit(" ", 1)[1])


SIZES = {
    "process": r"launcher=process runs one worker\. Received: workers=3",
    "external": r"launch\.workers=3, but 2 processes were started; make them equal",
}


@keeping("size")
def test_worlds_of_an_impossible_size_are_refused_at_once(launches: Launches, launcher: str) -> None:
    assert slots.count(launches.spark.sparkContext) == 2
    started = time.time()
    if launcher == "process":
        with pytest.raises(ValueError, match=SIZES[launcher]):
            launches.settings(launcher, workers=3)
        return
    expected = r"3 workers need 3 task slots at once, .* offers 2 \(master local\[2\]"
    ended = launches.run(launcher, never_run, workers=3)
    assert re.search(SIZES.get(launcher, expected), ended.said)
    assert ended.at - started < slots.EXECUTORS_WAIT_S


@pytest.mark.parametrize("key", ["spark.dynamicAllocation.enabled", "spark.speculation"])
@keeping("moving")
def test_settings_that_move_tasks_are_refused(launches: Launches, launcher: str, key: str) -> None:
    conf = launches.spark.sparkContext._conf
    assert conf is not None
    conf.set(key, "true")
    try:
        assert f"{key}=true" in launches.run(launcher, never_run).said
    finally:
        conf.set(key, "false")


@keeping("interface")
def test_an_unknown_interface_is_refused(launches: Launches, launcher: str) -> None:
    said = launches.run(launcher, never_run, interface="wlan7", retries=3).said
    assert re.search(r"has no interface 'wlan7' with an IPv4 address; found .*lo.*; set launch.interface", said)


def test_horovods_launcher_refuses_other_threads(launches: Launches) -> None:
    said = launches.run("spark", never_run, thread=True).said
    assert re.search(r"main thread only .*launcher=barrier", said)


@contextlib.contextmanager
def slot_taken(context: SparkContext) -> Iterator[None]:
    """Let another job hold one of the task slots."""

    def hold() -> None:
        context.setJobGroup("holding", "a job that holds a slot", interruptOnCancel=True)
        with contextlib.suppress(Exception):
            context.parallelize([0], 1).foreach(lambda _: time.sleep(120))

    holder = InheritableThread(target=hold)
    holder.start()
    try:
        wait_for_tasks(context, 1)
        yield
    finally:
        context.cancelJobGroup("holding")
        holder.join()
    wait_for_tasks(context, 0)


@keeping("absent")
def test_ranks_that_do_not_come_end_the_launch_in_time(launches: Launches, launcher: str) -> None:
    """On Spark only then is it known that slots will not be free; the job that waits for them is taken back."""
    started = time.time()
    if launcher == "external":
        ended = launches.run(launcher, never_run, ranks=[0], start_timeout_s=3)
        expected = "rank 0: ranks [1] of 2 have not connected within launch.start_timeout_s=3 s; this process ends"
    else:
        with slot_taken(launches.spark.sparkContext):
            ended = launches.run(launcher, never_run, start_timeout_s=3)
        expected = "0 of 2 workers have started within launch.start_timeout_s=3 s; 2 task slots must be free at once"
    assert expected in ended.said
    assert ended.at - started < END_LIMIT_S


def wait_for_tasks(context: SparkContext, count: int) -> None:
    """Wait until Spark runs a number of tasks."""
    tracker = context.statusTracker()
    for _ in range(600):
        stages = [tracker.getStageInfo(stage) for stage in tracker.getActiveStageIds()]
        if sum(stage.numActiveTasks for stage in stages if stage is not None) == count:
            return
        time.sleep(0.1)
    raise AssertionError(f"Spark does not come to run {count} tasks")


@pytest.mark.parametrize("number", [signal.SIGINT, pytest.param(signal.SIGTERM, marks=pytest.mark.slow)])
@keeping("interrupt", spark=True, external=True)
def test_an_interrupted_launch_leaves_nothing_running(
    launches: Launches, launcher: str, number: signal.Signals
) -> None:
    """Ctrl-C or SIGTERM while the workers start: they end with Spark's tasks, or with what has started them."""
    module = MODULES[launcher]
    started: list[psutil.Process] = []

    def interrupt() -> None:
        for _ in range(6000):
            started[:] = workers(module)
            if started and launcher == "external":
                (runner,) = [each for each in psutil.Process().children() if "--gloo" in each.cmdline()]
                runner.send_signal(number)
                return
            if started:
                signal.raise_signal(number)
                return
            time.sleep(0.02)

    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        threading.Thread(target=interrupt, daemon=True).start()
        if launcher == "external":
            horovodrun(launches.folder, "import time; time.sleep(600)")
        else:
            # As a stage does, and a command.
            expected = KeyboardInterrupt if number == signal.SIGINT else SystemExit
            with pytest.raises(expected), interrupts.terminating():
                launches.run(launcher, never_run)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert started
    for process in [*started, *workers(module)]:
        process.wait(END_LIMIT_S)
    wait_for_tasks(launches.spark.sparkContext, 0)
