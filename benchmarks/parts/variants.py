"""The default network with one choice undone: what the quality study compares it with.

Each class is the network of the library but for the one thing that its docstring says.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from sparton.ucluster.graph import Graph, Packing
from sparton.ucluster.model import Outputs, UCluster
from sparton.ucluster.normalisation import BatchContext, BatchNorm
from sparton.ucluster.precision import single
from sparton.ucluster.settings import InputSpec, ModelSettings

Tensor = Any


class PaddingAsParticles(UCluster):
    """Every slot of a jet is a particle: in both graphs, attention, maxima, sums and statistics."""

    def call(
        self,
        features: Tensor,
        n_particles: Tensor,
        weight: Tensor | None = None,
        context: BatchContext | None = None,
        nodes: int | None = None,
    ) -> Outputs:
        """Return embedding and logits of a batch of jets, all slots of which are real."""
        return super().call(features, ops.full_like(n_particles, features.shape[1]), weight, context, nodes)


class PaddingInStatistics(UCluster):
    """Batch normalisation of the particles' layers is over padding too, which has no neighbours and no part in sums."""

    def pooled(self, features: Tensor, packing: Packing, context: BatchContext | None = None) -> Tensor:
        """Return the sums over real particles of what is computed of all slots."""
        slots = ops.reshape(features, (-1, features.shape[-1]))
        nodes = self.standardised(slots)

        def real(rows: Tensor) -> Tensor:
            return ops.take(rows, packing.slot, axis=0)

        graph = _on_all_slots(self.first_graph(real(slots), packing), packing)
        first, first_edges = self._block(0, nodes, nodes, graph, context)
        graph = _on_all_slots(self.second_graph(real(first[-1]), packing), packing)
        second, second_edges = self._block(1, nodes, first[-1], graph, context)
        parts = [*first, *second, first_edges, second_edges]
        # A product with the mask, not a selection: its gradient is dense, as the compiled kernels need it.
        mask = ops.cast(ops.reshape(packing.real, (-1, 1)), features.dtype)
        shape = (-1, packing.real.shape[1])
        return ops.concatenate(
            [ops.sum(ops.reshape(single(part) * mask, (*shape, part.shape[-1])), axis=1) for part in parts], axis=-1
        )


def _on_all_slots(graph: Graph, packing: Packing) -> Graph:
    """Return a graph of real particles as one of all slots [B P], of which the empty ones are alone."""
    jets, n_slots = ops.shape(packing.real)[0], packing.real.shape[1]
    slots, k = jets * n_slots, graph.neighbour.shape[1]
    position = packing.slot[:, None]
    own = ops.repeat(ops.arange(slots, dtype="int32")[:, None], k, axis=1)
    found = ops.scatter(position, ops.take(packing.slot, graph.neighbour, axis=0), (slots, k))
    neighbour = ops.where(ops.reshape(packing.real, (-1, 1)), found, own)
    degree = ops.scatter(position, graph.degree, (slots,))
    return Graph(neighbour, degree, ops.arange(jets + 1, dtype="int32") * n_slots)


class PlainInputs(UCluster):
    """Features enter as they are, without standardisation."""

    def __init__(self, settings: ModelSettings, inputs: InputSpec, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(settings, inputs.plain(), seed, **kwargs)


class NoSelfAttention(UCluster):
    """The particle's own term in the attention is 0, as it cancels in the published code."""

    def build(self, input_shape: Any = None) -> None:
        """Create all weights and take the own term out."""
        super().build(input_shape)
        for layer in self.attention:
            layer.node_score.assign(ops.zeros_like(layer.node_score))
            layer.node_score.trainable = False


class SelfAsNeighbour(UCluster):
    """A particle is the first of its own k neighbours, with an edge of zeros."""

    def first_graph(self, particles: Tensor, packing: Packing) -> Graph:
        """Return the particle itself and the k - 1 nearest others in (eta, phi)."""
        return _with_self(super().first_graph(particles, packing))

    def second_graph(self, points: Tensor, packing: Packing) -> Graph:
        """Return the particle itself and the k - 1 nearest others in the first block's output."""
        return _with_self(super().second_graph(points, packing))


def _with_self(graph: Graph) -> Graph:
    own = ops.arange(ops.shape(graph.degree)[0], dtype="int32")[:, None]
    k = graph.neighbour.shape[1]
    neighbour = ops.concatenate([own, graph.neighbour[:, : k - 1]], axis=1)
    return Graph(neighbour, ops.minimum(graph.degree + 1, k), graph.offsets)


class LearntScale(UCluster):
    """The embedding's normalisation has a learnt scale and shift, so the clustering loss can shrink it."""

    def __init__(self, settings: ModelSettings, inputs: InputSpec, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(settings, inputs, seed, **kwargs)
        self.embedding_norm = BatchNorm(settings.epsilon, affine=True, name="embedding_norm", dtype=self.variable_dtype)


class DeepSets(UCluster):
    """No graphs: a particle has no neighbours, so only its own features count."""

    def first_graph(self, particles: Tensor, packing: Packing) -> Graph:
        """Return no neighbours."""
        return _without_edges(super().first_graph(particles, packing))

    def second_graph(self, points: Tensor, packing: Packing) -> Graph:
        """Return no neighbours."""
        return _without_edges(super().second_graph(points, packing))


def _without_edges(graph: Graph) -> Graph:
    own = ops.arange(ops.shape(graph.degree)[0], dtype="int32")[:, None]
    return Graph(ops.repeat(own, graph.neighbour.shape[1], axis=1), ops.zeros_like(graph.degree), graph.offsets)
