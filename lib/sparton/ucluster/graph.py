"""Particles as nodes: only real ones are computed, and who is whose neighbour.

Real particles of a batch of jets [B, P] are packed into M nodes, so padding takes part in nothing: neither in
statistics nor in graphs, sums or time.
"""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from keras import ops

from sparton.ucluster.backend import kernels_for
from sparton.ucluster.precision import single

Tensor = Any


class Packing(NamedTuple):
    """Which slots of a batch are nodes.

    Attributes
    ----------
    real
        bool[B, P]: the slots that hold a particle.
    slot
        int32[M]: position of each node among the B P slots, rising.
    jet
        int32[M]: the jet of each node, rising.
    node
        int32[B P]: the node of each slot, 0 where there is none.
    offsets
        int32[B + 1]: the first node of each jet, and their number.
    weight
        float32[M]: 1 for a node, 0 for what fills up a number of nodes that was fixed beforehand; None where all count.
    """

    real: Tensor
    slot: Tensor
    jet: Tensor
    node: Tensor
    offsets: Tensor
    weight: Tensor | None = None


class Graph(NamedTuple):
    """The neighbours of every node.

    Attributes
    ----------
    neighbour
        int32[M, k]: nodes of the same jet, nearest first. Missing ones repeat the nearest, or the node itself where
        it is alone.
    degree
        int32[M]: how many neighbours there are.
    offsets
        int32[B + 1]: the first node of each jet, and their number.
    """

    neighbour: Tensor
    degree: Tensor
    offsets: Tensor

    def exists(self, dtype: Any) -> Tensor:
        """Return 1 where there is a neighbour, else 0, [M, k]."""
        return ops.cast(ops.arange(self.neighbour.shape[1], dtype="int32")[None, :] < self.degree[:, None], dtype)


