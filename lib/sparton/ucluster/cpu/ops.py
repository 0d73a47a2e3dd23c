"""The kernels as TensorFlow operations with gradients."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from sparton.ucluster.cpu import kernels
from sparton.ucluster.cpu.memory import empty
from sparton.ucluster.cpu.threads import bounds, each_part

Tensor = Any
Array = NDArray[Any]

FLOAT, INT = tf.float32, tf.int32


def nearest_angles(eta: Tensor, phi: Tensor, offsets: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return neighbours int32[M, k] and their numbers int32[M] for angles [M]; see :class:`Graph`."""

    def run(eta: Array, phi: Array, offsets: Array) -> tuple[Array, Array]:
        neighbour, degree = empty((eta.size, k), np.int32), empty((eta.size,), np.int32)
        each_part(bounds(offsets.size - 1), kernels.nearest_angles, eta, phi, offsets, neighbour, degree)
        return neighbour, degree

    neighbour, degree = _call(run, [eta, phi, offsets], [(INT, (None, k)), (INT, (None,))])
    return neighbour, degree


def nearest_points(points: Tensor, offsets: Tensor, k: int) -> tuple[Tensor, Tensor]:
    """Return neighbours int32[M, k] and their numbers int32[M] for points [M, C]."""

    def run(points: Array, offsets: Array) -> tuple[Array, Array]:
        neighbour, degree = empty((len(points), k), np.int32), empty((len(points),), np.int32)
        each_part(bounds(offsets.size - 1), kernels.nearest_points, points, offsets, neighbour, degree)
        return neighbour, degree

    neighbour, degree = _call(run, [points, offsets], [(INT, (None, k)), (INT, (None,))])
    return neighbour, degree


def nearest_slots(products: Tensor, squares: Tensor, angle: Tensor, shift: Tensor, offsets: Tensor, k: int) -> Tensor:
    """Return neighbours int32[M, k] by what distances of slots are made of, [B, P, P] and three times [B, P].

    A jet's slots from its last node on are equal, and are that node.
    """

    def run(products: Array, squares: Array, angle: Array, shift: Array, offsets: Array) -> Array:
        neighbour = empty((int(offsets[-1]), k), np.int32)
        parts = (products, squares, angle, shift)
        each_part(bounds(offsets.size - 1), kernels.nearest_slots, *parts, offsets, neighbour)
        return neighbour

    return _call(run, [products, squares, angle, shift, offsets], [(INT, (None, k))])[0]


class Edges(NamedTuple):
    """The edges between nodes: neighbours int32[M, k], how many exist int32[M], first node of each jet int32[B + 1]."""

    neighbour: Tensor
    degree: Tensor
    offsets: Tensor


