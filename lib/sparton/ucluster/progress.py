"""How far a training is: its place in the data, and what the epoch has had so far."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from sparton.data.plan import Position
from sparton.distributed.times import WorkerTimes
from sparton.ucluster.schedule import Skipped
from sparton.ucluster.step import Losses


@dataclass
class Progress:
    """What a checkpoint holds beside variables; everything is JSON-able.

    Attributes
    ----------
    position
        The next step, and the epoch that it belongs to.
    times
        What the workers have spent in all.
    steps
        Steps made in all.
    sums
        Of the losses total, focal, clustering and balance over the jets of this epoch so far.
    jets, skipped
        Their number, and that of the steps that changed nothing.
    skipped_rows, skipped_before
        Rows of all steps so far that changed nothing, and of those before the phase at work: steps of another world
        have another number of rows.
    timed_jets, seconds
        Jets of the epoch's steps so far that were not the first one of a process, which is traced, and their time.
    """

    position: Position
    times: WorkerTimes
    steps: int = 0
    sums: list[float] = field(default_factory=lambda: [0.0] * 4)
    jets: float = 0.0
    skipped: float = 0.0
    skipped_rows: int = 0
    skipped_before: int = 0
    timed_jets: float = 0.0
    seconds: float = 0.0

    @classmethod
    def start(cls, world_size: int, batch_size: int) -> Progress:
        """Return that of a training which begins."""
        return cls(Position.start(world_size, batch_size), WorkerTimes.start(world_size))

    @classmethod
    def of(cls, values: dict[str, Any]) -> Progress:
        """Return what :meth:`to_json` made plain."""
        position, times = Position.of(values["position"]), WorkerTimes.of(values["times"])
        return cls(**{**values, "position": position, "times": times})

    def to_json(self) -> dict[str, Any]:
        """Return plain values."""
        return asdict(self)

    def add(self, losses: list[float]) -> None:
        """Count a step with these :class:`Losses`."""
        jets, skipped = losses[4:]
        self.sums = [total + loss * jets for total, loss in zip(self.sums, losses[:4], strict=True)]
        self.jets += jets
        self.skipped += skipped
        self.skipped_rows += int(skipped) * self.position.at_work.global_batch
        self.steps += 1
        self.position = self.position.advanced()

    def time(self, jets: float, seconds: float) -> None:
        """Count the time of a step over so many jets."""
        self.timed_jets += jets
        self.seconds += seconds

    def speed(self) -> float | None:
        """Return the epoch's jets per second so far; None where no step has been timed."""
        return self.timed_jets / self.seconds if self.seconds else None

    def means(self) -> Losses:
        """Return the mean losses over the jets of this epoch so far, their number and that of skipped steps."""
        total, focal, clustering, balance = (value / self.jets for value in self.sums)
        return Losses(total, focal, clustering, balance, self.jets, self.skipped)

    def skipped_steps(self) -> Skipped:
        """Return the rows of steps that changed nothing as steps of the world at work."""
        rows = self.position.at_work.global_batch
        return Skipped(*(round(each / rows) for each in (self.skipped_rows, self.skipped_rows - self.skipped_before)))

    def next_phase(self) -> None:
        """Begin the joint phase."""
        self.skipped_before = self.skipped_rows

    def next_epoch(self) -> None:
        """Go to the beginning of the next epoch."""
        self.position = self.position.next_epoch()
        self.sums, self.jets, self.skipped = [0.0] * 4, 0.0, 0.0
        self.timed_jets, self.seconds = 0.0, 0.0
