"""Layers on nodes: shared dense layers with batch normalisation, and graph attention.

Biases in front of a batch normalisation are left out: it would cancel them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import keras
from keras import ops

from sparton.ucluster.edges import edge_scores, edge_sums, mix_edges
from sparton.ucluster.graph import Graph
from sparton.ucluster.normalisation import (
    Affine,
    BatchContext,
    BatchNorm,
    reduce_sums,
    row_sums,
    scaled_relu,
    shifted_relu,
)
from sparton.ucluster.precision import MixedLayer, product, single

Tensor = Any

LEAK = 0.2  # slope of the attention's LeakyReLU below 0
SMALL = 1e-12  # keeps the softmax of a node without neighbours finite, and its square the gradient


def multiply_parts(parts: Sequence[Tensor], kernel: Tensor, dtype: str) -> Tensor:
    """Return ``x W`` [n, units] for x [n, C] in parts [n, C_i], all taken in ``dtype``.

    Where the result is wider than x it is cheaper to join the parts than to add their products.
    """
    parts = [ops.cast(part, dtype) for part in parts]
    widths = [part.shape[-1] for part in parts]
    if len(parts) > 1 and sum(widths) < kernel.shape[-1] * len(parts):
        return product(ops.concatenate(parts, axis=-1), kernel, dtype)
    total, row = None, 0
    for part, width in zip(parts, widths, strict=True):
        summand = product(part, kernel[row : row + width], dtype)
        total = summand if total is None else total + summand
        row += width
    return total


def stored_dense(parts: Sequence[Tensor], kernel: Tensor, affine: Affine, dtype: str) -> Tensor:
    """Return ``ReLU(x W scale + shift)`` [n, units] for parts of x, taken in ``dtype``.

    With stored statistics the scale goes into W, which spares a pass over the result.
    """
    scale, shift = affine
    return shifted_relu(multiply_parts(parts, kernel * scale, dtype), shift)


class DenseNorm(MixedLayer):
    """``ReLU(BN(x W))`` for rows that are given in parts, which are multiplied without being joined.

    Parameters
    ----------
    units
        Channels of the result.
    epsilon
        Of the batch normalisation.
    seed
        Of the Glorot-uniform initial weights.
    """

    def __init__(self, units: int, epsilon: float = 1e-3, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.epsilon = epsilon
        self.seed = seed
        self.norm = BatchNorm(epsilon, name="norm", dtype=self.dtype_policy)

    def build(self, input_shape: Any) -> None:
        """Create a kernel with as many rows as the parts have channels together."""
        shapes = input_shape if isinstance(input_shape[0], tuple | list) else [input_shape]
        self.kernel = self.add_weight(
            name="kernel",
            shape=(sum(shape[-1] for shape in shapes), self.units),
            initializer=keras.initializers.GlorotUniform(seed=self.seed),
        )
        self.norm.build((None, self.units))

    def call(
        self, parts: Tensor | Sequence[Tensor], weight: Tensor | None = None, context: BatchContext | None = None
    ) -> Tensor:
        """Return [n, units] for parts [n, C_i]; rows count ``weight`` [n] times in the statistics."""
        if context is None:
            return stored_dense(_listed(parts), self.kernel, self.norm.scale_and_shift(None, None), self.compute_dtype)
        return self.norm.rectified(self.linear(parts), weight, context)

    def linear(self, parts: Tensor | Sequence[Tensor]) -> Tensor:
        """Return ``x W`` [n, units], before the normalisation."""
        return multiply_parts(_listed(parts), self.kernel, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "units": self.units, "epsilon": self.epsilon, "seed": self.seed}


class Projection(MixedLayer):
    """``x W``, for a normalisation to follow.

    Parameters
    ----------
    units
        Channels of the result.
    seed
        Of the Glorot-uniform initial weights.
    """

    def __init__(self, units: int, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.units = units
        self.seed = seed

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the kernel for rows [n, C]."""
        initial = keras.initializers.GlorotUniform(seed=self.seed)
        self.kernel = self.add_weight(name="kernel", shape=(input_shape[-1], self.units), initializer=initial)

    def call(self, rows: Tensor) -> Tensor:
        """Return [n, units] for rows [n, C]."""
        return product(rows, self.kernel, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "units": self.units, "seed": self.seed}


