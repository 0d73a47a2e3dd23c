"""What a worker of the scaling study does: training steps, sums over ranks, empty messages, all of them timed."""

from __future__ import annotations

import itertools
import os
import socket
import time
from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import tensorflow as tf

from sparton.data.batches import batches, data_errors
from sparton.data.manifest import Manifest, read_manifest
from sparton.data.plan import EpochPlan, plan_epoch
from sparton.data.settings import TRAIN
from sparton.distributed.direct import DIRECT_SUM_BYTES
from sparton.distributed.times import Stopwatch, Times
from sparton.distributed.world import Connection, connect, described
from sparton.optim.settings import ExchangePrecision
from sparton.ucluster.networks import create
from sparton.ucluster.settings import InputSpec, ModelSettings, TrainSettings
from sparton.ucluster.step import Batch, Schedule, TrainStep
from sparton.ucluster.train import COLUMNS

SCHEDULE = Schedule(learning_rate=1e-4, momentum=0.9, alpha=10.0, beta=0.1)
"""A step of the joint phase; a small rate, so that many of them stay finite on random jets."""

MEMORY_BATCHES = 8
HOP_WARM_UP = 200

Answer = dict[str, Any]


class Steps:
    """One rank of a world, or a worker that is alone.

    Parameters
    ----------
    folder
        Training set, of which each worker has an equal share.
    batch_size
        Jets of a worker in each step.
    """

    def __init__(self, folder: str, batch_size: int) -> None:
        self._connection, self._recorded = _joined()
        self._folder = folder
        self._batch_size = batch_size
        self._manifest = read_manifest(folder)
        self._epoch = 0
        self._steps: dict[str, tuple[TrainStep, list[int]]] = {}
        self._chains: dict[tuple[str, int], Any] = {}
        self._memory = list(itertools.islice(self._read(), MEMORY_BATCHES))

    def train(self, precision: ExchangePrecision, source: str, steps: int, warm_up: int) -> Answer:
        """Train with batches from ``memory`` or ``table``; return what each step took, and on what.

        Of the table the steps are the beginning of an epoch, which opens its files.
        """
        step, sizes = self._trainer(precision)
        for batch in itertools.islice(itertools.cycle(self._memory), warm_up):
            _run(step, batch)
        collectives = self._connection.collectives
        source_batches = self._read() if source == "table" else itertools.cycle(self._memory)
        collectives.barrier()
        before = _ended(collectives)
        watch, durations = Stopwatch(collectives, Times()), []
        started = last = time.perf_counter()
        for batch in watch.reading(itertools.islice(source_batches, steps)):
            _run(step, batch)
            watch.lap("compute")
            now = time.perf_counter()
            durations.append(now - last)
            last = now
        done = _ended(collectives) - before
        if done != steps * len(sizes):
            raise RuntimeError(f"{done} collectives in {steps} steps, {len(sizes)} were traced")
        return {
            "seconds": last - started,
            "steps": durations,
            "times": asdict(watch.times),
            "collectives": sizes,
            "gradient_bytes": step.exchange_bytes,
        }

    def allreduce(self, size: int, dtype: str, chain: int, repeats: int) -> Answer:
        """Return the seconds of a sum of ``size`` bytes over all ranks, several times, after one that is not timed.

        As in a training step, ``chain`` sums follow each other in one graph; each is given its share of the time.
        """
        kind = tf.as_dtype(dtype)
        vector = tf.zeros([size // kind.size], kind)
        run = self._chain(kind, chain)
        durations = []
        for turn in range(repeats + 1):
            self._connection.collectives.barrier()
            started = time.perf_counter()
            run(vector).numpy()
            if turn:
                durations.append((time.perf_counter() - started) / chain)
        return {"seconds": durations}

    def hop(self, repeats: int) -> Answer:
        """Return the seconds of a message of one byte from a rank to the other over the loopback interface."""
        root = self._connection.world.is_root
        with socket.create_server(("127.0.0.1", 0)) if root else socket.socket() as own:
            port = self._connection.collectives.broadcast_object(own.getsockname()[1] if root else None)
            if root:
                other, _ = own.accept()
            else:
                other = own
                other.connect(("127.0.0.1", port))
            other.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for turn in range(HOP_WARM_UP + repeats):
                if turn == HOP_WARM_UP:
                    started = time.perf_counter()
                if root:
                    other.sendall(b"x")
                    other.recv(1)
                else:
                    other.recv(1)
                    other.sendall(b"x")
            seconds = (time.perf_counter() - started) / repeats / 2
            other.close()
        return {"seconds": seconds}

    def place(self) -> Answer:
        """Return the cores that this process may use, and TensorFlow's threads."""
        return {"cores": sorted(os.sched_getaffinity(0)), "threads": os.environ.get("TF_NUM_INTRAOP_THREADS")}

    def _trainer(self, precision: ExchangePrecision) -> tuple[TrainStep, list[int]]:
        """Return the compiled step and the bytes of each collective in it."""
        if precision not in self._steps:
            settings = TrainSettings(batch_size=self._batch_size, exchange_precision=precision)
            network = create(ModelSettings(), InputSpec.of(self._manifest), settings.seed)
            step = TrainStep(self._connection, network, settings)
            self._connection.collectives.broadcast(step.variables)
            self._recorded.clear()
            _run(step, self._memory[0])
            self._steps[precision] = step, list(self._recorded)
        return self._steps[precision]

    def _chain(self, kind: tf.DType, count: int) -> Any:
        """Return a compiled function that sums a vector over ranks so many times, each sum waiting for the last."""
        key = kind.name, count
        if key not in self._chains:

            def run(vector: tf.Tensor) -> tf.Tensor:
                for _ in range(count):
                    (vector,) = self._connection.collectives.allreduce_sum([vector])
                return vector

            self._chains[key] = tf.function(run, input_signature=[tf.TensorSpec([None], kind)])
        return self._chains[key]

    def _read(self) -> Iterator[Batch]:
        manifest, plan = self._plan()
        data = batches(self._folder, manifest, TRAIN, plan, self._connection.world.rank, columns=COLUMNS)
        with data_errors():
            yield from data

    def _plan(self) -> tuple[Manifest, EpochPlan]:
        """Return the part of the set that this world trains on, and the next epoch on it."""
        size = self._connection.world.size
        shards = self._manifest.shards(TRAIN)
        part = self._manifest.model_copy(update={"splits": {TRAIN: shards[: len(shards) * size // 2]}})
        self._epoch += 1
        return part, plan_epoch(part.shard_rows(TRAIN), size, self._batch_size, 0, self._epoch)


def _joined() -> tuple[Connection, list[int]]:
    """Return the connection, and a list to which each collective that is traced adds its bytes."""
    recorded: list[int] = []
    if described() is None:
        return Connection.local(), recorded
    direct_sum_bytes = int(os.environ.get("DIRECT_SUM_BYTES", DIRECT_SUM_BYTES))
    world = connect(direct_sum_bytes=0).world
    from sparton.distributed.horovod_backend import HorovodCollectives

    class Recording(HorovodCollectives):
        def _sum_vector(self, vector: tf.Tensor, name: str) -> tf.Tensor:
            count = vector.shape.num_elements()
            if count is not None:  # as in training steps
                recorded.append(count * vector.dtype.size)
            return super()._sum_vector(vector, name)

    return Connection(world, Recording(world.rank, direct_sum_bytes)), recorded


def _run(step: TrainStep, batch: Batch) -> None:
    """Run a step and look at its losses, as training does."""
    for value in step(batch, SCHEDULE):
        float(value)


def _ended(collectives: Any) -> int:
    """Return how many collectives have ended; of a worker that is alone none ever begins."""
    activity = getattr(collectives, "activity", None)
    return 0 if activity is None else activity.counts()[1]
