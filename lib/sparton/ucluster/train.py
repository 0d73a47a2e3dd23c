"""Training of UCluster: the mass bins first, then mass bins and clusters together, the same code on 1 or N ranks.

Rank 0 writes: checkpoints after each epoch and in between, the bundle at the end. A run that finds a checkpoint of the
same settings and data continues from it and ends with the same weights as one that was never interrupted.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from sparton.config import fingerprint
from sparton.data.batches import batches, data_errors
from sparton.data.manifest import bad_shards, read_manifest
from sparton.data.plan import EpochPlan, plan_epoch
from sparton.data.settings import TRAIN
from sparton.distributed import agreement
from sparton.distributed.resumption import Checkpoints, take_over
from sparton.distributed.times import Stopwatch, WorkerTimes
from sparton.distributed.world import Connection
from sparton.errors import DataError, TrainingError
from sparton.ucluster import bundle
from sparton.ucluster.clustering import classifier_centroids, first_centroids
from sparton.ucluster.curve import CurveRow, mean_speed, to_csv
from sparton.ucluster.epochs import epoch_line, epoch_row
from sparton.ucluster.monitor import Monitor
from sparton.ucluster.networks import Network
from sparton.ucluster.progress import Progress
from sparton.ucluster.schedule import changed_by_steps, changed_rates, schedule_at
from sparton.ucluster.selection import Selection
from sparton.ucluster.settings import ModelSettings, TrainSettings
from sparton.ucluster.start import first_network, identity
from sparton.ucluster.step import Losses, Schedule, TrainStep
from sparton.versions import installed_versions

COLUMNS = ("features", "n_particles", "target")

CLUSTERS = "monitor/clusters"
"""Name in a checkpoint of what :class:`Monitor` has seen last."""

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class TrainingSummary:
    """What a training was.

    Attributes
    ----------
    steps, epochs
        In all.
    kept
        The epoch, counted from 1, whose network the bundle holds.
    jets_per_second
        Of all ranks together, in steps; None where no step but traced ones was made.
    exchange_bytes
        Bytes of gradients that each rank passed to the exchange in a step.
    skipped
        Steps that changed nothing since gradients overflowed; None where no gradient is float16.
    times
        What the workers have spent, and on what.
    last
        Figures of the last epoch.
    """

    steps: int
    epochs: int
    kept: int
    jets_per_second: float | None
    exchange_bytes: int
    skipped: int | None
    times: WorkerTimes
    last: dict[str, Any]


def train(
    connection: Connection,
    set_folder: str,
    checkpoint_folder: str,
    bundle_folder: str,
    model: ModelSettings,
    training: TrainSettings,
) -> TrainingSummary:
    """Train on the train split of a training set and write the bundle.

    Parameters
    ----------
    connection
        This rank's place in the world; every rank calls with the same arguments.
    set_folder
        Training set, readable by all ranks.
    checkpoint_folder, bundle_folder
        Where rank 0 writes.
    model, training
        Settings.

    Raises
    ------
    TrainingError
        If a loss is not finite, gradients keep overflowing, ranks disagree, or the checkpoint is of other settings or
        data.
    DataError
        If the set is damaged or its train split is empty.
    """
    return Trainer(connection, set_folder, checkpoint_folder, model, training).run(bundle_folder)


class Trainer:
    """One rank of a training; see :func:`train`."""

    def __init__(
        self,
        connection: Connection,
        set_folder: str,
        checkpoint_folder: str,
        model: ModelSettings,
        training: TrainSettings,
    ) -> None:
        self.connection = connection
        self.settings = training
        self.manifest = read_manifest(set_folder)
        self.set_folder = set_folder
        self.progress = Progress.start(connection.world.size, training.batch_size)
        self.watch = Stopwatch(connection.collectives, self.progress.times.own)
        self.model = self.network(model)
        self.step = TrainStep(connection, self.model, training)
        self.monitor = Monitor(connection, set_folder, self.manifest, self.model, training)
        self.selection = Selection(training, self.model)
        self.rows: list[CurveRow] = []
        decisive = [model.model_dump(mode="json"), *identity(training), self.manifest.model_dump(mode="json")]
        self.checkpoints = Checkpoints(
            connection, checkpoint_folder, fingerprint(decisive), training.checkpoints_kept, training.checkpoint_seconds
        )
        self._given = {
            "the section model or train": fingerprint([*decisive[:-1], training.batch_size]),
            f"the training set {set_folder}": fingerprint(decisive[-1]),
        }
        self._epoch_steps = self.plan().steps
        self._traced = False
        self._check_rows()

    def run(self, bundle_folder: str) -> TrainingSummary:
        """Train from the last checkpoint, or from the start, to the last epoch, and write the bundle."""
        agreement.check_given(self.connection, self._given)
        self._verify_shards()
        self._resume()
        self._agree()
        while self.progress.position.epoch < self.settings.epochs:
            self._epoch()
        self.selection.apply()
        self._agree()
        if not self.settings.joint_epochs:
            self._place_centroids()
        self.watch.lap("other")
        times = self.progress.times.gathered(self.connection)
        if self.connection.world.is_root:
            self._write_bundle(bundle_folder, times)
        self.connection.collectives.barrier()
        return self._summary(times)

    def _verify_shards(self) -> None:
        """Compare the checksums of the rank's share of the shards: a damaged one would train without a word.

        Raises
        ------
        DataError
            Naming a shard that is missing or is not what the manifest says.
        """
        world = self.connection.world
        self._tell(f"checking the shards of {self.set_folder}")
        shards = [shard for split in sorted(self.manifest.splits) for shard in self.manifest.shards(split)]
        bad = bad_shards(self.set_folder, shards[world.rank :: world.size], checksums=True)
        if bad:
            raise DataError(f"{bad[0].detail}; restore the file or prepare the set again")

    def network(self, model: ModelSettings) -> Network:
        """Return the network that training begins with."""
        return first_network(model, self.settings, self.manifest)

    def plan(self) -> EpochPlan:
        """Return who reads what in this epoch, or what is left of it."""
        settings = self.settings
        return self.progress.position.plan(self.manifest.shard_rows(TRAIN), settings.seed, settings.lanes)

    def batches(self, plan: EpochPlan) -> tf.data.Dataset:
        """Return this rank's next batches of an epoch, with what a step reads."""
        rank, start = self.connection.world.rank, self.progress.position.step
        return batches(self.set_folder, self.manifest, TRAIN, plan, rank, start, COLUMNS)

    def schedule(self, plan: EpochPlan, step: int) -> Schedule:
        """Return the schedule of a step of a plan: that of the step as far from the epoch's end as it is."""
        size, epoch, steps = self.connection.world.size, self.progress.position.epoch, self._epoch_steps
        skipped = self.progress.skipped_steps()
        return schedule_at(self.settings, size, epoch, steps - plan.steps + step, steps, skipped)

    def _epoch(self) -> None:
        progress = self.progress
        epoch = progress.position.epoch
        joint = epoch >= self.settings.pretrain_epochs
        if epoch == self.settings.pretrain_epochs and progress.position.at_start:
            self._place_centroids()
            progress.next_phase()
        plan = self.plan()
        self._steps(plan)
        last = self.schedule(plan, plan.steps - 1)
        observed = self.monitor.observe(last.alpha)
        self._agree()
        scale = None if self.step.loss_scale is None else self.step.loss_scale.scale
        row = epoch_row(epoch, joint, progress, observed, last, scale)
        self.rows.append(row)
        self.selection.offer(row)
        logger.info(epoch_line(row, self.settings.epochs))
        self.epoch_ended(row)
        progress.next_epoch()
        self._save()
        self.connection.collectives.barrier()

    def epoch_ended(self, row: CurveRow) -> None:
        """Do what an epoch ends with, before it is in a checkpoint."""

    def _steps(self, plan: EpochPlan) -> None:
        """Run the steps of an epoch that are left."""
        progress, watch = self.progress, self.watch
        watch.lap("other")
        since = time.perf_counter()
        with data_errors():
            for batch in watch.reading(self.batches(plan)):
                if not self._traced:
                    self._tell("compiling the first step")
                losses = self.step(batch, self.schedule(plan, progress.position.step))
                values = [float(value) for value in losses]
                self._check_finite(values[:4])
                progress.add(values)
                # The first step of a process is traced, which is no training.
                if self._traced:
                    progress.time(float(losses.jets), time.perf_counter() - since)
                watch.lap("compute" if self._traced else "other")
                self._traced = True
                if self.checkpoints.due and progress.position.step < plan.steps:
                    self._save()
                    watch.lap("other")
                since = time.perf_counter()

    def _tell(self, waited_for: str) -> None:
        """Let rank 0 say what all ranks would say alike."""
        if self.connection.world.is_root:
            logger.info("%s", waited_for)

    def _check_finite(self, values: list[float]) -> None:
        bad = [name for name, value in zip(Losses._fields, values, strict=False) if not math.isfinite(value)]
        if bad:
            position = self.progress.position
            raise TrainingError(
                f"the {bad[-1]} loss is {values[Losses._fields.index(bad[-1])]} in epoch {position.epoch + 1}, "
                f"step {position.step + 1}; {self.checkpoints.last()}. Lower train.learning_rate or train.beta, "
                "or look for broken jets in the set"
            )

    def _place_centroids(self) -> None:
        """Find the first centroids on the gathered embeddings of a sample; rank 0 computes, all take the result."""
        if self.settings.keeps_centroids:
            self.monitor.observe(self.settings.alpha_start)
            return
        embedding, logits = self._sample()
        found: list[list[float]] | None = None
        if self.connection.world.is_root:
            found = self._found_centroids(embedding, logits).tolist()
        centroids = self.connection.collectives.broadcast_object(found)
        self.model.centroids.assign(np.asarray(centroids, np.float32))
        self.monitor.observe(self.settings.alpha_start)
        self._agree()

    def _found_centroids(self, embedding: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float64]:
        settings, n_clusters = self.settings, self.model.settings.n_clusters
        if settings.centroids == "classifier":
            return classifier_centroids(embedding, logits)
        return first_centroids(embedding, n_clusters, settings.seed, settings.alpha_start, settings.balance > 0)

    def _sample(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return embeddings [n, D] and logits of the first ``centroid_rows`` jets, rounded up to shards, in file order.

        Shards were shuffled when they were written, so the first ones are a random sample.
        """
        shards = self.manifest.shards(TRAIN)
        ends = np.cumsum([shard.rows for shard in shards])
        needed = int(np.searchsorted(ends, self.settings.centroid_rows)) + 1
        part = self.manifest.model_copy(update={"splits": {TRAIN: shards[:needed]}})
        world = self.connection.world
        plan = plan_epoch(part.shard_rows(TRAIN), world.size, self.settings.batch_size, 0, 0, shuffle=False)
        data = batches(self.set_folder, part, TRAIN, plan, world.rank, columns=COLUMNS[:2])
        run = tf.function(lambda batch: self.model(batch["features"], batch["n_particles"]), autograph=False)
        with data_errors():
            found = [[tensor.numpy() for tensor in run(batch)] for batch in data]
        rows = plan.row_count(world.rank)
        gather = self.connection.collectives.allgather
        embedding, logits = (gather(np.concatenate(parts)[:rows]) for parts in zip(*found, strict=True))
        return embedding, logits

    def _resume(self) -> None:
        """Take the state of the last checkpoint, or rank 0's fresh one."""
        found = self.checkpoints.restore(self._state())
        if found is None:
            self.connection.collectives.broadcast(self.step.variables)
            return
        state, notes = found
        for name, variable in self._named().items():
            variable.assign(state[name])
        self.monitor.clusters = state[CLUSTERS]
        self.selection.restore(state, notes["selection"])
        self.rows = [CurveRow(**row) for row in notes["rows"]]
        progress = Progress.of(notes["progress"])
        progress.times = progress.times.taken_over(self.connection.world.size)
        self.progress = progress
        self.watch = Stopwatch(self.connection.collectives, progress.times.own)
        if progress.position.epoch == self.settings.epochs:
            return
        self._take_over()
        position = progress.position
        logger.info(
            "resuming in epoch %d of %d, at step %d of %d",
            position.epoch + 1,
            self.settings.epochs,
            position.step + 1,
            self.plan().steps,
        )

    def _take_over(self) -> None:
        """Go on where the world that has written the checkpoint was, which may be another one."""
        settings, position = self.settings, self.progress.position
        worlds = position.at_work.world_size, self.connection.world.size
        self.progress.position = take_over(
            position,
            self.connection,
            settings.batch_size,
            settings.lanes,
            self.manifest.rows(TRAIN),
            changed_rates(settings, *worlds),
            changed_by_steps(settings, *worlds),
        )

    def _named(self) -> dict[str, Any]:
        return {f"{index:04d}:{variable.path}": variable for index, variable in enumerate(self.step.variables)}

    def _state(self) -> dict[str, NDArray[Any]]:
        """Return what a checkpoint holds, beside the progress."""
        own = {name: variable.numpy() for name, variable in self._named().items()}
        return own | self.selection.state() | {CLUSTERS: self.monitor.clusters}

    def _agree(self) -> None:
        agreement.check(self.connection, self._named())

    def _save(self) -> None:
        if not self.connection.world.is_root:
            return
        notes = {
            "progress": self.progress.to_json(),
            "rows": [row.to_json() for row in self.rows],
            "selection": self.selection.notes(),
        }
        self.checkpoints.save(self.progress.steps, self._state(), notes)

    def _write_bundle(self, folder: str, times: WorkerTimes) -> None:
        description = bundle.Description(
            format=bundle.FORMAT,
            model=self.model.settings,
            inputs=self.model.inputs_spec,
            centroids=tuple(map(tuple, self.model.centroids.numpy().tolist())),
            training=self.settings.model_dump(mode="json")
            | {"workers": self.connection.world.size, "jets": self.manifest.rows(TRAIN)},
            versions=installed_versions(),
        )
        metrics = self.rows[self._kept() - 1].to_json() | {"workers": times.workers, **times.figures()}
        # Times are those of the whole training, not of the epoch that is kept.
        metrics["jets_per_second"] = mean_speed(self.rows)
        del metrics["seconds"]
        bundle.save(folder, self.model, description, metrics, to_csv(self.rows))

    def _kept(self) -> int:
        """Return the epoch, counted from 1, whose network the bundle holds."""
        return self.selection.epoch or self.rows[-1].epoch

    def _check_rows(self) -> None:
        if not self.manifest.rows(TRAIN):
            raise TrainingError(f"{self.set_folder}: the train split is empty; prepare a larger set")

    def _summary(self, times: WorkerTimes) -> TrainingSummary:
        last = self.rows[-1]
        return TrainingSummary(
            steps=last.step,
            epochs=self.settings.epochs,
            kept=self._kept(),
            jets_per_second=mean_speed(self.rows),
            exchange_bytes=self.step.exchange_bytes,
            skipped=None if self.step.loss_scale is None else self.step.skipped,
            times=times,
            last=last.to_json(),
        )
