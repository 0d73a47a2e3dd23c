"""Training in half precision: what is half and what is not, near to single precision, and steps that are skipped."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from sparton.distributed import agreement
from sparton.distributed.collectives import Collectives, LocalCollectives
from sparton.distributed.simulate import simulate
from sparton.distributed.world import Connection
from sparton.errors import TrainingError
from sparton.optim.settings import LossScaleSettings
from sparton.ucluster.edges import edge_scores, edge_sums, mix_edges
from sparton.ucluster.graph import Graph, pack
from sparton.ucluster.networks import Network, create
from sparton.ucluster.normalisation import BatchContext, row_sums
from sparton.ucluster.precision import HALF
from sparton.ucluster.settings import ModelSettings, Precision, TrainSettings
from sparton.ucluster.step import Batch, Schedule, TrainStep
from tests.clouds import SLOTS, SMALL, SMALL_PUBLISHED, clouds, inputs

BOTH = pytest.mark.parametrize("settings", [SMALL, SMALL_PUBLISHED], ids=["default", "published"])
TRAINING = TrainSettings(focal_gamma=2.0, focal_scale=1.0, balance=0.5)
SCHEDULE = Schedule(learning_rate=1e-3, momentum=0.9, alpha=2.0, beta=0.3)
ROWS, LOCAL = 48, Connection.local()
EAGER = pytest.mark.usefixtures("eager")
MODEST = LossScaleSettings(initial=2.0**8)
"""No gradient of these small networks overflows with it; 2^15 is too much where one is larger than 2."""
CENTROIDS = [[-1.0, 0.0], [0.5, 1.0], [1.0, -1.0]]
FEATURES, COUNTS = clouds(np.random.default_rng(3).integers(1, SLOTS + 1, size=ROWS).tolist(), seed=8)


@pytest.fixture
def eager() -> Iterator[None]:
    """A few steps are quicker than their tracing."""
    tf.config.run_functions_eagerly(True)
    yield
    tf.config.run_functions_eagerly(False)


def training_with(**values: Any) -> TrainSettings:
    return TrainSettings.model_validate(TRAINING.model_dump() | values)


def network(precision: Precision | None, settings: ModelSettings = SMALL) -> Network:
    model = create(settings, inputs(), 7, precision)
    model.centroids.assign(CENTROIDS)
    return model


def batch(seed: int = 0, rows: slice = slice(None)) -> Batch:
    target = np.random.default_rng(seed).integers(0, 4, size=ROWS).astype(np.int32)
    columns = {"features": FEATURES, "n_particles": COUNTS, "target": target, "weight": np.ones(ROWS, np.float32)}
    return {name: tf.constant(values[rows]) for name, values in columns.items()}


def step_of(training: TrainSettings, settings: ModelSettings = SMALL, connection: Connection = LOCAL) -> TrainStep:
    return TrainStep(connection, network(training.precision, settings), training)


def bits(step: TrainStep) -> list[bytes]:
    """Return the bytes of all variables but those of the loss scale."""
    return [variable.numpy().tobytes() for variable in (*step.model.variables, *step.optimiser.variables)]


def gradient(training: TrainSettings, settings: ModelSettings = SMALL, stretch: float = 1.0) -> np.ndarray:
    """Return the gradient of the first step, which Adam's first moments then are but for a factor."""
    step, given = step_of(training, settings), batch()
    step(given | {"features": stretch * given["features"]}, SCHEDULE)
    moments = [variable for variable in step.optimiser.variables if variable.path.endswith("_momentum")]
    assert len(moments) == len(step.model.trainable_variables)
    return np.concatenate([np.ravel(moment.numpy()) for moment in moments]) / (1 - step.optimiser.beta_1)