def edge_sums(nodes: Tensor, weight: Tensor, edges: Edges) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum [C] of ``x_i - x_j`` over all edges, that of the squares, and the nodes.

    The edges of node i count ``weight[i]`` times. What is computed of the nodes that are returned adds its gradient to
    that of the sums in one pass.
    """
    channels = nodes.shape[1]

    def forward(nodes: Array, weight: Array, neighbour: Array, degree: Array, offsets: Array) -> Any:
        sums = _sums(2, channels)
        each_part(_rows_of(offsets), kernels.edge_sums, nodes, weight, neighbour, degree, sums=sums)
        return sums

    def backward(nodes: Array, weight: Array, neighbour: Array, degree: Array, offsets: Array, *slopes: Array) -> Array:
        d_total, d_squares, d_carried = slopes
        d_nodes = empty(nodes.shape)
        d_nodes[...] = d_carried
        each_part(
            _rows_of(offsets), kernels.edge_sums_backward,
            nodes, weight, neighbour, degree, d_total, d_squares, d_nodes,
        )  # fmt: skip
        return d_nodes

    @tf.custom_gradient
    def operation(nodes: Tensor) -> Any:
        inputs = [nodes, weight, *edges]

        def gradient(*slopes: Tensor) -> Tensor:
            return _call(backward, [*inputs, *slopes], [(FLOAT, (None, channels))])[0]

        return (*_call(forward, inputs, [(FLOAT, (channels,))] * 2), tf.identity(nodes)), gradient

    return operation(nodes)


def edge_scores(nodes: Tensor, scale: Tensor, shift: Tensor, weight: Tensor, edges: Edges) -> Tensor:
    """Return ``w . ReLU((x_i - x_j) scale + shift)`` [M, k]; 0 where there is no edge. Scale, shift and w are [C]."""
    channels, k = nodes.shape[1], edges.neighbour.shape[1]

    def forward(nodes: Array, neighbour: Array, degree: Array, offsets: Array, *rest: Array) -> Array:
        scores = empty(neighbour.shape)
        each_part(_rows_of(offsets), kernels.edge_scores, nodes, neighbour, degree, *rest, scores)
        return scores

    def backward(nodes: Array, neighbour: Array, degree: Array, offsets: Array, *rest: Array) -> Any:
        d_nodes, sums = _zeros(nodes.shape), _sums(3, channels)
        each_part(_rows_of(offsets), kernels.edge_scores_backward, nodes, neighbour, degree, *rest, d_nodes, sums=sums)
        return d_nodes, *sums

    @tf.custom_gradient
    def operation(nodes: Tensor, scale: Tensor, shift: Tensor, weight: Tensor) -> Any:
        inputs = [nodes, *edges, scale, shift, weight]

        def gradient(d_scores: Tensor) -> Any:
            shapes: list[Any] = [(None, channels), *[(channels,)] * 3]
            return _call(backward, [*inputs, d_scores], [(FLOAT, shape) for shape in shapes])

        return _call(forward, inputs, [(FLOAT, (None, k))])[0], gradient

    return operation(nodes, scale, shift, weight)


def mix_edges(nodes: Tensor, scale: Tensor, shift: Tensor, shares: Tensor, edges: Edges) -> tuple[Tensor, Tensor]:
    """Return ``sum_j a_ij e_ij`` and ``max_j e_ij``, [M, C] each, of ``e_ij = ReLU((x_i - x_j) scale + shift)``.

    ``shares`` [M, k] are the a_ij. Both results are 0 for a node without edges.
    """
    channels, k = nodes.shape[1], edges.neighbour.shape[1]

    def forward(nodes: Array, neighbour: Array, degree: Array, offsets: Array, *rest: Array) -> Any:
        mixed, peak = empty(nodes.shape), empty(nodes.shape)
        each_part(_rows_of(offsets), kernels.mix_edges, nodes, neighbour, degree, *rest, mixed, peak)
        return mixed, peak

    def backward(nodes: Array, neighbour: Array, degree: Array, offsets: Array, *rest: Array) -> Any:
        d_nodes, d_shares, sums = _zeros(nodes.shape), empty(neighbour.shape), _sums(2, channels)
        each_part(
            _rows_of(offsets), kernels.mix_edges_backward, nodes, neighbour, degree, *rest, d_nodes, d_shares, sums=sums
        )
        return d_nodes, *sums, d_shares

    @tf.custom_gradient
    def operation(nodes: Tensor, scale: Tensor, shift: Tensor, shares: Tensor) -> Any:
        inputs = [nodes, *edges, scale, shift, shares]

        def gradient(d_mixed: Tensor, d_peak: Tensor) -> Any:
            shapes: list[Any] = [(None, channels), (channels,), (channels,), (None, k)]
            return _call(backward, [*inputs, d_mixed, d_peak], [(FLOAT, shape) for shape in shapes])

        return tuple(_call(forward, inputs, [(FLOAT, (None, channels))] * 2)), gradient

    return operation(nodes, scale, shift, shares)


def column_sums(rows: Tensor, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Return the sum [C] of rows [M, C], which count ``weight`` [M], that of their squares, and the rows.

    What is computed of these rows adds its gradient to that of the sums in one pass.
    """
    channels = rows.shape[1]

    def forward(rows: Array, weight: Array) -> Any:
        sums = _sums(2, channels)
        each_part(bounds(len(rows)), kernels.column_sums, rows, weight, sums=sums)
        return sums

    def backward(rows: Array, *rest: Array) -> Array:
        d_rows = empty(rows.shape)
        each_part(bounds(len(rows)), kernels.column_sums_backward, rows, *rest, d_rows)
        return d_rows

    @tf.custom_gradient
    def operation(rows: Tensor) -> Any:
        def gradient(*slopes: Tensor) -> Tensor:
            return _call(backward, [rows, weight, *slopes], [(FLOAT, (None, channels))])[0]

        return (*_call(forward, [rows, weight], [(FLOAT, (channels,))] * 2), tf.identity(rows)), gradient

    return operation(rows)


