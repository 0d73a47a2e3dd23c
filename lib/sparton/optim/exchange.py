"""The sum of gradients over ranks, in the precision in which they travel."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import tensorflow as tf

from sparton.distributed.collectives import Collectives
from sparton.optim.settings import ExchangePrecision


class GradientExchange:
    """Sums gradients over all ranks in one exchange, cast to half precision for the way on demand.

    The ranks' losses are shares of the mean over the global batch, so a sum of gradients is of the size of their mean:
    N ranks do not overflow where one does not. Of a gradient G on each rank, divided by N, the error of the sum of N
    terms in float16 is at most ``1.1 N 2^-11 mean|G| + N 2^-25 / S`` for each element, with S the loss scale. Infinite
    terms give a sum that is not finite, on all ranks.

    Parameters
    ----------
    collectives
        Of this rank.
    precision
        Type in which gradients travel and are summed; ``float32`` leaves them as they are.
    """

    def __init__(self, collectives: Collectives, precision: ExchangePrecision) -> None:
        self._collectives = collectives
        self._half = None if precision == "float32" else tf.as_dtype(precision)

    def __call__(self, gradients: Sequence[Any]) -> list[tf.Tensor]:
        """Return the sums, of the types of the gradients."""
        dense = [tf.convert_to_tensor(gradient) for gradient in gradients]
        sent = [gradient if self._half is None else tf.cast(gradient, self._half) for gradient in dense]
        totals = self._collectives.allreduce_sum(sent)
        return [tf.cast(total, gradient.dtype) for total, gradient in zip(totals, dense, strict=True)]

    def size(self, variables: Sequence[Any]) -> int:
        """Return how many bytes a rank passes to an exchange of the gradients of these variables."""
        types = (self._half or tf.as_dtype(variable.dtype) for variable in variables)
        return int(sum(math.prod(variable.shape) * kind.size for variable, kind in zip(variables, types, strict=True)))
