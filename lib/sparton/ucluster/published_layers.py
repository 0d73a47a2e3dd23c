"""Layers of the published network, to which an empty slot of a jet is a particle like all others.

It takes part in graphs, statistics and sums exactly as in the published code; see ``docs/ucluster.md`` for what that
means. As the empty slots of a jet are equal, and so is all that is ever computed of them, one row of the matrix [M, C]
stands for all of them and counts as often.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, Union

import keras
from keras import ops

from sparton.ucluster.backend import kernels_for
from sparton.ucluster.edges import edge_scores, edge_sums, mix_edges
from sparton.ucluster.graph import Graph, Packing, gather_nodes, pack, pooled_sum
from sparton.ucluster.layers import multiply_parts, stored_dense
from sparton.ucluster.normalisation import Affine, BatchContext, BatchNorm, Sums, reduce_sums, row_sums, scaled_relu
from sparton.ucluster.precision import MixedLayer, product, single

Tensor = Any

AnyNorm = Union[BatchNorm, "BiasedNorm"]

PADDING_SHIFT = 1000.0
"""What an empty slot at either end adds to a squared distance in the first graph."""

SEEDS = 4
"""Consecutive seeds that an attention layer uses."""


class Columns(NamedTuple):
    """Positions among the features of what the first graph needs: two angles, and what is 0 in empty slots."""

    eta: int
    phi: int
    sentinel: int


class Distances(NamedTuple):
    """What squared distances between the slots of each jet are made of, in single precision.

    ``d_ij = squares_i - 2 products_ij + squares_j + w_ij + shift_i + shift_j``, added in this order. ``w_ij`` is the
    published correction of angles, not 0 only where two angles differ by a full turn.

    Single precision and the order of the terms are part of the definition: near 1000 the numbers are multiples of
    6e-5, so the particles next to the axis of a jet tie for the neighbourhood of its empty slots, and the first wins.

    Attributes
    ----------
    products
        float32[B, P, P], scalar products of the slots' points.
    squares
        float32[B, P], squares of their lengths.
    angle
        float32[B, P], 0 where there is none.
    shift
        float32[B, P].
    """

    products: Tensor
    squares: Tensor
    angle: Tensor
    shift: Tensor

    def values(self) -> Tensor:
        """Return ``d`` float32[B, P, P]."""
        turn = ops.abs(self.angle[:, None, :] - self.angle[:, :, None])
        wrapped = ops.where(turn >= 2 * math.pi, 4 * math.pi**2 - 4 * math.pi * turn, ops.zeros_like(turn))
        distance = self.squares[:, :, None] + -2 * self.products + self.squares[:, None, :]
        return distance + wrapped + self.shift[:, :, None] + self.shift[:, None, :]


def plane_distances(features: Tensor, columns: Columns) -> Distances:
    """Return the distances of the first graph between slots of features [B, P, F].

    A slot whose sentinel is exactly 0 counts as empty, and is 1000 farther from everything, itself included.
    """
    features = ops.cast(features, "float32")
    points = ops.stack([features[..., columns.eta], features[..., columns.phi]], axis=-1)
    shift = PADDING_SHIFT * ops.cast(ops.equal(features[..., columns.sentinel], 0), "float32")
    return Distances(_products(points), _squares(points), features[..., columns.phi], shift)


def space_distances(points: Tensor) -> Distances:
    """Return the Euclidean distances between slots, points [B, P, C]."""
    points = ops.cast(points, "float32")
    squares = _squares(points)
    nothing = ops.zeros_like(squares)
    return Distances(_products(points), squares, nothing, nothing)


def _products(points: Tensor) -> Tensor:
    return ops.matmul(points, ops.transpose(points, (0, 2, 1)))


def _squares(points: Tensor) -> Tensor:
    return ops.sum(points * points, axis=-1)


class Slots(NamedTuple):
    """The different slots of a batch, as nodes: a jet's slots from its last node on are equal, and are that node.

    Attributes
    ----------
    packing
        Where the nodes lie; ``packing.node`` int32[B P] is the node of every slot.
    count
        [M]: how many slots each node is.
    """

    packing: Packing
    count: Tensor

    @property
    def of_jet(self) -> int:
        """Slots of a jet."""
        return int(self.packing.real.shape[1])

    def spread(self, nodes: Tensor) -> Tensor:
        """Return slots [B, P, C] from nodes [M, C]."""
        return ops.reshape(ops.take(nodes, self.packing.node, axis=0), (-1, self.of_jet, nodes.shape[-1]))

    def mean(self, nodes: Tensor) -> Tensor:
        """Return the means [B, C] over a jet's slots of nodes [M, C]."""
        return pooled_sum(single(nodes) * self.count[:, None], self.packing) / self.of_jet

    def max(self, nodes: Tensor) -> Tensor:
        """Return the maxima [B, C] over a jet's slots of nodes [M, C]."""
        return ops.max(self.spread(single(nodes)), axis=1)


