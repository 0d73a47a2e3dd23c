"""Nearest centroids, typicalities and sums over rows as functions of TensorFlow, for a GPU.

They compute what :mod:`sparton.sgd.compute` and :mod:`sparton.sgd.typicality` do, from the same float64 centroids, in
chunks of bounded memory. Products are float32 where the precision is; differences from centroids and all sums are
float64, so nothing cancels.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import DTypeLike, NDArray

from sparton.sgd import compute, typicality
from sparton.sgd.coordinates import Coordinates

Array = NDArray[Any]
Floats = NDArray[np.float64]
Tensor = Any

CHUNK_BYTES = 1 << 28
"""Size of the largest array of a chunk; there are some four at once."""


@dataclass(frozen=True)
class Tensors:
    """A :class:`sparton.sgd.backend.Backend` on a device of TensorFlow.

    Attributes
    ----------
    device
        Its name.
    chunk_bytes
        Size of the largest array of a chunk.
    """

    device: str = "/GPU:0"
    chunk_bytes: int = CHUNK_BYTES

    def nearest(
        self, rows: Array, coordinates: Coordinates, centroids: Floats, precision: DTypeLike
    ) -> NDArray[np.int32]:
        """Return the nearest centroid of each row."""
        places = self._places(coordinates, *compute.halved(centroids, precision))
        label = np.empty(len(rows), np.int32)
        for part in self._parts(rows, centroids):
            with full_precision():
                label[part] = _nearest(self.device, rows[part], *places).numpy()
        return label

    def cluster_sums(
        self, rows: Array, weight: Array, coordinates: Coordinates, centroids: Floats, precision: DTypeLike
    ) -> tuple[Floats, Floats, float]:
        """Return sums over the rows nearest to each centroid."""
        places = self._places(coordinates, *compute.halved(centroids, precision))
        exact = self._moved(centroids)
        residuals, counts, inertia = np.zeros_like(centroids), np.zeros(len(centroids)), 0.0
        for part in self._parts(rows, centroids):
            with full_precision():
                found = _cluster_sums(self.device, rows[part], weight[part], *places, exact)
                residuals += found[0].numpy()
                counts += found[1].numpy()
                inertia += float(found[2].numpy())
        return residuals, counts, inertia

    def most_typical(
        self, rows: Array, coordinates: Coordinates, centroids: Floats, widths: Floats, precision: DTypeLike
    ) -> NDArray[np.int32]:
        """Return the cluster in which each row is most typical."""
        places, dtype = self._places(coordinates, centroids, widths), np.dtype(precision)
        label = np.empty(len(rows), np.int32)
        for part in self._parts(rows, centroids):
            with full_precision():
                found, largest = _most_typical(self.device, dtype.name, rows[part], *places)
                label[part] = found.numpy()
            typicality.check_range(float(largest.numpy()), dtype)
        return label

    def typicality_sums(
        self,
        rows: Array,
        weight: Array,
        coordinates: Coordinates,
        centroids: Floats,
        widths: Floats,
        precision: DTypeLike,
    ) -> tuple[Floats, Floats]:
        """Return sums over rows of their typicalities."""
        places, dtype = self._places(coordinates, centroids, widths), np.dtype(precision)
        residuals, masses = np.zeros_like(centroids), np.zeros(len(centroids))
        for part in self._parts(rows, centroids):
            with full_precision():
                found = _typicality_sums(self.device, dtype.name, rows[part], weight[part], *places)
                residual, mass, largest = (value.numpy() for value in found)
            typicality.check_range(float(largest), dtype)
            residuals += residual
            masses += mass
        return residuals, masses

    def distances(self, rows: Array, coordinates: Coordinates, centroids: Floats) -> NDArray[np.float32]:
        """Return the distances of rows from all centroids."""
        places = self._places(coordinates, centroids)
        found = np.empty((len(rows), len(centroids)), np.float32)
        for part in self._parts(rows, centroids):
            found[part] = _distances(self.device, rows[part], *places).numpy()
        return found

    def _places(self, coordinates: Coordinates, *arrays: Array) -> list[Tensor]:
        """Return what all chunks share, on the device."""
        return [self._moved(array) for array in (coordinates.origin, coordinates.factor, *arrays)]

    def _moved(self, array: Array) -> Tensor:
        with tf.device(self.device):
            return tf.identity(tf.constant(array))

    def _parts(self, rows: Array, centroids: Floats) -> Iterator[slice]:
        chunk = max(1, self.chunk_bytes // (8 * max(centroids.shape)))
        return (slice(first, min(first + chunk, len(rows))) for first in range(0, len(rows), chunk))


_ONE_AT_A_TIME = threading.Lock()


@contextlib.contextmanager
def full_precision() -> Iterator[None]:
    """Keep GPUs from multiplying float32 with the ten bits of TensorFloat-32, which is TensorFlow's default.

    The switch is one for the process, so threads take turns.
    """
    with _ONE_AT_A_TIME:
        before = tf.config.experimental.tensor_float_32_execution_enabled()
        tf.config.experimental.enable_tensor_float_32_execution(False)
        try:
            yield
        finally:
            tf.config.experimental.enable_tensor_float_32_execution(before)


@tf.function(reduce_retracing=True)
def _nearest(device: str, rows: Tensor, origin: Tensor, factor: Tensor, centroids: Tensor, half: Tensor) -> Tensor:
    with tf.device(device):
        return _labels(_points(rows, origin, factor, centroids.dtype), centroids, half)


@tf.function(reduce_retracing=True)
def _cluster_sums(
    device: str,
    rows: Tensor,
    weight: Tensor,
    origin: Tensor,
    factor: Tensor,
    centroids: Tensor,
    half: Tensor,
    exact: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    with tf.device(device):
        label = _labels(_points(rows, origin, factor, centroids.dtype), centroids, half)
        share, k = tf.cast(weight, tf.float64), tf.shape(exact)[0]
        away = _points(rows, origin, factor, tf.float64) - tf.gather(exact, label)
        residuals = tf.math.unsorted_segment_sum(share[:, None] * away, label, k)
        counts = tf.math.unsorted_segment_sum(share, label, k)
        return residuals, counts, tf.reduce_sum(share * tf.reduce_sum(tf.square(away), axis=1))


@tf.function(reduce_retracing=True)
def _most_typical(
    device: str, precision: str, rows: Tensor, origin: Tensor, factor: Tensor, centroids: Tensor, widths: Tensor
) -> tuple[Tensor, Tensor]:
    with tf.device(device):
        square, largest = _squares(_points(rows, origin, factor, tf.float64), centroids, precision)
        return _first_smallest(square / widths), largest


@tf.function(reduce_retracing=True)
def _typicality_sums(
    device: str,
    precision: str,
    rows: Tensor,
    weight: Tensor,
    origin: Tensor,
    factor: Tensor,
    centroids: Tensor,
    widths: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    with tf.device(device):
        points = _points(rows, origin, factor, tf.float64)
        square, largest = _squares(points, centroids, precision)
        typical = tf.exp(square / -widths) * tf.cast(weight, tf.float64)[:, None]
        masses = tf.reduce_sum(typical, axis=0)
        residuals = tf.matmul(typical, points, transpose_a=True) - masses[:, None] * centroids
        return residuals, masses, largest


@tf.function(reduce_retracing=True)
def _distances(device: str, rows: Tensor, origin: Tensor, factor: Tensor, centroids: Tensor) -> Tensor:
    with tf.device(device):
        square, _ = _squares(_points(rows, origin, factor, tf.float64), centroids, "float64")
        return tf.cast(tf.sqrt(square), tf.float32)


def _points(rows: Tensor, origin: Tensor, factor: Tensor, dtype: Any) -> Tensor:
    # Origin and factor are numbers that float32 holds exactly.
    return (tf.cast(rows, dtype) - tf.cast(origin, dtype)) * tf.cast(factor, dtype)


def _labels(points: Tensor, centroids: Tensor, half: Tensor) -> Tensor:
    return _first_smallest(half - tf.matmul(points, centroids, transpose_b=True))


def _first_smallest(values: Tensor) -> Tensor:
    """Return where each row of [n, k] is smallest, int32 [n], the first place of several.

    ``tf.argmin`` leaves open which one that is. Places are numbers of the same type, since TensorFlow reduces int32 on
    the host.
    """
    places = tf.cast(tf.range(tf.shape(values)[1]), values.dtype)
    lowest = tf.reduce_min(values, axis=1, keepdims=True)
    last = places[-1]  # of a row without any number, whose sums will not be finite
    return tf.cast(tf.reduce_min(tf.where(values <= lowest, places, last), axis=1), tf.int32)


def _squares(points: Tensor, centroids: Tensor, precision: str) -> tuple[Tensor, Tensor]:
    """Return squared distances float64 [n, k], and the largest product that a point and a centroid may have."""
    own, other = tf.reduce_sum(tf.square(points), axis=1), tf.reduce_sum(tf.square(centroids), axis=1)
    products = tf.matmul(tf.cast(points, precision), tf.cast(centroids, precision), transpose_b=True)
    found = own[:, None] - 2 * tf.cast(products, tf.float64) + other
    largest = tf.sqrt(tf.reduce_max(own)) * tf.sqrt(tf.reduce_max(other))
    return tf.maximum(found, 0.0), largest
