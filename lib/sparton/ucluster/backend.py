"""Whether the network's hot loops run as compiled kernels or as operations that any Keras backend has."""

from __future__ import annotations

import contextlib
import importlib.util
import logging
from collections.abc import Iterator
from contextvars import ContextVar
from functools import cache
from types import ModuleType
from typing import Any

import keras

Tensor = Any

logger = logging.getLogger(__name__)

_portable: ContextVar[bool] = ContextVar("sparton_portable", default=False)


@contextlib.contextmanager
def portable() -> Iterator[None]:
    """Use nothing but operations that a SavedModel can hold, and that any device has."""
    token = _portable.set(True)
    try:
        yield
    finally:
        _portable.reset(token)


def kernels_for(tensor: Tensor) -> ModuleType | None:
    """Return the module of operations on compiled kernels if they can compute with this tensor here, else None.

    They need float32, TensorFlow without a GPU, and Numba; rows of half precision have none.
    """
    if _portable.get() or keras.backend.standardize_dtype(tensor.dtype) != "float32":
        return None
    return _kernels()


@cache
def _kernels() -> ModuleType | None:
    if keras.backend.backend() != "tensorflow":
        return None
    import tensorflow as tf

    if tf.config.list_logical_devices("GPU"):
        return None
    if importlib.util.find_spec("numba") is None:
        logger.info("without numba the network runs several times slower on a CPU; install it to change that")
        return None
    from sparton.ucluster.cpu import ops

    return ops
