"""The step of N ranks with B jets each is the step of one rank with N B jets, ragged batches included."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from sparton.distributed.simulate import simulate
from sparton.distributed.world import Connection
from sparton.ucluster.settings import ModelSettings, TrainSettings
from sparton.ucluster.step import Batch, Schedule, TrainStep
from tests.clouds import SLOTS, SMALL, SMALL_PUBLISHED, clouds, network

SETTINGS = TrainSettings(focal_gamma=2.0, focal_scale=1.0, balance=0.5)
SCHEDULE = Schedule(learning_rate=1e-3, momentum=0.9, alpha=2.0, beta=0.3)
STEPS, ROWS = 8, 24
ADAM_EPSILON = {"default": 1e-7, "published": 1e-4}
"""Adam makes steps of full size of gradients that are 0 but for rounding; a large epsilon leaves them small.

The published network has such variables: what the output bias of an attention layer adds, the next normalisation takes
away, wherever ReLU lets it pass.
"""


def batch(step: int, rows: slice, size: int) -> Batch:
    """Return some of the step's jets, completed with rows of weight 0."""
    rng = np.random.default_rng(step)
    counts = rng.integers(1, SLOTS + 1, size=ROWS).tolist()
    features, n_particles = clouds(counts, seed=100 + step)
    target = rng.integers(0, 4, size=ROWS).astype(np.int32)
    missing = size - len(target[rows])

    def padded(values: np.ndarray) -> tf.Tensor:
        return tf.constant(np.concatenate([values[rows], np.zeros((missing, *values.shape[1:]), values.dtype)]))

    weight = np.ones(ROWS, np.float32)
    columns = {"features": features, "n_particles": n_particles, "target": target, "weight": weight}
    return {name: padded(values) for name, values in columns.items()}


def trained(
    connection: Connection, rows: slice, size: int, steps: int = STEPS, settings: ModelSettings = SMALL
) -> tuple[list[np.ndarray], list[float]]:
    """Return the variables after some steps, and the total losses."""
    model = network(seed=7, settings=settings)
    model.centroids.assign([[-1.0, 0.0], [0.5, 1.0], [1.0, -1.0]])
    step = TrainStep(connection, model, SETTINGS.model_copy(update={"adam_epsilon": ADAM_EPSILON[settings.network]}))
    losses = [float(step(batch(number, rows, size), SCHEDULE).total) for number in range(steps)]
    return [np.array(variable) for variable in step.variables], losses


@pytest.mark.parametrize("cuts", [(0, 5, 16, 24), (0, 24, 24)])
def test_ranks_compute_what_one_rank_computes(cuts: tuple[int, ...]) -> None:
    whole, losses = trained(Connection.local(), slice(0, ROWS), ROWS)
    size = max(np.diff(cuts)) + 1

    def rank(connection: Connection) -> tuple[list[np.ndarray], list[float]]:
        return trained(connection, slice(*cuts[connection.world.rank : connection.world.rank + 2]), int(size))

    results = simulate(len(cuts) - 1, rank)
    for variables, found in results:
        np.testing.assert_allclose(found, losses, rtol=1e-5)
        for index, (one, other) in enumerate(zip(whole, variables, strict=True)):
            scale = max(float(np.abs(one).max()), 1e-3)
            np.testing.assert_allclose(other, one, atol=1e-4 * scale, rtol=1e-4, err_msg=str(index))
    for first, second in zip(results[0][0], results[-1][0], strict=True):
        np.testing.assert_array_equal(first, second)


def test_a_single_step_of_the_published_network_agrees_to_float_precision() -> None:
    """The default network has more of this in ``tests/integration/test_exactness.py``."""
    settings = SMALL_PUBLISHED
    whole, _ = trained(Connection.local(), slice(0, ROWS), ROWS, 1, settings)

    def rank(connection: Connection) -> list[np.ndarray]:
        cut = slice(0, 7) if connection.world.is_root else slice(7, ROWS)
        return trained(connection, cut, ROWS, 1, settings)[0]

    for variables in simulate(2, rank):
        for one, other in zip(whole, variables, strict=True):
            np.testing.assert_allclose(other, one, rtol=1e-5, atol=1e-6)


def test_agreement_draws_centroids_to_the_classes_and_ranks_agree_on_it() -> None:
    settings = SETTINGS.model_copy(update={"agreement": 1.0, "centroids": "classifier"})
    schedule = Schedule(3e-2, 0.9, 2.0, 1e-9)

    def rank(connection: Connection) -> tuple[list[np.ndarray], float, float]:
        size, number = connection.world.size, connection.world.rank
        model = network(seed=7)
        model.centroids.assign([[-1.0, 0.0], [0.5, 1.0], [1.0, -1.0]])
        step = TrainStep(connection, model, settings)
        rows = slice(number * ROWS // size, (number + 1) * ROWS // size)
        same = batch(0, rows, ROWS)
        same["target"] = tf.minimum(same["target"], 2)
        losses = [step(same, schedule) for _ in range(12)]
        assigned = [float(loss.total - loss.focal) for loss in losses]
        return [np.array(model.centroids)], assigned[0], assigned[-1]

    (alone,) = simulate(1, rank)
    assert alone[2] < 0.6 * alone[1]
    for found in simulate(2, rank):
        assert found[1] == pytest.approx(alone[1], rel=1e-5)
        np.testing.assert_allclose(found[0], alone[0], atol=1e-2)


def test_training_lowers_the_loss() -> None:
    model = network(seed=7)
    step = TrainStep(Connection.local(), model, SETTINGS)
    same = batch(0, slice(0, ROWS), ROWS)
    losses = [float(step(same, Schedule(5e-3, 0.9, 2.0, 0.0)).focal) for _ in range(40)]
    assert losses[-1] < 0.5 * losses[0]


def test_pre_training_leaves_the_centroids_alone() -> None:
    model = network(seed=7)
    step = TrainStep(Connection.local(), model, SETTINGS)
    for number in range(3):
        step(batch(number, slice(0, ROWS), ROWS), Schedule(1e-2, 0.9, 1.0, 0.0))
    np.testing.assert_array_equal(model.centroids, np.zeros((3, 2)))