class GraphAttention(MixedLayer):
    """Attention of every node to its neighbours' differences from it (Chen et al. 2019, GAPNet; one head).

    ``n_i = ReLU(BN(W_n x_i))`` and ``e_ij = ReLU(BN(W_e (x_i - x_j)))`` encode nodes and edges; ``c_ij = LeakyReLU(w_s
    n_i + w_t e_ij + b)`` weighs the neighbours after a softmax over j; the result is ``ReLU(sum_j a_ij e_ij + b_o)``.
    Contrary to the published code the two terms of ``c_ij`` are linear, else the first cancels in the softmax and
    ``W_n`` is never trained. ``W_e`` is applied to nodes, not to edges: ``W_e (x_i - x_j) = W_e x_i - W_e x_j``.

    Parameters
    ----------
    channels
        Channels of both encodings.
    epsilon
        Of the batch normalisations.
    seed
        Of the Glorot-uniform initial weights; the next three seeds are used too.
    """

    def __init__(self, channels: int, epsilon: float = 1e-3, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.channels = channels
        self.epsilon = epsilon
        self.seed = seed
        self.node_norm = BatchNorm(epsilon, name="node_norm", dtype=self.dtype_policy)
        self.edge_norm = BatchNorm(epsilon, name="edge_norm", dtype=self.dtype_policy)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create the weights for nodes [M, C]."""
        width = input_shape[-1]
        self.node_kernel = self._kernel("node_kernel", (width, self.channels), 0)
        self.edge_kernel = self._kernel("edge_kernel", (width, self.channels), 1)
        self.node_score = self._kernel("node_score", (self.channels, 1), 2)
        self.edge_score = self._kernel("edge_score", (self.channels, 1), 3)
        self.score_bias = self.add_weight(name="score_bias", shape=(), initializer="zeros")
        self.bias = self.add_weight(name="bias", shape=(self.channels,), initializer="zeros")
        self.node_norm.build((None, self.channels))
        self.edge_norm.build((None, self.channels))

    def call(
        self, nodes: Tensor, graph: Graph, weight: Tensor | None = None, context: BatchContext | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the attention features and the largest edge encodings of every node.

        Parameters
        ----------
        nodes
            [M, C].
        graph
            The neighbours of the M nodes.
        weight
            [M]: how often each node counts in the statistics; None counts each once.
        context
            The training step; None in inference.

        Returns
        -------
        tuple
            Two tensors [M, channels]; a node without neighbours has ``ReLU(b_o)`` and 0.
        """
        encoded, projected = (
            product(nodes, kernel, self.compute_dtype) for kernel in (self.node_kernel, self.edge_kernel)
        )
        encoded, projected, node_affine, edge_affine = self._affine(encoded, projected, graph, weight, context)
        own = scaled_relu(encoded, node_affine, self.compute_dtype)
        own = single(product(own, self.node_score, self.compute_dtype)) + self.score_bias
        others = edge_scores(projected, graph, edge_affine, self.edge_score[:, 0])
        shares = _softmax(ops.leaky_relu(own + others, negative_slope=LEAK), graph.exists(others.dtype))
        mixed, largest = mix_edges(projected, graph, edge_affine, shares)
        return ops.relu(ops.cast(single(mixed) + self.bias, self.compute_dtype)), largest

    def _affine(
        self, encoded: Tensor, projected: Tensor, graph: Graph, weight: Tensor | None, context: BatchContext | None
    ) -> tuple[Tensor, Tensor, Affine, Affine]:
        """Return both inputs, and scale and shift of nodes and of edges; their statistics share one exchange."""
        if context is None:
            norms = self.node_norm, self.edge_norm
            return encoded, projected, *(norm.scale_and_shift(None, None) for norm in norms)
        of_nodes, encoded = row_sums(encoded, weight)
        of_edges, projected = edge_sums(projected, graph, weight)
        nodes, edges = reduce_sums([of_nodes, of_edges], context)
        affine = self.node_norm.scale_and_shift(nodes, context), self.edge_norm.scale_and_shift(edges, context)
        return encoded, projected, *affine

    def _kernel(self, name: str, shape: tuple[int | None, int], offset: int) -> Any:
        initial = keras.initializers.GlorotUniform(seed=self.seed + offset)
        return self.add_weight(name=name, shape=shape, initializer=initial)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "channels": self.channels, "epsilon": self.epsilon, "seed": self.seed}


def _listed(parts: Tensor | Sequence[Tensor]) -> Sequence[Tensor]:
    return parts if isinstance(parts, list | tuple) else [parts]


def _softmax(scores: Tensor, exists: Tensor) -> Tensor:
    """Return weights [M, k] of the neighbours that exist; they sum to 1, or are all 0 where there is none."""
    highest = ops.max(ops.where(exists > 0, scores, -1 / SMALL), axis=1, keepdims=True, initial=-1 / SMALL)
    # No minimum with 0 instead of the choice: backends share out its gradient differently where both are equal.
    weights = ops.exp(ops.where(exists > 0, scores - ops.stop_gradient(highest), 0.0)) * exists
    return weights / (ops.sum(weights, axis=1, keepdims=True) + SMALL)
