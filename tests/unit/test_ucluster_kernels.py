"""The compiled kernels give what the operations of any backend give: values, gradients and graphs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from sparton.ucluster.backend import kernels_for, portable
from sparton.ucluster.cpu import ops, threads
from sparton.ucluster.cpu.memory import SMALL, Pool
from sparton.ucluster.edges import edge_scores, edge_sums, mix_edges
from sparton.ucluster.graph import Graph, angular_graph, feature_graph, pack
from sparton.ucluster.normalisation import row_sums, scaled_relu
from sparton.ucluster.published_layers import (
    Columns,
    different_slots,
    nearest_slots,
    plane_distances,
    space_distances,
)

SLOTS = 9
COUNTS = st.lists(st.integers(0, SLOTS), min_size=1, max_size=40)
Tensors = list[tf.Tensor]


def both(function: Callable[..., Any], inputs: Tensors) -> list[tuple[Tensors, Tensors]]:
    """Return values and gradients of a function by kernels and without, for random slopes of its results."""
    found = []
    for context in (None, portable()):
        with context or tf.name_scope("kernels"), tf.GradientTape() as tape:
            tape.watch(inputs)
            values = tf.nest.flatten(function(*inputs))
            loss = sum(
                tf.reduce_sum(value * tf.random.stateless_normal(tf.shape(value), seed=(3, index)))
                for index, value in enumerate(values)
            )
            gradients = tape.gradient(loss, inputs, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        found.append((values, gradients))
    return found


def assert_equal(function: Callable[..., Any], inputs: list[Any]) -> None:
    (values, gradients), (other_values, other_gradients) = both(function, [tf.constant(one) for one in inputs])
    for one, other in zip([*values, *gradients], [*other_values, *other_gradients], strict=True):
        size = max(1.0, float(tf.reduce_max(tf.abs(other), axis=None))) if tf.size(other) else 1.0
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=2e-5 * size)


def normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.normal(size=shape).astype(np.float32)


def some_graph(counts: list[int], k: int, rng: np.random.Generator) -> tuple[Graph, int]:
    packing = pack(np.array(counts, np.int32), SLOTS)
    nodes = sum(counts)
    return feature_graph(tf.constant(normal(rng, nodes, 2)), packing, k), nodes


def test_the_kernels_are_there() -> None:
    """Else the tests below would compare a path with itself."""
    assert kernels_for(tf.zeros(1)) is ops
    assert kernels_for(tf.zeros(1, tf.float16)) is None
    with portable():
        assert kernels_for(tf.zeros(1)) is None


@settings(max_examples=40, deadline=None)
@given(COUNTS, st.integers(1, 12), st.integers(0, 1000))
def test_graphs(counts: list[int], k: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    packing, nodes = pack(np.array(counts, np.int32), SLOTS), sum(counts)
    angles = tf.constant(rng.uniform(-np.pi, np.pi, size=(nodes, 2)).astype(np.float32))
    points = tf.constant(normal(rng, nodes, 5))
    for build, where in ((angular_graph, angles), (feature_graph, points)):
        found = build(where, packing, k)
        with portable():
            expected = build(where, packing, k)
        for one, other in zip(found, expected, strict=True):
            np.testing.assert_array_equal(one, other)


@settings(max_examples=25, deadline=None)
@given(COUNTS, st.integers(1, SLOTS + 2), st.integers(0, 1000))
def test_graphs_with_empty_slots(counts: list[int], k: int, seed: int) -> None:
    features = 3 * normal(np.random.default_rng(seed), len(counts), SLOTS, 3)  # some angles are a full turn apart
    features[np.arange(SLOTS) >= np.array(counts)[:, None]] = 0
    slots = different_slots(tf.constant(features))
    for distances in (plane_distances(tf.constant(features), Columns(0, 1, 2)), space_distances(tf.constant(features))):
        found = nearest_slots(distances, slots, k)
        with portable():
            expected = nearest_slots(distances, slots, k)
        np.testing.assert_array_equal(found.neighbour, expected.neighbour)
        np.testing.assert_array_equal(found.degree, expected.degree)


@settings(max_examples=25, deadline=None)
@given(COUNTS, st.integers(1, 12), st.integers(1, 20), st.integers(0, 1000))
def test_edges(counts: list[int], k: int, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    graph, nodes = some_graph(counts, k, rng)
    rows, scale, shift, weight = (normal(rng, *shape) for shape in ((nodes, channels), *[(channels,)] * 3))
    shares = tf.constant(rng.uniform(size=(nodes, min(k, SLOTS))).astype(np.float32)) * graph.exists("float32")
    counted = rng.integers(0, 3, size=nodes).astype(np.float32)

    def sums(rows: tf.Tensor) -> Any:
        found, rows = edge_sums(rows, graph, tf.constant(counted))
        return (*found, rows * rows)

    assert_equal(sums, [rows])
    assert_equal(lambda x, a, b, w: edge_scores(x, graph, (a, b), w), [rows, scale, shift, weight])
    exists = graph.exists("float32")
    assert_equal(lambda x, a, b, s: mix_edges(x, graph, (a, b), s * exists), [rows, scale, shift, shares])


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 200), st.integers(1, 20), st.integers(0, 1000))
def test_rows(rows: int, channels: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    weight = tf.constant(rng.integers(0, 3, size=rows).astype(np.float32))

    def sums(values: tf.Tensor) -> Any:
        found, values = row_sums(values, weight)
        return (*found, values * values)

    assert_equal(sums, [normal(rng, rows, channels)])
    inputs = [normal(rng, *shape) for shape in ((rows, channels), (channels,), (channels,))]
    assert_equal(lambda x, a, b: scaled_relu(x, (a, b)), inputs)


def test_sums_do_not_depend_on_the_number_of_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    rows, weight = normal(np.random.default_rng(1), 5000, 7), np.ones(5000, np.float32)
    found = []
    for cores in (1, 2, 3):
        monkeypatch.setattr(threads, "n_threads", lambda cores=cores: cores)
        found.append([np.asarray(one) for one in ops.column_sums(tf.constant(rows), tf.constant(weight))[:2]])
    for other in found[1:]:
        for one, another in zip(found[0], other, strict=True):
            np.testing.assert_array_equal(one, another)


def test_memory_is_used_again_once_nobody_refers_to_it() -> None:
    pool = Pool()
    shape = (SMALL, 2)
    first = pool.empty(shape)
    view, address = first[10:], first.ctypes.data
    assert address % 64 == 0
    del first
    gc.collect()
    second = pool.empty(shape)
    assert second.ctypes.data != address
    del view
    gc.collect()
    assert pool.empty(shape).ctypes.data == address


def test_free_memory_is_bounded() -> None:
    pool = Pool(kept=3 * SMALL * 4)
    arrays = [pool.empty((SMALL,)) for _ in range(6)]
    del arrays
    gc.collect()
    assert sum(len(block) for block in pool._free) <= 3 * SMALL * 4
