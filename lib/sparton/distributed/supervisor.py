"""Starts a training process on an executor, watches it and tells the driver how it ends.

The process is not the one that Spark runs the task in: TensorFlow's state ends with it, its crash leaves the executor
whole, and somebody remains who can say how it ended. What it gets that is secret comes through a pipe, neither in its
environment nor in its command line.
"""

from __future__ import annotations

import collections
import contextlib
import logging
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

import sparton
from sparton.distributed import wire
from sparton.distributed.child import LENGTH_BYTES
from sparton.distributed.devices import GPU_VARIABLE
from sparton.distributed.link import DriverLink
from sparton.distributed.relay import SIGNALLED, SUPERVISOR, Address

EXIT_GRACE_S = 30.0  # for a worker that has given its result to end
KILL_GRACE_S = 5.0  # more than the worker takes to say where it was, when all is over
SAMPLE_S = 1.0
OUTPUT_GRACE_S = 2.0  # for what the process wrote last
COMMAND_NOT_FOUND = 127  # the exit status that shells give it
SECRET_VARIABLES = (
    "_HOROVOD_SECRET_KEY",
    "_SPARK_AUTH_SECRET",
    "PYTHON_WORKER_FACTORY_SECRET",
    "PYSPARK_GATEWAY_SECRET",
)
"""What executors and their tasks hold, and a training and whatever it starts do not need."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Order:
    """What the driver sends to a supervisor.

    Parameters
    ----------
    task
        The pickled :class:`~sparton.distributed.worker.Task`, which the supervisor does not look into.
    driver
        Where to report to.
    environment
        Variables added to those of this process.
    paths
        Folders and zip files that the worker imports from, before others.
    python
        Its Python; None takes the one of this process.
    all_ranks_log
        Whether output of ranks other than 0 is shown.
    one_host
        Whether all executors share the driver's machine, where each is assigned its first GPU.
    """

    task: bytes = field(repr=False)
    driver: Address
    environment: Mapping[str, str]
    paths: Sequence[str]
    python: str | None
    all_ranks_log: bool
    one_host: bool = False


def run(order: Order, rank: int, environment: Mapping[str, str], gpus: Sequence[str]) -> bytes | None:
    """Run a worker to its end and return its pickled result; None if it has none.

    Parameters
    ----------
    order
        What to run.
    rank
        The worker's.
    environment
        Horovod's variables, as far as this process does not have them itself.
    gpus
        Addresses of the GPUs that the process may use; empty: any.

    Raises
    ------
    WorkerError
        If the driver cannot be reached.
    """
    watch = _Watch(order, rank)
    variables = _environment(order, environment, gpus)
    reader, writer = os.pipe()
    try:
        process = subprocess.Popen(
            [order.python or sys.executable, "-u", "-m", "sparton.distributed.child", str(writer)],
            env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[writer],
        )  # fmt: skip
    except OSError as error:
        os.close(reader)
        watch.output(f"{order.python or sys.executable}: {error.strerror}")
        watch.ended(COMMAND_NOT_FOUND, None, 0)
        return None
    finally:
        os.close(writer)
    return watch.follow(process, order.task, reader)


class _Watch:
    """Follows one process; its line to the driver lives as long."""

    def __init__(self, order: Order, rank: int) -> None:
        self._process: subprocess.Popen[bytes] | None = None
        self._stopped = threading.Event()
        self._level = logging.INFO if rank == 0 or order.all_ranks_log else logging.DEBUG
        self._link = DriverLink(order.driver, rank, self._stop, SUPERVISOR)

    def follow(self, process: subprocess.Popen[bytes], task: bytes, reader: int) -> bytes | None:
        """Feed a process and return its result when it has ended."""
        assert process.stdin is not None
        assert process.stdout is not None
        self._process = process
        if self._stopped.is_set():  # the order came before there was a process
            _kill(process)
        output = threading.Thread(target=self._forward, args=(process.stdout,), daemon=True)
        output.start()
        # Closed by the end of the process or of this one, whichever comes first.
        feeder = threading.Thread(target=_feed, args=(process.stdin, task), daemon=True)
        feeder.start()
        kills = KernelKills()
        try:
            with os.fdopen(reader, "rb") as source:
                result = _take(source)  # returns when the process gives its result, or ends
            code, memory = _wait(process, EXIT_GRACE_S if result is not None else None)
        finally:
            _kill(process)  # where something has interrupted this
        output.join(OUTPUT_GRACE_S)
        self.ended(code, _killed_for(code, kills, memory), memory)
        kills.close()
        feeder.join(OUTPUT_GRACE_S)
        with contextlib.suppress(OSError):
            process.stdin.close()
        return result

    def output(self, text: str) -> None:
        """Send a line that the process has written."""
        self._link.send("output", level=self._level, text=wire.clip(text))

    def ended(self, code: int, killed_for: str | None, memory: int) -> None:
        """Tell the driver how the process ended, and how many bytes it held at most."""
        self._link.end("exited", code=code, killed_for=killed_for, memory=memory)

    def _forward(self, stream: IO[bytes]) -> None:
        for line in stream:
            self.output(line.decode(errors="replace").rstrip())

    def _stop(self) -> None:
        """End the process: the driver says so, or is gone."""
        self._stopped.set()
        if self._process is not None:
            timer = threading.Timer(KILL_GRACE_S, _kill, (self._process,))
            timer.daemon = True
            timer.start()


def _kill(process: subprocess.Popen[bytes]) -> None:
    """Kill a process, unless its number is free for another one; Popen's own way would take its exit status."""
    if process.returncode is None:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process.pid, signal.SIGKILL)


