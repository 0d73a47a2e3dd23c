"""Normalisation and graph attention against references in float64 that loop over rows and edges."""

from __future__ import annotations

import numpy as np
import pytest

from sparton.ucluster.graph import Graph
from sparton.ucluster.layers import LEAK, DenseNorm, GraphAttention
from sparton.ucluster.normalisation import BatchContext, BatchNorm

ALONE = BatchContext(lambda tensors: list(tensors), 0.5)
RNG = np.random.default_rng(5)


def test_normalisation_in_training_and_its_moving_averages() -> None:
    rows = RNG.normal(3, 2, size=(50, 4)).astype(np.float32)
    weight = RNG.integers(0, 3, size=50).astype(np.float32)
    layer = BatchNorm(1e-3)
    layer.build((None, 4))
    layer.gamma.assign([1, 2, 3, 4])
    layer.beta.assign([0, 1, 2, 3])
    found = np.asarray(layer(rows, weight=weight, context=ALONE))
    mean = np.average(rows.astype(float), axis=0, weights=weight)
    variance = np.average((rows - mean) ** 2, axis=0, weights=weight)
    expected = (rows - mean) / np.sqrt(variance + 1e-3) * [1, 2, 3, 4] + [0, 1, 2, 3]
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(layer.moving_mean, 0.5 * mean, rtol=1e-5)
    np.testing.assert_allclose(layer.moving_variance, 0.5 + 0.5 * variance, rtol=1e-4)
    inference = (rows - 0.5 * mean) / np.sqrt(0.5 + 0.5 * variance + 1e-3) * [1, 2, 3, 4] + [0, 1, 2, 3]
    np.testing.assert_allclose(layer(rows), inference, rtol=1e-4, atol=1e-4)


def test_normalisation_without_scale_has_unit_variance() -> None:
    layer = BatchNorm(1e-6, affine=False)
    rows = RNG.normal(-7, 5, size=(400, 3)).astype(np.float32)
    layer.build((None, 3))
    found = np.asarray(layer(rows, context=ALONE))
    np.testing.assert_allclose(found.mean(axis=0), 0, atol=1e-4)
    np.testing.assert_allclose(found.std(axis=0), 1, rtol=1e-4)
    assert layer.trainable_weights == []


def test_dense_layer_of_parts_is_that_of_their_concatenation() -> None:
    parts = [RNG.normal(size=(9, 3)).astype(np.float32), RNG.normal(size=(9, 2)).astype(np.float32)]
    layer = DenseNorm(4)
    layer.build([(None, 3), (None, 2)])
    np.testing.assert_allclose(layer.linear(parts), np.concatenate(parts, 1) @ np.asarray(layer.kernel), rtol=1e-5)


def reference_attention(layer: GraphAttention, x: np.ndarray, graph: Graph) -> tuple[np.ndarray, np.ndarray]:
    """Attention edge by edge, as the formulas are written, in inference mode."""
    weights = {name: np.asarray(getattr(layer, name), float) for name in ("node_kernel", "edge_kernel")}
    node_score, edge_score = (np.asarray(getattr(layer, name), float)[:, 0] for name in ("node_score", "edge_score"))

    def normalise(norm: BatchNorm, value: np.ndarray) -> np.ndarray:
        scale = np.asarray(norm.gamma, float) / np.sqrt(np.asarray(norm.moving_variance, float) + norm.epsilon)
        return (value - np.asarray(norm.moving_mean, float)) * scale + np.asarray(norm.beta, float)

    attended, largest = [], []
    for i, own in enumerate(x):
        node = np.maximum(normalise(layer.node_norm, own @ weights["node_kernel"]), 0)
        edges, scores = [], []
        for j in graph.neighbour[i, : graph.degree[i]]:
            edge = np.maximum(normalise(layer.edge_norm, (own - x[j]) @ weights["edge_kernel"]), 0)
            score = node @ node_score + edge @ edge_score + float(layer.score_bias.numpy())
            edges.append(edge)
            scores.append(score if score > 0 else LEAK * score)
        shares = np.exp(scores) / np.exp(scores).sum() if edges else np.zeros(0)
        mixed = sum((s * e for s, e in zip(shares, edges, strict=True)), np.zeros(layer.channels))
        attended.append(np.maximum(mixed + np.asarray(layer.bias, float), 0))
        largest.append(np.max(edges, axis=0) if edges else np.zeros(layer.channels))
    return np.array(attended), np.array(largest)


def test_attention_equals_the_edge_by_edge_reference() -> None:
    layer = GraphAttention(5, seed=1)
    layer.build((None, 3))
    for variable in layer.weights:
        value = RNG.normal(size=variable.shape)
        variable.assign(np.abs(value) if "variance" in variable.name else value)
    x = RNG.normal(size=(6, 3)).astype(np.float32)
    neighbour = np.array([[1, 2], [0, 2], [0, 1], [4, 4], [3, 3], [5, 5]], np.int32)
    graph = Graph(neighbour, np.array([2, 2, 2, 1, 1, 0], np.int32), np.array([0, 3, 5, 6], np.int32))
    found = layer(x, graph)
    for result, expected in zip(found, reference_attention(layer, x.astype(float), graph), strict=True):
        np.testing.assert_allclose(result, expected, rtol=1e-4, atol=1e-5)


def test_self_coefficient_changes_the_attention() -> None:
    """In the published code it cancels in the softmax and is never trained."""
    import tensorflow as tf

    layer = GraphAttention(5, seed=1)
    layer.build((None, 3))
    x = tf.constant(RNG.normal(size=(4, 3)).astype(np.float32))
    neighbour = np.array([[1, 2, 3], [0, 2, 3], [0, 1, 3], [0, 1, 2]], np.int32)
    graph = Graph(neighbour, np.full(4, 3, np.int32), np.array([0, 4], np.int32))
    layer.edge_score.assign(-np.ones((5, 1)))
    with tf.GradientTape() as tape:
        attended, _ = layer(x, graph, context=ALONE)
        loss = tf.reduce_sum(attended * tf.random.stateless_normal((4, 5), seed=(1, 2)))
    gradient = tape.gradient(loss, layer.node_score.value)
    assert float(tf.reduce_max(tf.abs(gradient))) > 1e-6


@pytest.mark.parametrize("layer", [BatchNorm(0.1, affine=False), DenseNorm(3, 0.1, 7), GraphAttention(3, 0.1, 7)])
def test_configuration_round_trip(layer: BatchNorm | DenseNorm | GraphAttention) -> None:
    config = layer.get_config()
    assert type(layer).from_config(config).get_config() == config
