"""Dynamic loss scaling: gradients of float16 are kept away from zero by a factor that overflows only now and then.

The loss is multiplied by the scale before the backward pass, and gradients are divided by it after their exchange
between ranks (Micikevicius et al., arXiv:1710.03740). Whether they are finite is asked of the sums over ranks, in
which an infinity of any rank survives: so all ranks skip a step, or none.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import keras
import tensorflow as tf

from sparton.errors import TrainingError
from sparton.optim.settings import LossScaleSettings


class LossScaleState(NamedTuple):
    """What decides the scale of the next step.

    Attributes
    ----------
    scale
        float32: the factor.
    good
        int32: steps since it last changed, all without overflow.
    skipped
        int32: steps that overflowed in all.
    failures
        int32: of these the last ones in a row at the smallest scale.
    """

    scale: Any
    good: Any
    skipped: Any
    failures: Any


def initial_state(settings: LossScaleSettings) -> LossScaleState:
    """Return the state before the first step."""
    return LossScaleState(settings.initial, 0, 0, 0)


def advance(state: LossScaleState, finite: tf.Tensor, settings: LossScaleSettings) -> LossScaleState:
    """Return the state after a step whose gradients were ``finite``, a scalar bool, or not."""
    scale, good, skipped, failures = state
    grows = good + 1 >= settings.interval
    grown = tf.where(grows, tf.minimum(scale * settings.growth, settings.maximum), scale)
    reduced = tf.maximum(scale * settings.backoff, settings.minimum)
    return LossScaleState(
        scale=tf.where(finite, grown, reduced),
        good=tf.where(tf.logical_or(tf.logical_not(finite), grows), 0, good + 1),
        skipped=tf.where(finite, skipped, skipped + 1),
        failures=tf.where(tf.logical_or(finite, scale > settings.minimum), 0, failures + 1),
    )


class LossScale:
    """The scale as variables, which belong into checkpoints; equal on all ranks if the exchanged gradients are."""

    def __init__(self, settings: LossScaleSettings) -> None:
        self._settings = settings
        types = LossScaleState("float32", "int32", "int32", "int32")
        self._state = LossScaleState(
            *(
                keras.Variable(value, dtype=dtype, trainable=False, name=f"loss_scale_{field}")
                for field, value, dtype in zip(LossScaleState._fields, initial_state(settings), types, strict=True)
            )
        )

    @property
    def variables(self) -> list[Any]:
        """The variables of the state."""
        return list(self._state)

    @property
    def scale(self) -> float:
        """The factor of the next step."""
        return float(self._state.scale.numpy())

    @property
    def skipped(self) -> int:
        """Steps that were skipped so far."""
        return int(self._state.skipped.numpy())

    def scaled(self, loss: tf.Tensor) -> tf.Tensor:
        """Return the loss times the scale."""
        return loss * self._state.scale.value

    def unscaled(self, gradients: Sequence[tf.Tensor]) -> list[tf.Tensor]:
        """Return float32 gradients of the scaled loss divided by the scale."""
        return [gradient / self._state.scale.value for gradient in gradients]

    def update(self, finite: tf.Tensor) -> None:
        """Take the next state: ``finite`` is a scalar bool."""
        state = LossScaleState(*(variable.value for variable in self._state))
        for variable, value in zip(self._state, advance(state, finite, self._settings), strict=True):
            variable.assign(value)

    def check(self, overflowed: Sequence[str]) -> None:
        """Give up where a smaller scale would be of no use.

        Parameters
        ----------
        overflowed
            Names of the variables whose gradients were not finite in the last step.

        Raises
        ------
        TrainingError
            If more steps in a row overflowed at the smallest scale than the settings bear.
        """
        failures = int(self._state.failures.numpy())
        if failures > self._settings.patience:
            raise TrainingError(
                f"gradients overflowed in {failures} steps in a row at the smallest loss scale, "
                f"{self._settings.minimum:g}; in the last one those of {overflowed[0]} and {len(overflowed) - 1} other "
                "variables. Lower train.learning_rate or train.loss_scale.minimum, take train.precision: bfloat16 with "
                "train.exchange_precision: float32, or look for broken rows in the set"
            )
