"""The networks of the ablations differ from the default one in what they say, and in nothing else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import tensorflow as tf

from parts import variants
from sparton.ucluster.graph import pack
from sparton.ucluster.model import UCluster
from sparton.ucluster.normalisation import BatchContext
from tests.clouds import SLOTS, SMALL, clouds, inputs

FEATURES, COUNTS = clouds([SLOTS, 7, 3, 1, 5], seed=4)
ALONE = BatchContext(lambda tensors: [tf.convert_to_tensor(tensor) for tensor in tensors], 0.5)
EVERY = [
    variants.PaddingAsParticles,
    variants.PaddingInStatistics,
    variants.PlainInputs,
    variants.NoSelfAttention,
    variants.SelfAsNeighbour,
    variants.LearntScale,
    variants.DeepSets,
]


def made(kind: type[UCluster]) -> Any:
    network = kind(SMALL, inputs(), 3)
    network.build()
    return network


def embed(network: UCluster, context: BatchContext | None = None) -> np.ndarray:
    return np.asarray(network(tf.constant(FEATURES), tf.constant(COUNTS), context=context).embedding)


@pytest.mark.parametrize("kind", EVERY)
def test_each_variant_trains_and_differs_from_the_default(kind: type[UCluster]) -> None:
    network, default = made(kind), made(UCluster)
    with tf.GradientTape() as tape:
        outputs = network(tf.constant(FEATURES), tf.constant(COUNTS), context=ALONE)
        loss = tf.reduce_sum(outputs.logits**2)
    trainable = [variable.value for variable in network.trainable_variables]
    gradients = tape.gradient(loss, trainable, unconnected_gradients=tf.UnconnectedGradients.ZERO)
    assert all(np.isfinite(tf.convert_to_tensor(gradient)).all() for gradient in gradients)
    embed(default, ALONE)
    # Statistics are what one of them differs in, and a scale that has not been learnt yet is none.
    if kind is not variants.LearntScale:
        assert np.abs(embed(network) - embed(default)).max() > 1e-4


def test_padding_in_statistics_changes_nothing_in_inference() -> None:
    np.testing.assert_allclose(embed(made(variants.PaddingInStatistics)), embed(made(UCluster)), atol=1e-5)


def test_padding_in_statistics_can_be_half_precision() -> None:
    half = variants.PaddingInStatistics(SMALL, inputs(), 3, dtype="mixed_float16")
    half.build()
    np.testing.assert_allclose(embed(half), embed(made(variants.PaddingInStatistics)), atol=2e-2)


def test_padding_as_particles_is_the_default_network_of_full_jets() -> None:
    full = np.full_like(COUNTS, SLOTS)
    expected = made(UCluster)(tf.constant(FEATURES), tf.constant(full)).embedding
    np.testing.assert_allclose(embed(made(variants.PaddingAsParticles)), expected, atol=1e-6)


def test_without_self_attention_nothing_trains_the_nodes_own_term() -> None:
    network = made(variants.NoSelfAttention)
    assert not any("node_score" in variable.path for variable in network.trainable_variables)
    before = embed(network)
    for layer in network.attention:
        layer.node_kernel.assign(-2 * layer.node_kernel)
    np.testing.assert_array_equal(embed(network), before)


def test_a_particle_is_its_first_neighbour() -> None:
    network = made(variants.SelfAsNeighbour)
    packing = pack(COUNTS, SLOTS)
    nodes = np.concatenate([FEATURES[jet, :count] for jet, count in enumerate(COUNTS)])
    graph, others = network.first_graph(tf.constant(nodes), packing), made(UCluster).first_graph(nodes, packing)
    np.testing.assert_array_equal(graph.neighbour[:, 0], np.arange(len(nodes)))
    np.testing.assert_array_equal(graph.neighbour[:, 1:], others.neighbour[:, : SMALL.neighbours - 1])
    sizes = np.repeat(COUNTS, COUNTS)
    np.testing.assert_array_equal(graph.degree, np.minimum(sizes, SMALL.neighbours))
