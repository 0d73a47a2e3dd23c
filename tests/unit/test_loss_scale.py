"""The loss scale follows its rules, and rescues gradients that float16 would lose."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sparton.distributed.collectives import LocalCollectives
from sparton.distributed.simulate import simulate
from sparton.distributed.world import Connection
from sparton.errors import ConfigError, TrainingError
from sparton.optim.exchange import GradientExchange
from sparton.optim.loss_scale import LossScale, LossScaleState, advance, initial_state
from sparton.optim.settings import LossScaleSettings

RULES = st.builds(
    LossScaleSettings,
    initial=st.sampled_from([2.0**-2, 1.0, 2.0**5]),
    interval=st.integers(1, 4),
    growth=st.sampled_from([2.0, 4.0]),
    backoff=st.sampled_from([0.5, 0.25]),
    minimum=st.just(2.0**-3),
    maximum=st.just(2.0**6),
)


def reference(rules: LossScaleSettings, history: list[bool]) -> LossScaleState:
    """Return the state after steps that were finite or not, by the rules in plain words."""
    scale, good, skipped, failures = rules.initial, 0, 0, 0
    for finite in history:
        if finite:
            good, failures = good + 1, 0
            if good == rules.interval:
                scale, good = min(scale * rules.growth, rules.maximum), 0
        else:
            failures = failures + 1 if scale == rules.minimum else 0
            scale, good, skipped = max(scale * rules.backoff, rules.minimum), 0, skipped + 1
    return LossScaleState(scale, good, skipped, failures)


@settings(max_examples=60, deadline=None)
@given(RULES, st.lists(st.booleans(), max_size=30))
def test_transitions_are_those_of_the_rules(rules: LossScaleSettings, history: list[bool]) -> None:
    state = initial_state(rules)
    variables = LossScale(rules)
    for finite in history:
        state = advance(state, tf.constant(finite), rules)
        variables.update(tf.constant(finite))
    expected = reference(rules, history)
    assert tuple(float(value) for value in state) == expected
    assert tuple(float(value.numpy()) for value in variables.variables) == expected


def test_scaling_is_undone_exactly() -> None:
    scale = LossScale(LossScaleSettings(initial=2.0**7))
    values = tf.constant(np.random.default_rng(0).normal(size=50), tf.float32)
    np.testing.assert_array_equal(scale.unscaled([scale.scaled(values)])[0], values)
    np.testing.assert_array_equal(scale.scaled(values), 128 * values)


def test_overflow_without_end_is_an_error_that_names_variables_and_the_way_out() -> None:
    scale = LossScale(LossScaleSettings(initial=2, minimum=1, patience=2))
    for _ in range(3):
        scale.update(tf.constant(False))
        scale.check(["kernel"])
    scale.update(tf.constant(False))
    with pytest.raises(TrainingError, match=r"overflowed in 3 steps .* loss scale, 1; .* those of kernel and 1 other"):
        scale.check(["kernel", "bias"])


def test_limits_must_hold_the_first_scale() -> None:
    with pytest.raises(ConfigError, match="minimum <= initial <= maximum"):
        LossScaleSettings(initial=8, maximum=4)


CLASSES = 3
INPUTS = np.random.default_rng(1).normal(size=(96, 6)).astype(np.float32)
TARGETS = (INPUTS @ np.random.default_rng(2).normal(size=(6, CLASSES))).argmax(axis=1).astype(np.int32)


def accuracy(connection: Connection, size: float, precision: Any, rules: LossScaleSettings) -> tuple[float, int]:
    """Train a layer on this rank's rows, with all gradients ``size`` times what they are; return how well it does.

    The learning rate undoes the size, so nothing but the precision of the exchange makes a difference.
    """
    world = connection.world
    inputs, targets = (tf.constant(values[world.rank :: world.size]) for values in (INPUTS, TARGETS))
    kernel, scale = tf.Variable(tf.zeros((6, CLASSES))), LossScale(rules)
    exchange = GradientExchange(connection.collectives, precision)

    @tf.function
    def step() -> None:
        with tf.GradientTape() as tape:
            rows = tf.nn.sparse_softmax_cross_entropy_with_logits(targets, inputs @ kernel)
            loss = scale.scaled(size * tf.reduce_sum(rows) / len(INPUTS))
        (gradient,) = exchange([tape.gradient(loss, kernel)])
        finite = tf.reduce_all(tf.math.is_finite(gradient))
        (unscaled,) = scale.unscaled([gradient])
        kernel.assign(tf.where(finite, kernel - 2.0 / size * unscaled, kernel))
        scale.update(finite)

    for _ in range(60):
        step()
    return float(np.mean(np.argmax(INPUTS @ kernel.numpy(), axis=1) == TARGETS)), scale.skipped


FIXED = LossScaleSettings(initial=1, minimum=1, maximum=1)
DYNAMIC = LossScaleSettings()


@pytest.mark.parametrize(
    ("size", "precision", "rules", "learns", "skips"),
    [
        (1e-7, "float32", FIXED, True, False),
        (1e-7, "float16", FIXED, False, False),  # gradients below 6e-8 are 0 in float16
        (1e-7, "float16", DYNAMIC, True, False),
        (3e6, "float16", FIXED, False, True),  # those above 65504 are infinite
        (3e6, "float16", DYNAMIC, True, True),
    ],
)
def test_tiny_and_huge_gradients_are_rescued(
    size: float, precision: Any, rules: LossScaleSettings, learns: bool, skips: bool
) -> None:
    (found, skipped), *others = simulate(2, lambda connection: accuracy(connection, size, precision, rules))
    assert others == [(found, skipped)]
    assert (found > 0.9) is learns
    assert learns or found < 0.6
    assert (skipped > 0) is skips


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 5), st.integers(0, 1000), st.sampled_from([1.0, 2.0**15]))
def test_half_exchange_is_the_sum_within_the_bound(ranks: int, seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    exponents = rng.uniform(-6, 0, size=(ranks, 300))
    gradients = rng.choice([-1, 1], size=exponents.shape) * 10**exponents

    def run(connection: Connection) -> np.ndarray:
        own = tf.constant(gradients[connection.world.rank] * scale / ranks, tf.float32)
        return GradientExchange(connection.collectives, "float16")([own])[0].numpy() / scale

    results = simulate(ranks, run)
    error = np.abs(results[0] - gradients.mean(axis=0))
    bound = 1.1 * ranks * 2.0**-11 * np.abs(gradients).mean(axis=0) + ranks * 2.0**-25 / scale
    assert (error <= bound).all()
    for other in results:
        np.testing.assert_array_equal(other, results[0])


@pytest.mark.parametrize("sent", [(np.inf, 1.0), (np.inf, -np.inf), (np.nan, 0.0), (6e4, 6e4), (1e6, 1.0)])
def test_what_overflows_on_one_rank_or_in_the_sum_is_seen_by_all(sent: tuple[float, float]) -> None:
    def run(connection: Connection) -> bool:
        (total,) = GradientExchange(connection.collectives, "float16")(
            [tf.constant([1.0, sent[connection.world.rank]])]
        )
        assert float(total[0]) == 2
        return bool(tf.math.is_finite(total[1]))

    assert simulate(2, run) == [False, False]


class Counting(LocalCollectives):
    """Counts the bytes that one trace of a step exchanges."""

    def __init__(self) -> None:
        self.bytes: list[int] = []

    def allreduce_sum(self, tensors: Any) -> list[tf.Tensor]:
        self.bytes.append(sum(int(np.prod(tensor.shape)) * tensor.dtype.size for tensor in tensors))
        return super().allreduce_sum(tensors)


def test_half_precision_halves_the_bytes() -> None:
    variables = [tf.zeros((3, 4)), tf.zeros(5), tf.zeros(())]
    for precision, size in (("float32", 72), ("float16", 36)):
        counting = Counting()
        exchange = GradientExchange(counting, precision)
        assert {total.dtype for total in exchange(variables)} == {tf.float32}
        assert counting.bytes == [exchange.size(variables)] == [size]