def _environment(order: Order, environment: Mapping[str, str], gpus: Sequence[str]) -> dict[str, str]:
    own = {name: value for name, value in os.environ.items() if name not in SECRET_VARIABLES}
    merged = {**own, **environment, **order.environment}
    here = os.path.dirname(os.path.dirname(os.path.abspath(sparton.__file__)))  # a worker runs this very code
    paths = [path for path in map(os.path.abspath, order.paths) if os.path.exists(path)]
    merged["PYTHONPATH"] = os.pathsep.join([here, *paths, *filter(None, [merged.get("PYTHONPATH")])])
    return merged | ({GPU_VARIABLE: ",".join(gpus)} if gpus else {})


def _feed(stream: IO[bytes], task: bytes) -> None:
    with contextlib.suppress(OSError):  # whoever does not read is gone, and that is noticed elsewhere
        stream.write(len(task).to_bytes(LENGTH_BYTES, "little") + task)
        stream.flush()


def _take(source: IO[bytes]) -> bytes | None:
    """Return the result; None if the process has ended without, or with a part of it."""
    length = source.read(LENGTH_BYTES)
    if len(length) < LENGTH_BYTES:
        return None
    count = int.from_bytes(length, "little")
    result = source.read(count)
    return result if len(result) == count else None


def _wait(process: subprocess.Popen[bytes], seconds: float | None) -> tuple[int, int]:
    """Wait for the end of a process, kill it after some time, and return its exit status and largest memory in bytes.

    A signal counts 128 more than its number, as in shells.
    """
    timer = threading.Timer(seconds if seconds is not None else 0.0, _kill, (process,))
    timer.daemon = True
    if seconds is not None:
        timer.start()
    _, status, usage = os.wait4(process.pid, 0)
    timer.cancel()
    process.returncode = os.waitstatus_to_exitcode(status)
    code = process.returncode if process.returncode >= 0 else SIGNALLED - process.returncode
    return code, usage.ru_maxrss * 1024


class KernelKills:
    """Tells whether the kernel has lately killed a process of this host for lack of memory.

    It counts them, but says to nobody but root which ones they were.
    """

    def __init__(self) -> None:
        self._counts: collections.deque[int] = collections.deque([_kernel_kills()], maxlen=3)
        self._closed = threading.Event()
        threading.Thread(target=self._sample, name="sparton-kernel-kills", daemon=True).start()

    def lately(self) -> bool:
        """Tell whether there was one within the last seconds."""
        return _kernel_kills() > self._counts[0]

    def close(self) -> None:
        """Watch no longer."""
        self._closed.set()

    def _sample(self) -> None:
        while not self._closed.wait(SAMPLE_S):
            self._counts.append(_kernel_kills())


def _kernel_kills() -> int:
    """Return how many processes the kernel has killed for lack of memory, in all; 0 where it does not say."""
    with contextlib.suppress(OSError):
        for line in Path("/proc/vmstat").read_text().splitlines():
            name, _, value = line.partition(" ")
            if name == "oom_kill":
                return int(value)
    return 0


def _killed_for(code: int, kills: KernelKills, memory: int) -> str | None:
    """Return what the kernel has killed a process for, where it was the kernel."""
    if code != SIGNALLED + signal.SIGKILL or not kills.lately():
        return None
    return (
        f"out of memory, by the kernel (it held {memory / 1e9:.1f} GB); give executors more memory "
        "(spark.executor.memoryOverhead), or lower train.batch_size or the workers of each host"
    )


def run_under_horovod(order: Order) -> Any:
    """Run a worker from the process that ``horovod.spark.run`` has started."""
    import horovod.spark.task

    gpus = [] if order.one_host else horovod.spark.task.get_available_devices()
    result = run(order, int(os.environ["HOROVOD_RANK"]), {}, gpus)
    if result is None:
        raise SystemExit(1)
    return result
