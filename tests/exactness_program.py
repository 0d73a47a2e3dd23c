"""Steps of UCluster on this process's share of each global batch; horovodrun starts one process for each rank."""

from __future__ import annotations

import sys
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

from sparton.distributed.world import Connection, connect
from sparton.ucluster.model import UCluster
from sparton.ucluster.settings import TrainSettings
from sparton.ucluster.step import Batch, Schedule, TrainStep
from tests.clouds import SLOTS, SMALL, clouds, inputs

SETTINGS = TrainSettings(focal_gamma=2.0, focal_scale=1.0, balance=0.5, adam_epsilon=1e-4)
"""A small epsilon makes large steps of gradients that are 0 but for rounding."""

SCHEDULE = Schedule(learning_rate=1e-3, momentum=0.9, alpha=2.0, beta=0.3)
ROWS = 24
States = list[list[np.ndarray]]


def share(step: int, rank: int, size: int) -> slice:
    """Return a rank's rows of a global batch: ragged, and in some steps none."""
    cuts = np.sort(np.random.default_rng(step).integers(0, ROWS + 1, size=size - 1)).tolist()
    return slice(*[0, *cuts, ROWS][rank : rank + 2])


def batch(step: int, rows: slice, dtype: str) -> Batch:
    """Return some of the step's jets, completed to a global batch with rows of weight 0."""
    rng = np.random.default_rng(1000 + step)
    features, n_particles = clouds(rng.integers(1, SLOTS + 1, size=ROWS).tolist(), seed=100 + step)
    columns = {
        "features": features.astype(dtype),
        "n_particles": n_particles,
        "target": rng.integers(0, 4, size=ROWS).astype(np.int32),
        "weight": np.ones(ROWS, dtype),
    }

    def padded(values: np.ndarray) -> tf.Tensor:
        missing = ROWS - len(values[rows])
        return tf.constant(np.concatenate([values[rows], np.zeros((missing, *values.shape[1:]), values.dtype)]))

    return {name: padded(values) for name, values in columns.items()}


ALL_NEIGHBOURS = SLOTS - 1
"""With so many each particle has all others for neighbours, and no rounding decides which."""


def network(dtype: str = "float32", neighbours: int = SMALL.neighbours) -> UCluster:
    """Return the network that is trained."""
    model = UCluster(SMALL.model_copy(update={"neighbours": neighbours}), inputs(), 7, dtype=dtype)
    model.build()
    return model


def trained(
    connection: Connection,
    dtype: str,
    steps: int,
    starts: States | None = None,
    neighbours: int = SMALL.neighbours,
) -> States:
    """Return the variables before the first step and after each.

    Parameters
    ----------
    connection
        This rank's place.
    dtype
        ``float64`` or ``float32``.
    steps
        Their number.
    starts
        Where given, each step starts from the variables of this list instead of where the one before ended.
    neighbours
        Of each particle.
    """
    keras.config.set_floatx(dtype)
    try:
        model = network(dtype, neighbours)
        model.centroids.assign([[-1.0, 0.0], [0.5, 1.0], [1.0, -1.0]])
        step = TrainStep(connection, model, SETTINGS)
        states = [[np.array(variable) for variable in step.variables]]
        for number in range(steps):
            if starts is not None:
                for variable, value in zip(step.variables, starts[number], strict=True):
                    variable.assign(value)
            rows = share(number, connection.world.rank, connection.world.size)
            step(batch(number, rows, dtype), SCHEDULE)
            states.append([np.array(variable) for variable in step.variables])
        return states
    finally:
        keras.config.set_floatx("float32")


def flat(states: States) -> dict[str, np.ndarray]:
    """Return states as arrays by name, for an archive."""
    return {f"{step:03d}-{index:03d}": value for step, state in enumerate(states) for index, value in enumerate(state)}


def nested(arrays: dict[str, np.ndarray]) -> States:
    """Return what :func:`flat` named."""
    states: States = []
    for name in sorted(arrays):
        if name.endswith("-000"):
            states.append([])
        states[-1].append(arrays[name])
    return states


def main() -> None:
    """Write what rank 0 finds: 50 steps in float64 and in float32, and single ones in float32 from given variables."""
    folder, steps = Path(sys.argv[1]), int(sys.argv[2])
    connection = connect(direct_sum_bytes=int(sys.argv[3]))
    with np.load(folder / "float32.npz") as archive:
        starts = nested(dict(archive))
    whole = trained(connection, "float64", steps)
    single = trained(connection, "float32", len(starts) - 1, starts)
    course = trained(connection, "float32", steps, neighbours=ALL_NEIGHBOURS)
    if connection.world.is_root:
        for name, states in (("whole", whole), ("single", single), ("course", course)):
            np.savez(folder / f"{name}-{connection.world.size}.npz", **flat(states))


if __name__ == "__main__":
    main()