def different_slots(features: Tensor) -> Slots:
    """Return the slots of features [B, P, F] up to the last one with something in it, and one for those behind."""
    n_slots = features.shape[1]
    place = ops.arange(n_slots, dtype="int32")
    used = ops.any(ops.not_equal(features, 0), axis=-1)
    filled = ops.max(ops.where(used, place + 1, 0), axis=1)
    packing = pack(ops.minimum(filled + 1, n_slots), n_slots)
    first, last = packing.offsets[:-1], packing.offsets[1:] - 1
    node = ops.reshape(ops.minimum(first[:, None] + place, last[:, None]), (-1,))
    nodes = ops.arange(ops.shape(packing.slot)[0], dtype="int32")
    behind = n_slots - 1 - packing.slot % n_slots
    is_last = ops.equal(nodes, ops.take(last, packing.jet, axis=0))
    count = ops.cast(ops.where(is_last, 1 + behind, 1), features.dtype)
    return Slots(packing._replace(node=node), count)


def nearest_in_plane(features: Tensor, columns: Columns, slots: Slots, k: int) -> Graph:
    """Return the ``k`` nearest slots of each node in (eta, phi), by features [B, P, F]."""
    return nearest_slots(plane_distances(features, columns), slots, k)


def nearest_in_space(nodes: Tensor, slots: Slots, k: int) -> Graph:
    """Return the ``k`` nearest slots of each node, points [M, C]."""
    return nearest_slots(space_distances(slots.spread(nodes)), slots, k)


def nearest_slots(distances: Distances, slots: Slots, k: int) -> Graph:
    """Return the ``k`` nearest slots of each node.

    A slot is among its own neighbours unless it is empty. Of equally near ones those that come first are taken. Equal
    slots that are both near are one node, which then is a neighbour as often.
    """
    k, offsets = min(k, slots.of_jet), slots.packing.offsets
    kernels = kernels_for(distances.products)
    if kernels is not None:
        neighbour = kernels.nearest_slots(*distances, offsets, k)
    else:
        starts = slots.of_jet * ops.arange(ops.shape(distances.squares)[0], dtype="int32")
        nearest = ops.cast(ops.top_k(-distances.values(), k)[1], "int32") + starts[:, None, None]
        neighbour = ops.take(slots.packing.node, gather_nodes(nearest, slots.packing), axis=0)
    return Graph(neighbour, ops.full_like(neighbour[:, 0], k), offsets)


def affine_of(parts: Sequence[tuple[AnyNorm, Sums]], context: BatchContext) -> list[Affine]:
    """Return scale and shift of each normalisation; the statistics of all share one exchange between ranks."""
    sums = reduce_sums([own for _, own in parts], context)
    return [norm.scale_and_shift(own, context) for (norm, _), own in zip(parts, sums, strict=True)]


class BiasedNorm(MixedLayer):
    """Batch normalisation of ``x + b``, with the bias b that the published layers have in front of it.

    In training the mean of the batch takes b away again: it changes neither the result nor gets a gradient, which is
    returned as the exact 0 that rounding only approaches. In inference it shifts ``x`` against the stored averages.

    Parameters
    ----------
    epsilon
        Added to the variance.
    """

    def __init__(self, epsilon: float = 1e-3, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.epsilon = epsilon
        self.norm = BatchNorm(epsilon, name="norm", dtype=self.dtype_policy)

    def build(self, input_shape: tuple[int | None, ...]) -> None:
        """Create one value of each kind for each channel, the last axis of the input."""
        self.bias = self.add_weight(name="bias", shape=(input_shape[-1],), initializer="zeros")
        self.norm.build((None, input_shape[-1]))

    def scale_and_shift(self, sums: Sums | None, context: BatchContext | None) -> Affine:
        """Return [C] each, so that ``x * scale + shift`` is ``x + b`` normalised.

        Parameters
        ----------
        sums
            Statistics of x over all ranks; None takes the moving averages, which are those of ``x + b``.
        context
            The training step; None in inference.
        """
        scale, shift = self.norm.scale_and_shift(sums, context, offset=self.bias)
        if context is None:
            return scale, shift + self.bias * scale
        return scale, shift + 0 * self.bias

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "epsilon": self.epsilon}