def scaled_relu(rows: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """Return ``ReLU(x scale + shift)`` for rows [M, C]."""
    channels = rows.shape[1]

    def forward(rows: Array, scale: Array, shift: Array) -> Array:
        result = empty(rows.shape)
        each_part(bounds(len(rows)), kernels.scaled_relu, rows, scale, shift, result)
        return result

    def backward(rows: Array, *rest: Array) -> Any:
        d_rows, sums = empty(rows.shape), _sums(2, channels)
        each_part(bounds(len(rows)), kernels.scaled_relu_backward, rows, *rest, d_rows, sums=sums)
        return d_rows, *sums

    @tf.custom_gradient
    def operation(rows: Tensor, scale: Tensor, shift: Tensor) -> Any:
        inputs = [rows, scale, shift]

        def gradient(d_result: Tensor) -> Any:
            shapes: list[Any] = [(None, channels), (channels,), (channels,)]
            return _call(backward, [*inputs, d_result], [(FLOAT, shape) for shape in shapes])

        return _call(forward, inputs, [(FLOAT, (None, channels))])[0], gradient

    return operation(rows, scale, shift)


def shifted_relu(rows: Tensor, shift: Tensor) -> Tensor:
    """Return ``ReLU(x + shift)`` for rows [M, C]; TensorFlow makes it part of the product that gave the rows."""
    return tf.nn.relu(tf.nn.bias_add(rows, shift))


def segment_sum(rows: Tensor, segment: Tensor, count: Tensor | int) -> Tensor:
    """Return the sums [count, C] of rows [M, C] whose segments int32[M] rise, 0 for those without rows.

    TensorFlow's operation for rising segments is three times as fast as that for any, which Keras takes.
    """
    found = tf.math.segment_sum(rows, segment)
    padded = tf.pad(found, [[0, count - tf.shape(found)[0]], [0, 0]])
    return tf.ensure_shape(padded, (count if isinstance(count, int) else None, rows.shape[1]))


def _rows_of(offsets: Array) -> list[int]:
    """Return the limits of parts of the nodes that hold whole jets: an edge never leaves its part."""
    return [int(offsets[jet]) for jet in bounds(offsets.size - 1)]


def _call(function: Callable[..., Any], inputs: Sequence[Tensor], outputs: Sequence[tuple[Any, Any]]) -> list[Tensor]:
    """Run a function of arrays as an operation whose results have these types and shapes."""
    found = tf.numpy_function(function, inputs, [kind for kind, _ in outputs], stateful=False)
    found = list(found) if isinstance(found, list | tuple) else [found]
    for tensor, (_, shape) in zip(found, outputs, strict=True):
        tensor.set_shape(shape)
    return found


def _sums(count: int, channels: int) -> tuple[Array, ...]:
    return tuple(np.zeros(channels, np.float32) for _ in range(count))


def _zeros(shape: Sequence[int]) -> Array:
    array = empty(shape)
    array[...] = 0
    return array
