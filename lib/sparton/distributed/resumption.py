"""Going on with a training from its last checkpoint: the same on all ranks, with the same settings and data only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton.distributed import checkpoint
from sparton.distributed.world import Connection
from sparton.errors import TrainingError


@dataclass(frozen=True)
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
    """

    connection: Connection
    folder: str
    identity: str
    keep: int = 2

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
        """Write a checkpoint; rank 0 alone does."""
        if self.connection.world.is_root:
            checkpoint.save(self.folder, state, {"step": step, "identity": self.identity, **notes}, self.keep)


def broadcast_arrays(connection: Connection, arrays: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    """Return rank 0's arrays on all ranks, bit by bit; the others give arrays of the same names, types and shapes."""
    if connection.world.size == 1:
        return dict(arrays)
    import tensorflow as tf

    variables = {name: tf.Variable(np.asarray(value), trainable=False) for name, value in arrays.items()}
    connection.collectives.broadcast(list(variables.values()))
    return {name: np.array(variable.numpy()) for name, variable in variables.items()}