class BiasedDense(MixedLayer):
    """``ReLU(BN(x W + b))``, shared by all slots, for inputs in parts that are multiplied without being joined.

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
        self.norm = BiasedNorm(epsilon, name="norm", dtype=self.dtype_policy)

    def build(self, width: int) -> None:
        """Create the weights for parts that have ``width`` channels together."""
        initial = keras.initializers.GlorotUniform(seed=self.seed)
        self.kernel = self.add_weight(name="kernel", shape=(width, self.units), initializer=initial)
        self.norm.build((None, self.units))

    def call(
        self, parts: Sequence[Tensor], weight: Tensor | None = None, context: BatchContext | None = None
    ) -> Tensor:
        """Return [n, units] for parts [n, C_i]; each row counts ``weight`` [n] times in the statistics."""
        if context is None:
            return stored_dense(parts, self.kernel, self.norm.scale_and_shift(None, None), self.compute_dtype)
        rows = multiply_parts(parts, self.kernel, self.compute_dtype)
        sums, rows = row_sums(rows, weight)
        (affine,) = affine_of([(self.norm, sums)], context)
        return scaled_relu(rows, affine, self.compute_dtype)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "units": self.units, "epsilon": self.epsilon, "seed": self.seed}


class PublishedAttention(MixedLayer):
    """Graph attention with one head, as in the published code.

    ``n_i = ReLU(BN(W_n x_i))`` and ``e_ij = ReLU(BN(W_e (x_i - x_j) + b_e))`` encode slots and edges; ``s_i =
    ReLU(BN(w_s n_i + b_s))`` and ``t_ij = ReLU(BN(w_t e_ij + b_t))`` score them; the result is ``ReLU(sum_j a_ij e_ij +
    b_o)`` with ``a_ij = softmax_j(LeakyReLU(s_i + t_ij))``.

    Both scores are at least 0, where LeakyReLU is the identity; so s_i cancels in the softmax, and W_n and w_s
    change nothing and have no gradient. In training they are computed for their moving averages, in inference not
    at all. ``W_e`` is applied to slots, not to edges: ``W_e (x_i - x_j) = W_e x_i - W_e x_j``.

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
        self.slot_norm = BatchNorm(epsilon, name="slot_norm", dtype=self.dtype_policy)
        self.edge_norm, self.self_norm, self.neighbour_norm = (
            BiasedNorm(epsilon, name=name, dtype=self.dtype_policy)
            for name in ("edge_norm", "self_norm", "neighbour_norm")
        )

    def build(self, width: int) -> None:
        """Create the weights for slots with ``width`` channels."""
        self.slot_kernel = self._kernel("slot_kernel", (width, self.channels), 0)
        self.edge_kernel = self._kernel("edge_kernel", (width, self.channels), 1)
        self.self_kernel = self._kernel("self_kernel", (self.channels, 1), 2)
        self.neighbour_kernel = self._kernel("neighbour_kernel", (self.channels, 1), 3)
        self.bias = self.add_weight(name="bias", shape=(self.channels,), initializer="zeros")
        for norm in (self.slot_norm, self.edge_norm):
            norm.build((None, self.channels))
        for norm in (self.self_norm, self.neighbour_norm):
            norm.build((None, 1))

    def call(
        self, slots: Tensor, graph: Graph, weight: Tensor | None = None, context: BatchContext | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the attention features and the largest edge encodings of every slot, [M, channels] each.

        Parameters
        ----------
        slots
            [M, C].
        graph
            The neighbours of the slots.
        weight
            [M]: how often each slot counts in the statistics; None counts each once.
        context
            The training step; None in inference.
        """
        half, k = self.compute_dtype, graph.neighbour.shape[1]
        projected = product(slots, self.edge_kernel, half)
        if context is None:
            affine, score_affine = (norm.scale_and_shift(None, None) for norm in (self.edge_norm, self.neighbour_norm))
            scores = self._scores(projected, graph, affine)
        else:
            of_edges, projected = edge_sums(projected, graph, weight)
            own = ops.stop_gradient(product(slots, self.slot_kernel, half))
            parts: list[tuple[AnyNorm, Sums]] = [
                (self.edge_norm, of_edges),
                (self.slot_norm, row_sums(own, weight)[0]),
            ]
            affine, own_affine = affine_of(parts, context)
            own = ops.stop_gradient(product(scaled_relu(own, own_affine), self.self_kernel, half))
            each = None if weight is None else ops.repeat(weight, k)
            of_scores, scores = row_sums(self._scores(projected, graph, affine), each)
            parts = [(self.neighbour_norm, of_scores), (self.self_norm, row_sums(own, weight)[0])]
            score_affine, _ = affine_of(parts, context)
        logits = ops.reshape(ops.relu(scores * score_affine[0] + score_affine[1]), (-1, k))
        mixed, largest = mix_edges(projected, graph, affine, ops.softmax(logits, axis=-1))
        bias = self.bias if context is None else self.bias + 0 * self._idle()
        return ops.relu(ops.cast(single(mixed) + bias, half)), largest

    def _scores(self, projected: Tensor, graph: Graph, affine: Affine) -> Tensor:
        """Return ``w_t e_ij`` of all edges, [M k, 1]."""
        return ops.reshape(edge_scores(projected, graph, affine, self.neighbour_kernel[:, 0]), (-1, 1))

    def _idle(self) -> Tensor:
        """Return the sum of the variables that change nothing: times 0, their gradients are 0 and not missing."""
        kernels = [self.slot_kernel, self.self_kernel]
        norms = [self.slot_norm.gamma, self.slot_norm.beta, self.self_norm.norm.gamma, self.self_norm.norm.beta]
        return sum(ops.sum(variable) for variable in (*kernels, *norms, self.self_norm.bias))

    def _kernel(self, name: str, shape: tuple[int, int], offset: int) -> Any:
        initial = keras.initializers.GlorotUniform(seed=self.seed + offset)
        return self.add_weight(name=name, shape=shape, initializer=initial)

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal layer."""
        return {**super().get_config(), "channels": self.channels, "epsilon": self.epsilon, "seed": self.seed}
