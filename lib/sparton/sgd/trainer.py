"""The trainer of all methods of this family, the same on one rank and on N.

A step is ``local_statistics`` on each rank, one sum over all ranks, one ``update`` that is equal on all. Rank 0 keeps
checkpoints, within an epoch too; a run that finds one of the same settings and data ends with the same bits as one that
was never interrupted.
"""

from __future__ import annotations

import logging
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from typing import Any, Generic

import numpy as np

from sparton.data.plan import Position
from sparton.distributed import agreement
from sparton.distributed.resumption import Checkpoints, broadcast_arrays, take_over
from sparton.distributed.times import Stopwatch, WorkerTimes
from sparton.distributed.world import Connection
from sparton.errors import TrainingError
from sparton.sgd.batch import Batch
from sparton.sgd.compute import own_threads
from sparton.sgd.curve import CurveRow
from sparton.sgd.feed import Feed
from sparton.sgd.method import Figures, Method, StateT, StatisticsT, add_up, added
from sparton.sgd.stopping import Averages, Rule

COUNTED_IN_STEPS = (
    "what is set in steps (cluster.decay, cluster.step_delay, cluster.patience) counts steps of that size"
)

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How long a training takes: epochs at most, what ends it before, and the sample for its start."""

    epochs: int
    rule: Rule
    sample_rows: int


@dataclass
class Progress:
    """How far a training is: its place in the data, and what the epoch has had so far. Everything is JSON-able.

    ``times`` is what the workers have spent in all.
    """

    position: Position
    times: WorkerTimes
    objective: float = 0.0
    weight: float = 0.0
    shift: float = 0.0
    mended: int = 0
    seconds: float = 0.0
    ended: bool = False
    averages: Averages = field(default_factory=Averages)

    @classmethod
    def start(cls, world_size: int, batch_size: int) -> Progress:
        """Return that of a training which begins."""
        return cls(Position.start(world_size, batch_size), WorkerTimes.start(world_size))

    @classmethod
    def of(cls, values: dict[str, Any]) -> Progress:
        """Return what :func:`dataclasses.asdict` made plain."""
        kinds: dict[str, Callable[[Any], Any]] = {
            "position": Position.of,
            "times": WorkerTimes.of,
            "averages": lambda averages: Averages(**averages),
        }
        return cls(**{name: kinds[name](value) if name in kinds else value for name, value in values.items()})

    def next_epoch(self) -> Progress:
        """Return the progress at the beginning of the next epoch."""
        return Progress(self.position.next_epoch(), self.times, ended=self.ended, averages=self.averages)


@dataclass(frozen=True)
class Trained(Generic[StateT, StatisticsT]):
    """What a training ends with: the last state, the curve, the sums over all rows with that state, and its times."""

    state: StateT
    rows: tuple[CurveRow, ...]
    totals: StatisticsT
    times: WorkerTimes


class Trainer(Generic[StateT, StatisticsT]):
    """One rank of a training.

    Parameters
    ----------
    connection
        This rank's place in the world; every rank is built with equal arguments but its own feed.
    feed
        Where this rank's rows come from.
    method
        What is trained.
    schedule
        How long.
    checkpoints
        Where to keep checkpoints and to go on from; None keeps none.
    """

    def __init__(
        self,
        connection: Connection,
        feed: Feed,
        method: Method[StateT, StatisticsT],
        schedule: Schedule,
        checkpoints: Checkpoints | None = None,
    ) -> None:
        self.connection = connection
        self.feed = feed
        self.method = method
        self.schedule = schedule
        self.checkpoints = checkpoints
        self.progress = Progress.start(connection.world.size, feed.batch_size)
        self.watch = Stopwatch(connection.collectives, self.progress.times.own)
        self.rows: list[CurveRow] = []

    def run(self) -> Trained[StateT, StatisticsT]:
        """Train from the last checkpoint, or from the start, to the end.

        Raises
        ------
        TrainingError
            If the sample for the start is too small, the objective is not finite, ranks disagree, or the checkpoint is
            of other settings or data.
        DataError
            If a shard is not what the manifest says.
        """
        with own_threads():
            self.state = self._resumed() or self._first_state()
            self._agree()
            while self.progress.position.epoch < self.schedule.epochs and not self.progress.ended:
                self._epoch()
            totals = self._totals()
            self.watch.lap("other")
            times = self.progress.times.gathered(self.connection)
            return Trained(self.state, tuple(self.rows), totals, times)

    def _first_state(self) -> StateT:
        """Return the state that rank 0 finds on the first rows; a reason why it cannot is raised by all ranks."""
        parts = [self.feed.nothing(), *self.feed.sample(self.schedule.sample_rows)]
        gather = self.connection.collectives.allgather
        rows, weight, _ = (gather(np.concatenate(columns)) for columns in zip(*parts, strict=True))
        state, problem = self.method.empty_state(), None
        if self.connection.world.is_root:
            try:
                state = self.method.first_state(rows, weight)
            except TrainingError as error:
                problem = str(error)
        problem = self.connection.collectives.broadcast_object(problem)
        if problem is not None:
            raise TrainingError(problem)
        return state._replace(**broadcast_arrays(self.connection, state._asdict()))

    def _epoch(self) -> None:
        progress, watch = self.progress, self.watch
        watch.lap("other")
        since = time.perf_counter()
        for batch in watch.reading(self.feed.epoch(progress.position)):
            self._step(batch)
            watch.lap("compute")
            progress.seconds += time.perf_counter() - since
            if progress.ended:
                logger.info(
                    "ends before its last pass: the smoothed %s has not fallen for a while (cluster.patience), or the "
                    "centroids are at rest (cluster.tolerance)", self.method.words.objective,
                )  # fmt: skip
                break
            self._save_sometimes()
            since = time.perf_counter()
        self._agree()
        row = self._row()
        self.rows.append(row)
        logger.info(row.line(self.schedule.epochs, self.method.words))
        self.progress = progress.next_epoch()
        self._save()

    def _step(self, batch: Batch) -> None:
        progress = self.progress
        statistics = add_up(self.connection, self.method.local_statistics(batch, self.state))
        self.state, figures = self.method.update(self.state, statistics)
        self._check_finite(figures)
        progress.position = progress.position.advanced()
        progress.objective += figures.objective
        progress.weight += figures.weight
        progress.shift = max(progress.shift, figures.shift)
        progress.ended = progress.averages.observe(figures, self.schedule.rule)
        if progress.ended:
            return
        self.state, mended = self.method.repair(self.state, batch, self.connection.collectives.allgather)
        if mended:
            progress.mended += mended
            progress.averages.restart(self.schedule.rule)

    def _check_finite(self, figures: Figures) -> None:
        if not math.isfinite(figures.objective):
            position, name = self.progress.position, self.method.words.objective
            last = f"; {self.checkpoints.last()}" if self.checkpoints else ""
            raise TrainingError(
                f"the {name} is {figures.objective} in epoch {position.epoch + 1}, step {position.step + 1}{last}; "
                "set cluster.precision: float64, or look for values that are far too large"
            )

    def _totals(self) -> StatisticsT:
        """Return the sums over all rows with the last state; batches of training saw older ones."""
        total = self.method.local_statistics(self.feed.nothing(), self.state)
        for batch in self.feed.once():
            total = added(total, self.method.local_statistics(batch, self.state))
        return add_up(self.connection, total)

    def _row(self) -> CurveRow:
        progress = self.progress
        rows = self.feed.total - self.feed.left(progress.position)
        mean, smoothed = progress.objective / progress.weight, progress.averages.objective
        return CurveRow(
            epoch=progress.position.epoch + 1,
            step=self.method.steps_done(self.state),
            train_objective=mean,
            smoothed_objective=mean if smoothed is None else smoothed,
            largest_move=math.sqrt(progress.shift),
            smallest_cluster=self.method.smallest_share(self.state),
            mended=progress.mended,
            rows_per_second=round(rows / progress.seconds, 1),
            seconds=round(progress.seconds, 3),
        )

    def _resumed(self) -> StateT | None:
        if self.checkpoints is None:
            return None
        empty = self.method.empty_state()
        found = self.checkpoints.restore(empty._asdict())
        if found is None:
            return None
        arrays, notes = found
        progress = Progress.of(notes["progress"])
        if progress.position.epoch < self.schedule.epochs and not progress.ended:
            feed = self.feed
            progress.position = take_over(
                progress.position, self.connection, feed.batch_size, feed.lanes, feed.total, [], [COUNTED_IN_STEPS]
            )
            logger.info("resuming in epoch %d of %d", progress.position.epoch + 1, self.schedule.epochs)
        progress.times = progress.times.taken_over(self.connection.world.size)
        self.progress, self.watch = progress, Stopwatch(self.connection.collectives, progress.times.own)
        self.rows = [CurveRow(**row) for row in notes["rows"]]
        return empty._replace(**arrays)

    def _agree(self) -> None:
        agreement.check(self.connection, self.state._asdict())

    def _save_sometimes(self) -> None:
        if self.checkpoints is not None and self.checkpoints.due and self.feed.left(self.progress.position):
            self._save()
            self.watch.lap("other")

    def _save(self) -> None:
        if self.checkpoints is not None:
            notes = {"progress": asdict(self.progress), "rows": [row.to_json() for row in self.rows]}
            self.checkpoints.save(self.method.steps_done(self.state), self.state._asdict(), notes)