@BOTH
@pytest.mark.parametrize("precision", HALF)
def test_products_on_particles_are_half_and_all_else_is_single(settings: ModelSettings, precision: Precision) -> None:
    model = network(precision, settings)
    reduced: list[str] = []
    averaged: list[str] = []

    def reduce(tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        reduced.extend(tensor.dtype.name for tensor in tensors)
        return list(tensors)

    context = BatchContext(reduce, 0.9, lambda variable, value: averaged.append(value.dtype.name))
    outputs = model(tf.constant(FEATURES), tf.constant(COUNTS), weight=tf.ones(ROWS), context=context)
    assert {outputs.embedding.dtype, outputs.logits.dtype} == {tf.float32}
    assert set(reduced) == set(averaged) == {"float32"}
    assert {variable.dtype for variable in model.variables} == {"float32"}
    if settings is SMALL:
        packing = pack(tf.constant(COUNTS), SLOTS)
        parts = model.particles(tf.constant(FEATURES), packing)
        assert model.pooled(tf.constant(FEATURES), packing).dtype == tf.float32
    else:
        encoded = model.body(tf.constant(FEATURES))
        parts = [*encoded.first, *encoded.second, *encoded.edges]
    assert {part.dtype.name for part in parts} == {precision}


@pytest.mark.parametrize("dtype", HALF)
def test_statistics_and_scores_are_single_and_do_not_overflow(dtype: str) -> None:
    """Squares and sums of these rows are beyond float16."""
    rng = np.random.default_rng(0)
    rows = tf.cast(rng.normal(300, 100, size=(2000, 3)), dtype)
    exact = tf.cast(rows, tf.float64).numpy()
    sums, same = row_sums(rows)
    assert same.dtype == tf.float32
    np.testing.assert_allclose(sums.total, exact.sum(axis=0), rtol=1e-5)
    np.testing.assert_allclose(sums.squares, (exact**2).sum(axis=0), rtol=1e-5)

    neighbour = rng.integers(0, 2000, size=(2000, 4)).astype(np.int32)
    graph = Graph(neighbour, np.full(2000, 4, np.int32), np.array([0, 2000], np.int32))
    weight = rng.integers(0, 2, size=2000).astype(np.float32)
    of_edges, _ = edge_sums(rows, graph, tf.constant(weight))
    # Differences are rounded to half precision.
    differences = tf.cast(rows[:, None] - tf.gather(rows, neighbour), tf.float64).numpy() * weight[:, None, None]
    np.testing.assert_allclose(of_edges.squares, (differences**2).sum(axis=(0, 1)), rtol=1e-4)
    assert float(of_edges.count) == 4 * weight.sum()
    affine = (tf.fill([3], 1e-3), tf.zeros(3))
    assert edge_scores(rows, graph, affine, tf.ones(3)).dtype == tf.float32
    mixed, largest = mix_edges(rows, graph, affine, tf.fill([2000, 4], 0.25))
    assert {mixed.dtype.name, largest.dtype.name} == {dtype}


NEAR = {"bfloat16": 0.5, "float16": 0.04}
"""Distance of gradients in units of their length.

A jet that rounding moves to the other side of a kink, ReLU's or of who is whose neighbour, changes it by 0.1: one of 48
jets, with few channels. In float16 most batches have none, in bfloat16 some.
"""

STRETCHES = (1.0, 1.1, 1.2)
"""Factors of the features, which make batches that are rounded differently."""


@EAGER
@BOTH
@pytest.mark.parametrize("precision", HALF)
def test_gradients_are_near_those_of_single_precision(settings: ModelSettings, precision: Precision) -> None:
    half = training_with(precision=precision, loss_scale=MODEST)
    distances = []
    for stretch in STRETCHES:
        expected, found = gradient(TRAINING, settings, stretch), gradient(half, settings, stretch)
        distances.append(np.linalg.norm(found - expected) / np.linalg.norm(expected))
    assert min(distances) > 0
    assert np.median(distances) < NEAR[precision], distances


@EAGER
def test_half_exchange_changes_gradients_by_its_rounding_alone() -> None:
    expected, found = gradient(TRAINING), gradient(training_with(exchange_precision="float16", loss_scale=MODEST))
    assert np.abs(found - expected).max() > 0
    np.testing.assert_allclose(found, expected, rtol=2.0**-10, atol=1e-6 * np.abs(expected).max())


@EAGER
def test_the_loss_scale_rescues_tiny_gradients() -> None:
    """A loss of 1e-9 has gradients in float16 that are 0, unless it is scaled."""
    size = 1e-9
    fixed, large = LossScaleSettings(initial=1, minimum=1, maximum=1), LossScaleSettings(initial=2.0**22)

    def moments(**values: Any) -> np.ndarray:
        step = step_of(training_with(focal_scale=size, **values))
        step(batch(), SCHEDULE._replace(beta=size))
        kernel = "adam/ucluster_attention_0_edge_kernel_momentum"
        (found,) = [variable.numpy() for variable in step.optimiser.variables if variable.path == kernel]
        return np.asarray(found)

    expected = moments()
    lost = moments(precision="float16", loss_scale=fixed)
    rescued = moments(precision="float16", loss_scale=large)
    norm = np.linalg.norm(expected)
    assert norm > 0
    assert np.linalg.norm(lost - expected) > 0.5 * norm
    assert np.linalg.norm(rescued - expected) < 0.1 * norm


def test_a_step_that_overflows_changes_nothing_but_the_loss_scale() -> None:
    rules = LossScaleSettings(initial=2.0**40, maximum=2.0**40)
    step = step_of(training_with(precision="float16", exchange_precision="float16", loss_scale=rules))
    before, skipped = bits(step), 0
    while True:
        losses = step(batch(skipped), SCHEDULE)
        assert np.isfinite(float(losses.total))
        if not losses.skipped:
            break
        skipped += 1
        assert bits(step) == before
        assert step.loss_scale is not None
        assert step.loss_scale.scale == 2.0 ** (40 - skipped)
        assert step.skipped == skipped
    assert skipped > 2
    changed = [one != other for one, other in zip(before, bits(step), strict=True)]
    assert sum(changed) > 0.9 * len(changed)
    # Only then the optimiser has made its first step: it corrects its moments by their number.
    assert int(step.optimiser.iterations.numpy()) == 1


@EAGER
def test_overflow_at_the_smallest_scale_ends_the_training() -> None:
    rules = LossScaleSettings(initial=2.0**60, minimum=2.0**60, maximum=2.0**60, patience=1)
    step = step_of(training_with(precision="float16", loss_scale=rules))
    step(batch(), SCHEDULE)
    with pytest.raises(TrainingError, match=r"overflowed in 2 steps in a row .* those of ucluster/\S+ and \d+ other"):
        step(batch(), SCHEDULE)


class Poisoned(Collectives):
    """Collectives of another kind, whose rank sends an infinite gradient while ``poison`` says so."""

    def __init__(self, inner: Collectives) -> None:
        self.inner = inner
        self.poison = tf.Variable(False)

    def allreduce_sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        bad = tf.where(self.poison, np.inf, 0.0)
        return self.inner.allreduce_sum(
            [tensor + tf.cast(bad, tf.float16) if tensor.dtype == tf.float16 else tensor for tensor in tensors]
        )

    def broadcast(self, variables: Sequence[Any], root: int = 0) -> None:
        self.inner.broadcast(variables, root)

    def broadcast_object(self, value: Any = None, root: int = 0) -> Any:
        return self.inner.broadcast_object(value, root)

    def allgather(self, array: Any) -> Any:
        return self.inner.allgather(array)

    def barrier(self) -> None:
        self.inner.barrier()

    def waited(self) -> float:
        return self.inner.waited()


@EAGER
def test_all_ranks_skip_what_overflows_on_one() -> None:
    training = training_with(precision="float16", exchange_precision="float16", loss_scale=MODEST)

    def rank(connection: Connection) -> list[bool]:
        collectives = Poisoned(connection.collectives)
        connection = replace(connection, collectives=collectives)
        number = connection.world.rank
        step = step_of(training, connection=connection)
        rows, skipped = slice(number * 16, (number + 1) * 16), []
        for index in range(3):
            collectives.poison.assign(number == 1 and index == 1)
            before = bits(step)
            skipped.append(bool(step(batch(index, rows), SCHEDULE).skipped))
            assert (bits(step) == before) is skipped[-1]
            agreement.check(connection, step.variables)
        return skipped

    assert simulate(2, rank, timeout_s=400) == [[False, True, False]] * 2


@EAGER
def test_a_step_exchanges_half_the_bytes() -> None:
    class Counting(LocalCollectives):
        def __init__(self) -> None:
            self.gradients = 0

        def allreduce_sum(self, tensors: Sequence[tf.Tensor]) -> list[tf.Tensor]:
            if len(tensors) == variables:
                self.gradients += sum(int(np.prod(tensor.shape)) * tensor.dtype.size for tensor in tensors)
            return super().allreduce_sum(tensors)

    variables, found = len(network("float32").trainable_variables), []
    for precision in ("float32", "float16"):
        counting = Counting()
        connection = replace(LOCAL, collectives=counting)
        step = step_of(training_with(exchange_precision=precision), connection=connection)
        step(batch(), SCHEDULE)
        assert counting.gradients == step.exchange_bytes
        found.append(counting.gradients)
    assert found[0] == 2 * found[1] > 0


def test_a_policy_of_keras_is_followed_and_kept_in_the_configuration() -> None:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("mixed_bfloat16")
    try:
        model = network(None)
    finally:
        keras.config.set_dtype_policy(before)
    copy = type(model).from_config(model.get_config())
    for one in (model, copy, network("bfloat16")):
        assert one.attention[0].compute_dtype == one.blocks[1][0].compute_dtype == "bfloat16"
        assert one.projection.compute_dtype == one.logits.compute_dtype == "float32"


def test_single_precision_has_no_loss_scale() -> None:
    for training, scaled in (
        (TRAINING, False),
        (training_with(precision="bfloat16"), False),
        (training_with(precision="float16"), True),
        (training_with(exchange_precision="float16"), True),
    ):
        assert (step_of(training).loss_scale is not None) is scaled
