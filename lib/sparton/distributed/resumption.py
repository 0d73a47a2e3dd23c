"""Going on with a training from its last checkpoint: the same on all ranks, with the same settings and data only.

The world may have another size: it goes on at the same point of the data (:class:`sparton.data.plan.Position`).
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton.data.plan import Position
from sparton.distributed import checkpoint
from sparton.distributed.world import Connection
from sparton.errors import TrainingError

logger = logging.getLogger(__name__)


@dataclass
class Checkpoints:
    """The checkpoints of one training.

    Attributes
    ----------
    connection
        This rank's place in the world; rank 0 reads and writes.
    folder
        Where they lie.
    identity
        What decides the result: settings and data, as a fingerprint.
    keep
        How many to keep.
    seconds
        Time from one to the next within an epoch.
    """

    connection: Connection
    folder: str
    identity: str
    keep: int = 2
    seconds: float = 60.0

    def __post_init__(self) -> None:
        self._saved = time.monotonic()

    @property
    def due(self) -> bool:
        """Whether it is time for one within an epoch; on rank 0 alone, which writes: saving is no collective."""
        return self.connection.world.is_root and time.monotonic() - self._saved >= self.seconds

    def restore(self, empty: Mapping[str, NDArray[Any]]) -> tuple[dict[str, NDArray[Any]], dict[str, Any]] | None:
        """Return arrays and notes of the last checkpoint on all ranks, or None where there is none.

        Parameters
        ----------
        empty
            Arrays of the names, types and shapes to expect.

        Raises
        ------
        TrainingError
            If the checkpoint is of other settings or data.
        DataError
            If it is damaged.
        """
        state: dict[str, NDArray[Any]] = {}
        notes: dict[str, Any] | None = None
        if self.connection.world.is_root:
            found = checkpoint.latest(self.folder)
            if found is not None:
                state, notes = found
        notes = self.connection.collectives.broadcast_object(notes)
        if notes is None:
            return None
        if notes["identity"] != self.identity:
            raise TrainingError(
                f"{self.folder}: the checkpoint is of other settings or data; name another folder, "
                "or remove it to start anew"
            )
        return broadcast_arrays(self.connection, state if state else empty), notes

    def save(self, step: int, state: Mapping[str, NDArray[Any]], notes: Mapping[str, Any]) -> None:
        """Write a checkpoint; rank 0 alone does.

        Raises
        ------
        TrainingError
            If a value is not finite, before anything is written: the last checkpoint stays a good one.
        """
        if not self.connection.world.is_root:
            return
        bad = [name for name, value in state.items() if not _finite(value)]
        if bad:
            raise TrainingError(
                f"{bad[0]} is not finite after step {step} ({len(bad)} of {len(state)} variables are not); "
                f"{self.last()}. Lower the learning rate, or look for extreme values in the data"
            )
        checkpoint.save(self.folder, state, {"step": step, "identity": self.identity, **notes}, self.keep)
        self._saved = time.monotonic()

    def last(self) -> str:
        """Return what an error says of the last checkpoint."""
        saved = checkpoint.steps(self.folder)
        return f"the last good checkpoint is that of step {saved[-1]}" if saved else "there is no checkpoint yet"


def take_over(
    position: Position,
    connection: Connection,
    batch_size: int,
    lanes: int | None,
    rows: int,
    rates: Sequence[str],
    counted: Sequence[str],
) -> Position:
    """Return the position at which a world goes on; where it is of another size, rank 0 says what that changes.

    Parameters
    ----------
    position
        Where the training is.
    connection
        This rank's place in the world.
    batch_size, lanes, rows
        Rows of one worker in a step, the lanes, and rows of all in an epoch.
    rates, counted
        What else the number of workers changes: in any case, and where steps have other rows.

    Raises
    ------
    TrainingError
        If lanes are given, and neither the rows of one rank in a step nor those of all are those of before.
    """
    before, after = position.at_work, connection.world.size
    keeps = position.keeps_batches(after, batch_size, lanes)
    # What keeps the global batch: the world divides the lanes, which divide it.
    same = before.batch_size if lanes is None else before.global_batch // after
    if not keeps and batch_size != before.batch_size:
        raise TrainingError(
            f"the checkpoint is of {before.world_size} workers with batch_size {before.batch_size}, this training of "
            f"{after} with {batch_size}; to go on set batch_size to {same}, or start anew with --force"
        )
    if after != before.world_size and connection.world.is_root:
        told = f"the checkpoint is of a world of {before.world_size}, this one has {after} workers"
        if keeps and not rates:
            logger.info(
                "%s: with the same %d lanes and %d rows in a step it goes on with the same batches, and computes what "
                "an uninterrupted run of either would, but for rounding",
                told,
                lanes,
                before.global_batch,
            )
        elif keeps:
            logger.warning("%s: it goes on with the same batches, but %s", told, "; ".join(rates))
        else:
            sizes = [before.global_batch, after * batch_size]
            steps = [-(-rows // size) for size in sizes]
            what = [
                f"a step takes {sizes[1]} rows instead of {sizes[0]}",
                f"an epoch has {steps[1]} steps instead of {steps[0]}",
                "rows come in another order",
                *rates,
                *counted,
            ]
            logger.warning(
                "%s: it goes on with the rows that they have left of the epoch, but the result is not that of an "
                "uninterrupted run of either. What changes: %s%s",
                told,
                "; ".join(what),
                "" if lanes is None else f". batch_size {same} would go on with the same batches",
            )
    return position.taken_over(after, batch_size, lanes)


def _finite(value: NDArray[Any]) -> bool:
    if value.dtype.kind in "biuUS":
        return True
    return bool(np.isfinite(value).all())


def broadcast_arrays(connection: Connection, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return rank 0's arrays on all ranks, bit by bit; the others give arrays of the same names, types and shapes."""
    if connection.world.size == 1:
        return dict(arrays)
    import tensorflow as tf

    variables = {name: tf.Variable(np.asarray(value), trainable=False) for name, value in arrays.items()}
    connection.collectives.broadcast(list(variables.values()))
    return {name: np.array(variable.numpy()) for name, variable in variables.items()}
