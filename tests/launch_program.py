"""A driver that launches workers on the cluster that its Spark configuration names; prints what came of it as JSON.

Started by ``tests/integration/test_launch_clusters.py`` in a process of its own, one for each cluster.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import psutil

from sparton.distributed import Connection
from sparton.distributed.launch import LaunchSettings, launch
from sparton.distributed.supervisor import GPU_VARIABLE
from sparton.errors import TrainingError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

LEFT_BEHIND_S = 20.0  # more than a worker whose driver is gone gives itself
MARK = "SPARTON_LAUNCH_TEST"
COMMON = {"start_timeout_s": 300, "environment": {MARK: str(os.getpid())}}


def together(connection: Connection) -> dict[str, Any]:
    """Sum the ranks."""
    import tensorflow as tf

    world = connection.world
    (total,) = connection.collectives.allreduce_sum([tf.constant([world.rank + 1])])
    parents = [process.pid for process in psutil.Process().parents()]
    place, gpus = [world.rank, world.size, world.local_rank], os.environ.get(GPU_VARIABLE)
    held = [name for name in os.environ if "SECRET" in name]
    return {"place": place, "sum": int(total[0]), "parents": parents, "gpus": gpus, "secrets": held}


def waiting(connection: Connection, note: str) -> None:
    """Say where the executor is, then wait for its end."""
    connection.collectives.barrier()
    if connection.world.rank == 1:
        executor = next(process for process in psutil.Process().parents() if "Executor" in " ".join(process.cmdline()))
        Path(note).write_text(str(executor.pid))
    time.sleep(600)


def never_run(connection: Connection) -> None:
    raise AssertionError("no worker must start")


def failure(spark: SparkSession, fn: Any, *args: Any, **settings: Any) -> dict[str, Any]:
    """Launch, and return the error and the seconds until it came."""
    started = time.monotonic()
    try:
        launch(fn, args, spark, LaunchSettings.model_validate(COMMON | settings))
    except TrainingError as error:
        return {"error": str(error), "seconds": time.monotonic() - started}
    return {"error": None, "seconds": time.monotonic() - started}


def lost_executor(spark: SparkSession, note: str) -> dict[str, Any]:
    """Kill an executor while the workers compute."""
    killed = []

    def kill() -> None:
        while not (os.path.exists(note) and Path(note).read_text()):
            time.sleep(0.05)
        killed.append(time.monotonic())
        os.kill(int(Path(note).read_text()), signal.SIGKILL)

    threading.Thread(target=kill, daemon=True).start()
    found = failure(spark, waiting, note, workers=2, launcher="barrier")
    return found | {"seconds": time.monotonic() - killed[0]}


def left_behind() -> list[int]:
    """Return the training processes of this program that still run some time after all launches are over."""
    deadline = time.monotonic() + LEFT_BEHIND_S
    while (found := marked()) and time.monotonic() < deadline:
        time.sleep(0.5)
    return found


def marked() -> list[int]:
    """Return the training processes of this program."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if process.environ().get(MARK) == str(os.getpid()):
                found.append(process.pid)
    return found


def shown(secret: str) -> list[str]:
    """Return the command lines of this machine in which a secret can be read."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            command = " ".join(process.cmdline())
            if secret in command:
                found.append(command[:100])
    return found


def main(name: str, master: str, folder: str) -> None:
    """Run what a cluster is to be asked."""
    from sparton.pipeline.session import SparkSettings, spark_session

    cloudpickle.register_pickle_by_value(sys.modules[__name__])
    spark = spark_session(SparkSettings(master=master), f"launch on {name}")
    spark.sparkContext.parallelize(range(2), 2).count()
    secret = spark.sparkContext.getConf().get("spark.authenticate.secret", "")
    answers: dict[str, Any] = {"encrypted": spark.sparkContext.getConf().get("spark.network.crypto.enabled", "false")}
    for launcher in ("barrier", "spark"):
        settings = LaunchSettings.model_validate(COMMON | {"workers": 2, "launcher": launcher})
        answers[launcher] = launch(together, [], spark, settings)
    if secret:
        answers["shown"] = shown(secret)
    time.sleep(max(0.0, 25 - (time.time() - spark.sparkContext.startTime / 1000)))
    answers["slots"] = failure(spark, never_run, workers=3)
    if master.startswith("local-cluster"):
        answers["lost"] = lost_executor(spark, f"{folder}/executor")
    answers["left behind"] = left_behind()
    print("answers", json.dumps(answers), flush=True)
    spark.stop()


if __name__ == "__main__":
    main(*sys.argv[1:])
