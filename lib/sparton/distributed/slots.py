"""Whether a Spark application can run all workers of a launch at once."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from sparton.errors import TrainingError

if TYPE_CHECKING:
    from pyspark import SparkContext

EXECUTORS_WAIT_S = 20.0  # for executors to register, after the start of the application or the loss of one
POLL_S = 0.5
# With these on, Spark adds, removes or repeats tasks, while a Horovod worker can neither move nor be replaced.
TASK_GPUS = "spark.task.resource.gpu.amount"
FORBIDDEN = {
    "spark.dynamicAllocation.enabled": "set spark.dynamicAllocation.enabled=false and spark.executor.instances",
    "spark.speculation": "set spark.speculation=false",
}


def require(context: SparkContext, workers: int) -> None:
    """Raise unless ``workers`` tasks can run at the same time and stay where they are.

    Raises
    ------
    TrainingError
        With the number of slots that are needed and found, or the setting that is in the way.
    """
    for key, way_out in FORBIDDEN.items():
        if context.getConf().get(key, "false").lower() == "true":
            raise TrainingError(f"{key}=true: {workers} Horovod workers need a fixed set of executors; {way_out}")
    found = _settle(context, workers)
    if found < workers:
        conf = context.getConf()
        cpus, gpus = conf.get("spark.task.cpus", "1"), conf.get(TASK_GPUS)
        asked = f"spark.task.cpus={cpus}" + (f", {TASK_GPUS}={gpus}" if gpus else "")
        raise TrainingError(
            f"{workers} workers need {workers} task slots at once, the Spark application offers {found} "
            f"(master {context.master}, {asked}); lower the number of workers or give Spark more "
            + ("executors with GPUs" if gpus else "cores")
        )


def count(context: SparkContext) -> int:
    """Return how many tasks the application can run at once with the executors that it has now."""
    from py4j.protocol import Py4JError  # type: ignore[import-untyped]

    try:
        scala = context._jsc.sc()
        return int(scala.maxNumConcurrentTasks(scala.resourceProfileManager().defaultResourceProfile()))
    except (Py4JError, AttributeError):  # a platform that hides Spark's internals; this one is public
        return context.defaultParallelism // int(context.getConf().get("spark.task.cpus", "1"))


def is_local(context: SparkContext) -> bool:
    """Tell whether all executors run on the driver's machine."""
    return str(context.master).startswith("local")


_most_offered: dict[str, int] = {}
"""The most slots that each application of this process has been found to offer."""


def _settle(context: SparkContext, workers: int) -> int:
    """Count the slots; while they are too few and executors may still register, wait and count again.

    They may where the application is young, and where it has offered enough before: then one was lost, and Spark or its
    cluster manager starts another.
    """
    single_process = is_local(context) and not str(context.master).startswith("local-cluster")
    found = count(context)
    had_enough = _most_offered.get(context.applicationId, 0) >= workers
    patience = 0.0 if single_process else EXECUTORS_WAIT_S - (0.0 if had_enough else _age(context))
    deadline = time.monotonic() + patience
    while found < workers and time.monotonic() < deadline:
        time.sleep(POLL_S)
        found = count(context)
    _most_offered[context.applicationId] = max(found, _most_offered.get(context.applicationId, 0))
    return found


def _age(context: SparkContext) -> float:
    """Return the seconds since the start of the application."""
    return max(0.0, time.time() - context.startTime / 1000)
