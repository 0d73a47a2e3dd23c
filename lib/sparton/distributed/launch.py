"""Start the workers of a training: in this process when there is one, else as Horovod processes on Spark executors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import Field, model_validator

from sparton.config import Config
from sparton.distributed import devices
from sparton.distributed.world import Connection
from sparton.errors import SpartonError, TrainingError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession


class LaunchSettings(Config):
    """How many workers train, and how they find each other.

    Parameters
    ----------
    workers
        Number of training processes; each occupies one Spark task slot. 1 trains in the driver, without Horovod.
    interface
        Network interface that the workers exchange data on; it has this name on every host. By default the loopback
        interface when Spark is local, else one that all hosts can reach each other on.
    start_timeout_s
        Seconds within which all workers must have started and found each other.
    stall_check_s, stall_shutdown_s
        Seconds that a rank may keep the others waiting in a collective before a warning, and before the job ends.
    threads_per_worker
        Threads of TensorFlow's operations in each worker; by default the cores of a host divided by its workers, and
        with one worker TensorFlow's own choice.
    all_ranks_log
        Whether progress of all ranks reaches the driver's log, or only rank 0's (warnings of all do always).
    python
        The workers' Python executable; by default the one of Spark's executors (``spark.pyspark.python`` or
        ``PYSPARK_PYTHON``). A relative path starts in an executor's working folder.
    environment
        Further environment variables of the workers.
    """

    workers: int = Field(default=1, ge=1)
    interface: str | None = None
    start_timeout_s: int = Field(default=120, ge=1)
    stall_check_s: int = Field(default=60, ge=1)
    stall_shutdown_s: int = Field(default=300, ge=1)
    threads_per_worker: int | None = Field(default=None, ge=1)
    all_ranks_log: bool = False
    python: str | None = None
    environment: dict[str, str] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _check_stall(self) -> LaunchSettings:
        if self.stall_shutdown_s <= self.stall_check_s:
            raise ValueError(f"stall_shutdown_s={self.stall_shutdown_s} must exceed stall_check_s={self.stall_check_s}")
        return self


def launch(
    fn: Callable[..., Any],
    args: Sequence[Any] = (),
    spark: SparkSession | None = None,
    settings: LaunchSettings | None = None,
) -> list[Any]:
    """Run ``fn(connection, *args)`` on every worker and return the results in the order of ranks.

    Parameters
    ----------
    fn
        A function of this project, or any that can be pickled; what it returns must be picklable and small (weights
        go to storage).
    args
        Further arguments, equal for all ranks.
    spark
        The session whose executors run the workers; not needed for one worker.
    settings
        See :class:`LaunchSettings`.

    Raises
    ------
    TrainingError
        If a worker failed (with its rank and reason), did not start in time, or cannot start: too few task slots,
        dynamic allocation or speculation on, an unknown interface, or a call from another thread than the main one.
    """
    settings = settings or LaunchSettings()
    if settings.workers == 1:
        return [_run_here(fn, args, settings.threads_per_worker)]
    if spark is None:
        raise TrainingError(f"{settings.workers} workers need a Spark session to run on; found none")
    from sparton.distributed import horovod_spark

    return horovod_spark.run(fn, tuple(args), spark.sparkContext, settings)


def _run_here(fn: Callable[..., Any], args: Sequence[Any], threads: int | None) -> Any:
    if threads is not None:
        devices.limit_own_threads(threads)
    try:
        return fn(Connection.local(), *args)
    except SpartonError:
        raise
    except Exception as error:
        raise TrainingError(f"rank 0 of 1: {type(error).__name__}: {error}") from error
