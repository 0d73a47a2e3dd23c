"""Start the workers of a training, by whichever launcher the settings and the surroundings ask for."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from sparton.config import SECRET, Config
from sparton.distributed import external, networks
from sparton.distributed.direct import DIRECT_SUM_BYTES
from sparton.distributed.external import ExternalLauncher
from sparton.distributed.launcher import Launcher
from sparton.distributed.process import ProcessLauncher
from sparton.distributed.world import described
from sparton.errors import ConfigError, TrainingError, WorkerError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

SECRET_NAMES = re.compile(r"(?i)secret|password|(^|_)token(_|$)|(access|api|account)_?key")
"""Variables whose values nobody should read."""

logger = logging.getLogger(__name__)


class LaunchSettings(Config):
    """How many workers train, and how they find each other.

    Parameters
    ----------
    workers
        Number of training processes; on Spark each occupies one task slot.
    launcher
        What starts them (docs/distributed.md): `process`, this process alone; `barrier`, the tasks of a Spark barrier
        stage; `spark`, `horovod.spark.run`; `external`, horovodrun or MPI, which have started this process and the
        others. `auto`: `external` under such a launcher, else `process` for one worker and `barrier` for more.
    retries
        New starts, each from the last checkpoint, after a worker was lost, did not start or waited in vain. Bad
        settings, bad data, a loss that is not finite and errors of the program end the job at once; under `external`
        everything does.
    interface
        Network interface that the workers exchange data on; it has this name on every host. By default the loopback
        interface when Spark is local, else the one towards the driver (`barrier`), or one that all hosts can reach each
        other on (`spark`).
    port
        Port of the driver that workers report to; by default any free one.
    rendezvous
        HOST:PORT where processes that mpirun or srun has started find each other: the host of rank 0, and a port that
        is free there. Not needed with horovodrun, nor where Horovod was built with MPI.
    start_timeout_s
        Seconds within which all workers must have started and found each other.
    stall_check_s, stall_shutdown_s
        Seconds that a rank may keep the others waiting in a collective before a warning, and before the job ends.
    direct_sum_bytes
        On CPUs, sums for which the vectors of all ranks together measure no more go straight from rank to rank, which
        is quicker (docs/distributed.md); larger ones go through Horovod, and with 0 all do.
    threads_per_worker
        Threads of TensorFlow's operations in each worker; by default the cores of a host divided by its workers, and
        with one worker TensorFlow's own choice.
    all_ranks_log
        Whether progress of all ranks reaches the driver's log, or only rank 0's (warnings of all do always).
    python
        The workers' Python executable; by default the one of Spark's executors (``spark.pyspark.python`` or
        ``PYSPARK_PYTHON``). A relative path starts in an executor's working folder.
    environment
        Further environment variables of the workers. Secrets do not belong here, where they reach the run folder; they
        belong where executors get theirs, in ``spark-defaults.conf`` (``spark.executorEnv.NAME``).
    """

    workers: int = Field(default=1, ge=1)
    launcher: Literal["auto", "process", "barrier", "spark", "external"] = "auto"
    retries: int = Field(default=0, ge=0)
    interface: str | None = None
    port: int | None = Field(default=None, ge=1, le=65535)
    rendezvous: str | None = None
    start_timeout_s: int = Field(default=120, ge=1)
    stall_check_s: int = Field(default=60, ge=1)
    stall_shutdown_s: int = Field(default=300, ge=1)
    direct_sum_bytes: int = Field(default=DIRECT_SUM_BYTES, ge=0)
    threads_per_worker: int | None = Field(default=None, ge=1)
    all_ranks_log: bool = False
    python: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)

    @field_validator("environment")
    @classmethod
    def _without_secrets(cls, environment: dict[str, str]) -> dict[str, str]:
        for name in environment:
            if SECRET_NAMES.search(name) and not name.lower().endswith("file"):
                # Only the name is told: a validation error would show the value too.
                raise PydanticCustomError(
                    SECRET, "{name} is a secret, which would be seen in command lines and run folders; put "
                    "spark.executorEnv.{name} into the spark-defaults.conf of SPARK_CONF_DIR, or into the environment "
                    "that the processes start from", {"name": name},
                )  # fmt: skip
        return environment

    @field_validator("rendezvous")
    @classmethod
    def _check_rendezvous(cls, rendezvous: str | None) -> str | None:
        if rendezvous is not None:
            networks.address_of(rendezvous)
        return rendezvous

    @model_validator(mode="after")
    def _check_launcher(self) -> LaunchSettings:
        if self.launcher == "process" and self.workers > 1:
            raise ValueError(f"launcher=process runs one worker. Received: workers={self.workers}")
        return self

    @model_validator(mode="after")
    def _check_stall(self) -> LaunchSettings:
        if self.stall_shutdown_s <= self.stall_check_s:
            raise ValueError(f"stall_shutdown_s={self.stall_shutdown_s} must exceed stall_check_s={self.stall_check_s}")
        return self


def chosen(settings: LaunchSettings) -> str:
    """Return the name of the launcher: the one in the settings, or what ``auto`` means here."""
    if settings.launcher != "auto":
        return settings.launcher
    if described() is not None:
        return ExternalLauncher.name
    return "process" if settings.workers == 1 else "barrier"


def needs_spark(settings: LaunchSettings) -> bool:
    """Tell whether the workers run on Spark."""
    return chosen(settings) in ("barrier", "spark")


def check_surroundings(settings: LaunchSettings) -> None:
    """Check that the workers which something outside has started are those of the settings.

    Raises
    ------
    ConfigError
        If their number is another one, there are none, or each of them would start workers of its own.
    """
    world = described()
    if chosen(settings) == ExternalLauncher.name:
        external.place(settings)
    elif world is not None:
        raise ConfigError(
            f"launch.launcher={settings.launcher}, but {world.size} processes were started, each of which would train "
            "alone; set launch.launcher to auto or external, or start one process"
        )


def launch(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    spark: SparkSession | None = None,
    settings: LaunchSettings | None = None,
) -> list[Any]:
    """Run ``fn(connection, *args)`` on every worker and return the results in the order of ranks.

    Under the launcher `external` every process calls this, and each gets the result of its own rank alone.

    Parameters
    ----------
    fn
        A function of this project, or any that can be pickled; what it returns must be picklable and small (weights
        go to storage). After a failure that a new start may mend it is run again on new workers, at most
        ``settings.retries`` times; it is up to it to go on where it was.
    args
        Further arguments, equal for all ranks.
    spark
        The session whose executors run the workers; needed by the launchers on Spark alone.
    settings
        See :class:`LaunchSettings`.

    Raises
    ------
    WorkerError
        If a worker was lost, did not start in time or waited in vain, with its rank and reason, as often as it may.
    TrainingError
        If a worker failed in another way, or none can start: too few task slots, dynamic allocation or speculation on,
        an unknown interface.
    """
    settings = settings or LaunchSettings()
    launcher = _launcher(spark, settings)
    retries = settings.retries if launcher.name != ExternalLauncher.name else 0
    for attempt in range(1, retries + 1):
        try:
            return launcher.run(fn, tuple(args))
        except WorkerError as error:
            logger.warning("%s; starting again, from the last checkpoint (retry %d of %d)", error, attempt, retries)
    try:
        return launcher.run(fn, tuple(args))
    except WorkerError as error:
        raise (WorkerError(f"{error}; no retry is left of launch.retries={retries}") if retries else error) from None


def _launcher(spark: SparkSession | None, settings: LaunchSettings) -> Launcher:
    name = chosen(settings)
    if name == ProcessLauncher.name:
        return ProcessLauncher(settings.threads_per_worker)
    if name == ExternalLauncher.name:
        if settings.launcher == "auto":  # on Spark the launcher itself says which one it is
            logger.info("launch.launcher=auto: %s", name)
        return ExternalLauncher(settings)
    if spark is None:
        raise TrainingError(f"launch.launcher={name}: {settings.workers} workers need a Spark session; found none")
    from sparton.distributed.barrier import BarrierLauncher
    from sparton.distributed.horovod_spark import HorovodSparkLauncher

    return (BarrierLauncher if name == BarrierLauncher.name else HorovodSparkLauncher)(spark.sparkContext, settings)
