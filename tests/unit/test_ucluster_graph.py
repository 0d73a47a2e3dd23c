"""Packing and neighbours against a brute-force search."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparton.ucluster.backend import portable
from sparton.ucluster.graph import (
    angular_distance,
    feature_distance,
    gather_nodes,
    nearest,
    pack,
    pooled_sum,
    scatter_nodes,
)

COUNTS = st.lists(st.integers(0, 6), min_size=1, max_size=4)


@settings(max_examples=30, deadline=None)
@given(COUNTS)
def test_packing_is_undone_by_scattering(counts: list[int]) -> None:
    packing = pack(np.array(counts), 6)
    slots = np.random.default_rng(0).normal(size=(len(counts), 6, 3)).astype(np.float32)
    slots[~np.asarray(packing.real)] = 0
    nodes = gather_nodes(slots, packing)
    assert nodes.shape[0] == sum(counts)
    np.testing.assert_array_equal(scatter_nodes(nodes, packing), slots)
    np.testing.assert_allclose(pooled_sum(nodes, packing), slots.sum(axis=1), rtol=1e-5, atol=1e-6)
    with portable():
        np.testing.assert_allclose(pooled_sum(nodes, packing), slots.sum(axis=1), rtol=1e-5, atol=1e-6)


@settings(max_examples=30, deadline=None)
@given(COUNTS, st.integers(1, 8), st.integers(0, 1000))
def test_neighbours_are_those_of_a_brute_force_search(counts: list[int], k: int, seed: int) -> None:
    points = np.random.default_rng(seed).normal(size=(len(counts), 6, 2)).astype(np.float32)
    packing = pack(np.array(counts), 6)
    graph = nearest(feature_distance(points), packing, k)
    neighbour, edge = np.asarray(graph.neighbour), np.asarray(graph.exists("float32"))
    first = np.cumsum([0, *counts[:-1]])
    for jet, count in enumerate(counts):
        for particle in range(count):
            node = first[jet] + particle
            others = [other for other in range(count) if other != particle]
            distance = {other: float(((points[jet, particle] - points[jet, other]) ** 2).sum()) for other in others}
            found = neighbour[node][edge[node] > 0] - first[jet]
            expected = sorted(distance, key=lambda other: distance[other])[: min(k, 6)]
            assert len(found) == len(expected)
            np.testing.assert_allclose(
                sorted(distance[int(other)] for other in found), [distance[other] for other in expected], rtol=1e-3
            )


def test_angles_are_periodic() -> None:
    eta = np.zeros((1, 3), np.float32)
    phi = np.array([[math.pi - 0.1, -math.pi + 0.1, 0.0]], np.float32)
    distance = np.asarray(angular_distance(eta, phi))[0]
    assert distance[0, 1] == pytest.approx(0.04, rel=1e-3)
    np.testing.assert_allclose(distance, np.asarray(angular_distance(eta, phi + 2 * np.float32(math.pi)))[0], atol=1e-4)
