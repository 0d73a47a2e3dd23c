"""Which numbers of a network are half precision, decided here and by the dtype policy of its layers.

A layer of policy ``mixed_float16`` or ``mixed_bfloat16`` multiplies matrices in the policy's compute dtype and returns
its results in it. Everything else is of its variables' dtype, float32: weights, statistics and averages of
normalisation, softmax, distances, sums over particles. A plain policy, such as ``float32``, has one dtype for all.
"""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

from sparton.ucluster.settings import Precision

Tensor = Any

POLICIES: dict[Precision, str] = {"float32": "float32", "bfloat16": "mixed_bfloat16", "float16": "mixed_float16"}
"""The Keras dtype policy of each precision."""

HALF = ("bfloat16", "float16")


def single(tensor: Tensor) -> Tensor:
    """Return a tensor of half precision in float32, and any other as it is."""
    return ops.cast(tensor, "float32") if keras.backend.standardize_dtype(tensor.dtype) in HALF else tensor


def product(rows: Tensor, kernel: Tensor, dtype: str) -> Tensor:
    """Return ``x W`` [n, units] of rows [n, C] and a kernel [C, units], both taken in ``dtype``."""
    return ops.matmul(ops.cast(rows, dtype), ops.cast(kernel, dtype))


class MixedLayer(keras.layers.Layer):
    """A layer whose own code says what its compute dtype is used for.

    Keras would cast all of the inputs and all of the variables: the rows' weights, and the scale of a normalisation.
    """

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**{"autocast": False, **kwargs})

    def add_weight(self, **kwargs: Any) -> Any:
        """Create a variable that is read in its own dtype."""
        return super().add_weight(**{"autocast": False, **kwargs})
