"""The trainer of all methods of this family, the same on one rank and on N.

A step is ``local_statistics`` on each rank, one sum over all ranks, one ``update`` that is equal on all. Rank 0 keeps
checkpoints, within an epoch too; a run that finds one of the same settings and data ends with the same bits as one that
was never interrupted.
"""

from __future__ import annotations

import logging
import math
import time
from dataclasses import asdict, dataclass, field
from typing import Any, Generic

import numpy as np

from sparton.distributed import agreement
from sparton.distributed.resumption import Checkpoints, broadcast_arrays
from sparton.distributed.world import Connection
from sparton.errors import TrainingError
from sparton.sgd.batch import Batch
from sparton.sgd.compute import own_threads
from sparton.sgd.curve import CurveRow
from sparton.sgd.feed import Feed
from sparton.sgd.method import Figures, Method, StateT, StatisticsT, add_up
from sparton.sgd.stopping import Averages, Rule

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Schedule:
    """How long a training takes: epochs at most, what ends it before, the sample for its start, and its checkpoints."""

    epochs: int
    rule: Rule
    sample_rows: int
    checkpoint_seconds: float = math.inf


@dataclass
class Progress:
    """How far a training is: the next step, and what the epoch has had so far. Everything is JSON-able."""

    epoch: int = 0
    step: int = 0
    objective: float = 0.0
    weight: float = 0.0
    shift: float = 0.0
    mended: int = 0
    seconds: float = 0.0
    ended: bool = False
    averages: Averages = field(default_factory=Averages)

    @classmethod
    def of(cls, values: dict[str, Any]) -> Progress:
        """Return what :func:`dataclasses.asdict` made plain."""
        return cls(**{**values, "averages": Averages(**values["averages"])})

    def next_epoch(self) -> Progress:
        """Return the progress at the beginning of the next epoch."""
        return Progress(epoch=self.epoch + 1, ended=self.ended, averages=self.averages)


@dataclass(frozen=True)
class Trained(Generic[StateT, StatisticsT]):
    """What a training ends with: the last state, the curve, and the sums over all rows with that state."""

    state: StateT
    rows: tuple[CurveRow, ...]
    totals: StatisticsT


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
        self.progress = Progress()
        self.rows: list[CurveRow] = []
        self._saved = time.monotonic()

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
            while self.progress.epoch < self.schedule.epochs and not self.progress.ended:
                self._epoch()
            return Trained(self.state, tuple(self.rows), self._totals())

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
        progress = self.progress
        before, started = progress.seconds, time.perf_counter()
        for batch in self.feed.epoch(progress.epoch, progress.step):
            self._step(batch)
            progress.seconds = before + time.perf_counter() - started
            if progress.ended:
                break
            self._save_sometimes()
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
        progress.step += 1
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
            progress, name = self.progress, self.method.words.objective
            raise TrainingError(
                f"the {name} is {figures.objective} in epoch {progress.epoch + 1}, step {progress.step + 1}; "
                "set cluster.precision: float64, or look for values that are far too large"
            )

    def _totals(self) -> StatisticsT:
        """Return the sums over all rows with the last state; batches of training saw older ones."""
        total = self.method.local_statistics(self.feed.nothing(), self.state)
        for batch in self.feed.once():
            found = self.method.local_statistics(batch, self.state)
            total = type(total)(*(one + other for one, other in zip(total, found, strict=True)))
        return add_up(self.connection, total)

    def _row(self) -> CurveRow:
        progress = self.progress
        rows = self.feed.total * progress.step / self.feed.steps
        return CurveRow(
            epoch=progress.epoch + 1,
            step=self.method.steps_done(self.state),
            train_objective=progress.objective / progress.weight,
            smoothed_objective=progress.averages.objective or 0.0,
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
        self.progress = Progress.of(notes["progress"])
        self.rows = [CurveRow(**row) for row in notes["rows"]]
        logger.info("resuming in epoch %d of %d", self.progress.epoch + 1, self.schedule.epochs)
        return empty._replace(**arrays)

    def _agree(self) -> None:
        agreement.check(self.connection, self.state._asdict())

    def _save_sometimes(self) -> None:
        # Rank 0 alone looks at its clock: saving is no collective.
        due = time.monotonic() - self._saved >= self.schedule.checkpoint_seconds
        if due and self.progress.step < self.feed.steps:
            self._save()

    def _save(self) -> None:
        if self.checkpoints is None:
            return
        notes = {"progress": asdict(self.progress), "rows": [row.to_json() for row in self.rows]}
        self.checkpoints.save(self.method.steps_done(self.state), self.state._asdict(), notes)
        self._saved = time.monotonic()