def pack(n_particles: Tensor, n_slots: int, nodes: int | None = None) -> Packing:
    """Return the packing of jets whose first ``n_particles`` int32[B] of ``n_slots`` slots hold particles.

    ``nodes`` fixes M, so that no shape depends on what the batch holds: the nodes beyond its particles have weight 0,
    and all have weight NaN if it has more particles than that. None takes as many nodes as there are particles.
    """
    counts = ops.clip(ops.cast(n_particles, "int32"), 0, n_slots)
    real = ops.arange(n_slots, dtype="int32")[None, :] < counts[:, None]
    flat = ops.reshape(real, (-1,))
    node = ops.maximum(ops.cumsum(ops.cast(flat, "int32")) - 1, 0)
    offsets = ops.pad(ops.cumsum(counts), [[1, 0]])
    if nodes is None:
        slot = ops.cast(ops.nonzero(flat)[0], "int32")
        return Packing(real, slot, slot // n_slots, node, offsets)
    place = ops.arange(nodes, dtype="int32")
    there = place < offsets[-1]
    jet = ops.where(there, ops.cast(ops.searchsorted(offsets[1:], place, side="right"), "int32"), 0)
    slot = ops.where(there, jet * n_slots + place - ops.take(offsets, jet, axis=0), 0)
    weight = ops.where(offsets[-1] > nodes, math.nan, ops.cast(there, "float32"))
    return Packing(real, slot, jet, ops.minimum(node, nodes - 1), offsets, weight)


def log_multiplicity(packing: Packing, dtype: Any) -> Tensor:
    """Return ln N [B, 1] of each jet's N nodes, 0 for a jet without any."""
    return ops.log(ops.cast(_multiplicity(packing), dtype))[:, None]


def gather_nodes(slots: Tensor, packing: Packing) -> Tensor:
    """Return the nodes' rows [M, ...] of a tensor [B, P, ...] of slots."""
    return ops.take(ops.reshape(slots, (-1, *slots.shape[2:])), packing.slot, axis=0)


def scatter_nodes(nodes: Tensor, packing: Packing) -> Tensor:
    """Return a tensor [B, P, C] of slots with the nodes' rows [M, C], zero on padding."""
    nodes = _counted(nodes, packing)
    batch, n_slots = ops.shape(packing.real)[0], packing.real.shape[1]
    shape = (batch * n_slots, nodes.shape[1])
    return ops.reshape(ops.scatter(packing.slot[:, None], nodes, shape), (batch, n_slots, nodes.shape[1]))


def angular_graph(angles: Tensor, packing: Packing, k: int) -> Graph:
    """Return each node's ``k`` nearest others by pseudorapidity and azimuth, ``angles`` [M, 2]."""
    k = min(k, packing.real.shape[1])
    kernels = kernels_for(angles)
    if kernels is not None:
        neighbour, degree = kernels.nearest_angles(angles[:, 0], angles[:, 1], packing.offsets, k)
        return Graph(neighbour, degree, packing.offsets)
    slots = scatter_nodes(angles, packing)
    return nearest(angular_distance(slots[..., 0], slots[..., 1]), packing, k)


def feature_graph(points: Tensor, packing: Packing, k: int) -> Graph:
    """Return each node's ``k`` nearest others by the Euclidean distance of ``points`` [M, C]."""
    k, points = min(k, packing.real.shape[1]), single(points)
    kernels = kernels_for(points)
    if kernels is not None:
        neighbour, degree = kernels.nearest_points(points, packing.offsets, k)
        return Graph(neighbour, degree, packing.offsets)
    return nearest(feature_distance(scatter_nodes(points, packing)), packing, k)


def angular_distance(eta: Tensor, phi: Tensor) -> Tensor:
    """Return the squared distances [B, P, P] in pseudorapidity and azimuth; the latter has the period 2 pi."""
    d_eta = eta[:, :, None] - eta[:, None, :]
    d_phi = phi[:, :, None] - phi[:, None, :]
    d_phi = d_phi - 2 * math.pi * ops.round(d_phi / (2 * math.pi))
    return d_eta * d_eta + d_phi * d_phi


def feature_distance(points: Tensor) -> Tensor:
    """Return the squared Euclidean distances [B, P, P] of points [B, P, C], by one matrix product."""
    squares = ops.sum(points * points, axis=-1)
    product = ops.matmul(points, ops.transpose(points, (0, 2, 1)))
    return squares[:, :, None] + squares[:, None, :] - 2 * product


def nearest(distance: Tensor, packing: Packing, k: int) -> Graph:
    """Return each node's ``k`` nearest others of its jet.

    Parameters
    ----------
    distance
        [B, P, P], anything on padding.
    packing
        The nodes of the batch.
    k
        Neighbours at most; never more than there are slots.
    """
    batch, n_slots = ops.shape(distance)[0], distance.shape[1]
    forbidden = ops.logical_or(ops.eye(n_slots, dtype="bool")[None], ops.logical_not(packing.real)[:, None, :])
    closeness = ops.where(forbidden, -math.inf, -distance)
    values, slots = ops.top_k(closeness, min(k, n_slots), sorted=True)
    first = n_slots * ops.arange(batch, dtype="int32")[:, None, None]
    found = gather_nodes(values > -math.inf, packing)
    others = gather_nodes(ops.cast(slots, "int32") + first, packing)
    nearest_or_self = ops.where(found[:, :1], others[:, :1], packing.slot[:, None])
    neighbour = ops.take(packing.node, ops.where(found, others, nearest_or_self), axis=0)
    return Graph(neighbour, ops.sum(ops.cast(found, "int32"), axis=1), packing.offsets)


def pooled_sum(nodes: Tensor, packing: Packing) -> Tensor:
    """Return the sum [B, C] over each jet's nodes [M, C]; of nodes in half precision in single precision."""
    nodes = _counted(single(nodes), packing)
    jets = packing.real.shape[0] or ops.shape(packing.real)[0]
    kernels = kernels_for(nodes)
    if kernels is not None:
        return kernels.segment_sum(nodes, packing.jet, jets)
    return ops.segment_sum(nodes, packing.jet, num_segments=jets)


def pooled_mean(nodes: Tensor, packing: Packing) -> Tensor:
    """Return the mean [B, C] over each jet's nodes [M, C]; 0 for a jet without any."""
    total = pooled_sum(nodes, packing)
    return total / ops.cast(_multiplicity(packing), total.dtype)[:, None]


def _multiplicity(packing: Packing) -> Tensor:
    """Return the number [B] of each jet's nodes, and 1 for a jet without any."""
    return ops.maximum(packing.offsets[1:] - packing.offsets[:-1], 1)


def _counted(nodes: Tensor, packing: Packing) -> Tensor:
    """Return nodes [M, C], 0 where they do not count."""
    return nodes if packing.weight is None else nodes * ops.cast(packing.weight, nodes.dtype)[:, None]
