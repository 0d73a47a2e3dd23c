"""Batch normalisation whose statistics are sums over the real rows of all ranks.

With them N workers with B jets each compute what one worker computes with N B jets: counts, sums and sums of squares
are added over ranks within the forward pass, and so are, in the backward pass, the gradients that flow through them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from keras import ops

from sparton.ucluster.backend import kernels_for
from sparton.ucluster.precision import MixedLayer, single

Tensor = Any


def _assign(variable: Any, value: Tensor) -> None:
    variable.assign(value)


@dataclass(frozen=True)
class BatchContext:
    """What layers need to know of a training step; inference passes None instead.

    Attributes
    ----------
    reduce
        Sums each tensor over all ranks; differentiable as the sum of the ranks' losses.
    momentum
        Weight of the past in the moving averages, scalar in [0, 1).
    assign
        Takes a moving average and its next value; it is assigned at once unless the step has yet to be found valid.
    """

    reduce: Callable[[Sequence[Tensor]], list[Tensor]]
    momentum: Tensor
    assign: Callable[[Any, Tensor], None] = _assign

    def average(self, variable: Any, value: Tensor) -> None:
        """Draw a moving average towards a value; no gradient flows through it."""
        self.assign(variable, self.momentum * variable + (1 - self.momentum) * ops.stop_gradient(value))


class Sums(NamedTuple):
    """Additive statistics of rows: their count (scalar), sum [C] and sum of squares [C]."""

    count: Tensor
    total: Tensor
    squares: Tensor


Affine = tuple[Tensor, Tensor]
"""Scale and shift, [C] each."""


def row_sums(rows: Tensor, weight: Tensor | None = None) -> tuple[Sums, Tensor]:
    """Return the sums of rows [n, C], each counted ``weight`` [n] times; once without it; and the rows.

    The rows are to be used after their sums: so the gradients of both are added in one pass. Those of half precision
    are returned, and summed, in single precision.
    """
    rows = single(rows)
    weight = ops.ones_like(rows[:, 0]) if weight is None else weight
    kernels = kernels_for(rows)
    if kernels is not None:
        total, squares, rows = kernels.column_sums(rows, weight)
    else:
        total, squares = (ops.matmul(weight[None, :], values)[0] for values in (rows, rows * rows))
    return Sums(ops.sum(weight), total, squares), rows


def scaled_relu(rows: Tensor, affine: Affine, dtype: Any = None) -> Tensor:
    """Return ``ReLU(x scale + shift)`` for rows [n, C], in a dtype of choice; that of the rows without one.

    Rows of half precision are scaled and shifted in single precision.
    """
    scale, shift = affine
    dtype = rows.dtype if dtype is None else dtype
    rows = single(rows)
    kernels = kernels_for(rows)
    if kernels is not None:
        return ops.cast(kernels.scaled_relu(rows, scale, shift), dtype)
    return ops.relu(ops.cast(rows * scale + shift, dtype))


def shifted_relu(rows: Tensor, shift: Tensor) -> Tensor:
    """Return ``ReLU(x + shift)`` for rows [n, C], in their dtype."""
    kernels = kernels_for(rows)
    if kernels is not None:
        return kernels.shifted_relu(rows, shift)
    return ops.relu(ops.cast(single(rows) + shift, rows.dtype))


def reduce_sums(parts: Sequence[Sums], context: BatchContext) -> list[Sums]:
    """Return several statistics summed over all ranks in one exchange."""
    flat = context.reduce([tensor for part in parts for tensor in part])
    return [Sums(*flat[index : index + 3]) for index in range(0, len(flat), 3)]


class BatchNorm(MixedLayer):
    """Shift and scale each channel to mean 0 and variance 1 over the batch, then by learnt values.

    It computes in the dtype of its variables whatever that of the rows is.

    Parameters
    ----------
    epsilon
        Added to the variance.
    affine
        Whether shift and scale are learnt.
    """

    def __init__(self, epsilon: float = 1e-3, affine: bool = True, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.affine = affine

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create one value for each channel, the last axis of the input."""
        shape = (input_shape[-1],)
        if self.affine:
            self.gamma = self.add_weight(name="gamma", shape=shape, initializer="ones")
            self.beta = self.add_weight(name="beta", shape=shape, initializer="zeros")
        self.moving_mean = self.add_weight(name="moving_mean", shape=shape, initializer="zeros", trainable=False)
        self.moving_variance = self.add_weight(name="moving_variance", shape=shape, initializer="ones", trainable=False)

    def call(self, rows: Tensor, weight: Tensor | None = None, context: BatchContext | None = None) -> Tensor:
        """Return rows [n, C] normalised; in training by the rows of all ranks, each counted ``weight`` [n] times."""
        rows, (scale, shift) = self.affine_of(rows, weight, context)
        return rows * scale + shift

    def rectified(self, rows: Tensor, weight: Tensor | None = None, context: BatchContext | None = None) -> Tensor:
        """Return the ReLU of rows normalised as by :meth:`call`, in the compute dtype."""
        return scaled_relu(*self.affine_of(rows, weight, context), self.compute_dtype)

    def affine_of(self, rows: Tensor, weight: Tensor | None, context: BatchContext | None) -> tuple[Tensor, Affine]:
        """Return the rows in the dtype of the variables, and the scale and shift that normalise them."""
        rows = ops.cast(rows, self.variable_dtype)
        if context is None:
            return rows, self.scale_and_shift(None, None)
        sums, rows = row_sums(rows, weight)
        return rows, self.scale_and_shift(reduce_sums([sums], context)[0], context)

    def scale_and_shift(self, sums: Sums | None, context: BatchContext | None, offset: Tensor | float = 0) -> Affine:
        """Return [C] each, so that ``rows * scale + shift`` is normalised.

        Parameters
        ----------
        sums
            Statistics over all ranks, from which the moving averages are updated; None takes the latter.
        context
            The training step; None in inference.
        offset
            Added to the mean that enters the moving average, [C].
        """
        if sums is None or context is None:
            mean, variance = self.moving_mean, self.moving_variance
        else:
            count = ops.maximum(sums.count, 1)
            mean = sums.total / count
            variance = ops.maximum(sums.squares / count - ops.square(mean), 0)
            context.average(self.moving_mean, mean + offset)
            context.average(self.moving_variance, variance)
        scale = ops.rsqrt(variance + self.epsilon)
        shift = -mean * scale
        if not self.affine:
            return scale, shift
        # No tensor has more than two uses: TensorFlow adds the gradients of three in an order that changes by trace.
        return self.gamma * scale, self.beta + self.gamma * shift

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "epsilon": self.epsilon, "affine": self.affine}
