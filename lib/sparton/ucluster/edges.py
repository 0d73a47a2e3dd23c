"""What the network computes on edges: sums of differences, scores, and their weighted mean and maximum.

An edge from node i to its neighbour j is encoded as ``e_ij = ReLU((x_i - x_j) scale + shift)``, where x is the nodes'
projection; the encoding stands for all edges only here, or not even here where compiled kernels compute it.

Of nodes in half precision the differences and encodings are half precision too, and their mean and maximum; scale and
shift are applied in single precision, in which statistics and scores are returned.
"""

from __future__ import annotations

from typing import Any

from keras import ops

from sparton.ucluster.backend import kernels_for
from sparton.ucluster.graph import Graph
from sparton.ucluster.normalisation import Affine, Sums
from sparton.ucluster.precision import product, single

Tensor = Any


def edge_sums(nodes: Tensor, graph: Graph, weight: Tensor | None = None) -> tuple[Sums, Tensor]:
    """Return the statistics of ``x_i - x_j`` over all edges, and the nodes, to be used after them.

    Parameters
    ----------
    nodes
        [M, C].
    graph
        Neighbours of the M nodes.
    weight
        [M]: how often the edges of each node count; None counts each once.
    """
    weight = ops.ones_like(single(nodes[:, 0])) if weight is None else weight
    count = ops.sum(weight * ops.cast(graph.degree, weight.dtype))
    kernels = kernels_for(nodes)
    if kernels is not None:
        total, squares, nodes = kernels.edge_sums(nodes, weight, kernels.Edges(*graph))
        return Sums(count, total, squares), nodes
    difference = single(_differences(nodes, graph))
    share = (weight[:, None] * graph.exists(weight.dtype))[..., None]
    total, squares = (ops.sum(share * values, axis=(0, 1)) for values in (difference, difference * difference))
    return Sums(count, total, squares), nodes


def edge_scores(nodes: Tensor, graph: Graph, affine: Affine, weight: Tensor) -> Tensor:
    """Return ``w . e_ij`` [M, k], 0 where there is no edge.

    Parameters
    ----------
    nodes
        [M, C].
    graph
        Neighbours of the M nodes.
    affine
        Scale and shift [C].
    weight
        w, [C].
    """
    kernels = kernels_for(nodes)
    if kernels is not None:
        return kernels.edge_scores(nodes, *affine, weight, kernels.Edges(*graph))
    scores = single(product(_encoded(nodes, graph, affine), weight[:, None], nodes.dtype)[..., 0])
    return scores * graph.exists(scores.dtype)


def mix_edges(nodes: Tensor, graph: Graph, affine: Affine, shares: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``sum_j a_ij e_ij`` and ``max_j e_ij``, [M, C] each; 0 for a node without edges.

    Parameters
    ----------
    nodes
        [M, C].
    graph
        Neighbours of the M nodes.
    affine
        Scale and shift [C].
    shares
        a, [M, k]; 0 where there is no edge.
    """
    kernels = kernels_for(nodes)
    if kernels is not None:
        return kernels.mix_edges(nodes, *affine, shares, kernels.Edges(*graph))
    edges = _encoded(nodes, graph, affine)
    mixed = product(shares[:, None, :], edges, nodes.dtype)[:, 0]
    # A missing neighbour repeats the nearest one, which leaves the maximum alone; that of no neighbours is 0.
    # The initial value lets a batch without any particle pass, as a rank may have at the end of an epoch.
    return mixed, ops.max(edges, axis=1, initial=0.0) * graph.exists(edges.dtype)[:, :1]


def _differences(nodes: Tensor, graph: Graph) -> Tensor:
    return nodes[:, None, :] - ops.take(nodes, graph.neighbour, axis=0)


def _encoded(nodes: Tensor, graph: Graph, affine: Affine) -> Tensor:
    scale, shift = affine
    return ops.relu(ops.cast(single(_differences(nodes, graph)) * scale + shift, nodes.dtype))
