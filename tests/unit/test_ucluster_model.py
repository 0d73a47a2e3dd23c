"""The network: invariances, sizes, edge cases."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from sparton.config import load_config
from sparton.errors import ConfigError
from sparton.pipeline import PipelineSettings
from sparton.ucluster.graph import pack
from sparton.ucluster.model import UCluster
from sparton.ucluster.normalisation import BatchContext, BatchNorm
from sparton.ucluster.settings import PUBLISHED_SIZES, InputSpec, ModelSettings
from tests.clouds import SLOTS, SMALL, SMALL_WITH_MEANS, SMALL_WITH_MULTIPLICITY, clouds, inputs, network

ALONE = BatchContext(lambda tensors: [tf.convert_to_tensor(tensor) for tensor in tensors], 0.9)
MODEL = network()
WITH_MULTIPLICITY = network(settings=SMALL_WITH_MULTIPLICITY)
WITH_MEANS = network(settings=SMALL_WITH_MEANS)
EACH = pytest.mark.parametrize(
    "model", [MODEL, WITH_MULTIPLICITY, WITH_MEANS], ids=["default", "multiplicity", "means"]
)


def embed(features: np.ndarray, counts: np.ndarray, model: UCluster = MODEL) -> np.ndarray:
    return np.asarray(model(tf.constant(features), tf.constant(counts)).embedding)


def test_number_of_weights_is_the_published_one_with_a_jet_block_and_without_superfluous_biases() -> None:
    """The published network has 186,201 weights and 9 centroid values.

    Left out are biases in front of normalisations, which cancel, and in each attention layer the normalisations of the
    two coefficients with one of their two biases. In place of the aggregation of 848 channels to 3 on each particle
    comes a block on the jet.
    """
    sizes = ModelSettings(**PUBLISHED_SIZES | {"jet_block": (64,)})
    model = UCluster(sizes, InputSpec(**inputs(100).model_dump() | {"mass_bin_edges": tuple(range(20))}))
    model.build()
    weights = sum(math.prod(variable.shape) for variable in model.trainable_variables)
    cancelling = (64 + 128 + 256 + 256 + 3 + 256 + 128) + (16 + 128)
    coefficients = 2 * (2 * 2 + 1)
    aggregation, jet = 848 * 3 + 2 * 3, 848 * 64 + 2 * 64 + 64 * 3
    assert weights == 186_201 + 9 - cancelling - coefficients - aggregation + jet


@pytest.mark.parametrize("settings", [SMALL, SMALL_WITH_MULTIPLICITY, SMALL_WITH_MEANS])
def test_jet_block_and_embedding_are_those_of_the_sums_over_particles(settings: ModelSettings) -> None:
    """Against float64 NumPy: sums, or means, of the nodes' channels, and ln N; normalised, dense, projected."""
    features, counts = clouds([7, 1, 0, SLOTS, 4])
    model = network(settings=settings, seed=5)
    rng = np.random.default_rng(2)
    for variable in model.variables:
        if "moving" in variable.path:
            variable.assign(rng.uniform(0.5, 2, variable.shape))
    parts = [np.asarray(part, float) for part in model.particles(tf.constant(features), pack(counts, SLOTS))]
    nodes, offsets = np.concatenate(parts, axis=1), np.concatenate([[0], counts.cumsum()])
    rows = np.array([nodes[low:high].sum(axis=0) for low, high in pairwise(offsets)])
    if settings.pooling == "mean":
        rows /= np.maximum(counts, 1)[:, None]
    if settings.multiplicity:
        rows = np.column_stack([rows, np.log(np.maximum(counts, 1))])

    def normalised(rows: np.ndarray, norm: BatchNorm) -> np.ndarray:
        mean, variance = np.asarray(norm.moving_mean, float), np.asarray(norm.moving_variance, float)
        found = (rows - mean) / np.sqrt(variance + norm.epsilon)
        return found * np.asarray(norm.gamma, float) + np.asarray(norm.beta, float) if norm.affine else found

    rows = normalised(rows, model.pooled_norm)
    for layer in model.jet_block:
        rows = np.maximum(normalised(rows @ np.asarray(layer.kernel, float), layer.norm), 0)
    expected = normalised(rows @ np.asarray(model.projection.kernel, float), model.embedding_norm)
    np.testing.assert_allclose(embed(features, counts, model), expected, rtol=1e-4, atol=1e-4)


def test_multiplicity_alone_moves_the_embedding_where_the_sums_have_no_say() -> None:
    """Jets of equally many particles lie together whatever these are, others elsewhere, by a chain of closed forms."""
    model = network(settings=SMALL_WITH_MULTIPLICITY.model_copy(update={"jet_block": ()}))
    kernel = np.zeros(model.projection.kernel.shape, np.float32)
    kernel[-1] = [2.0, -1.0]
    model.projection.kernel.assign(kernel)
    features, counts = clouds([5, 5, 2, SLOTS])
    unit = np.sqrt(1 + SMALL.epsilon)  # statistics are still those of mean 0 and variance 1
    expected = np.log(counts)[:, None] * [[2.0, -1.0]] / unit**2
    np.testing.assert_allclose(embed(features, counts, model), expected, rtol=1e-5)


def test_multiplicity_is_normalised_over_the_jets_of_a_batch() -> None:
    """With its averages at once those of the batch, ln N enters with mean 0 and variance 1."""
    model = network(settings=SMALL_WITH_MULTIPLICITY)
    features, counts = clouds([1, 2, 4, 8, 12])
    context = BatchContext(ALONE.reduce, 0.0)
    model(tf.constant(features), tf.constant(counts), context=context)
    assert float(model.pooled_norm.moving_mean[-1]) == pytest.approx(np.log(counts).mean(), rel=1e-5)
    assert float(model.pooled_norm.moving_variance[-1]) == pytest.approx(np.log(counts).var(), rel=1e-4)


NO_POOLING = (
    r"^the defaults with --set model\.network, --set model\.pooling: model: .* a mean over all slots, padding too, and "
    r"nothing else\. Received: pooling=mean; leave it out, or take network: default$"
)


def test_published_network_refuses_another_pooling() -> None:
    with pytest.raises(ConfigError, match=NO_POOLING):
        load_config(PipelineSettings, None, ["model.network=published", "model.pooling=mean"])


def test_published_network_refuses_multiplicity() -> None:
    with pytest.raises(ConfigError, match="no layers on the jet that could read multiplicity: true"):
        load_config(PipelineSettings, None, ["model.network=published", "model.multiplicity=true"])
    with pytest.raises(ConfigError, match=r"section model: .*take network: default"):
        load_config(PipelineSettings, None, ["model.multiplicity=true"]).model.published()
    assert load_config(PipelineSettings, None, ["model.multiplicity=true"]).model.multiplicity


def test_without_a_jet_block_the_embedding_is_linear_in_the_sums() -> None:
    model = network(settings=SMALL.model_copy(update={"jet_block": ()}))
    pooled = np.random.default_rng(1).normal(size=(2, model.projection.kernel.shape[0])).astype(np.float32)
    first, second, middle = np.asarray(model.embed(np.concatenate([pooled, pooled.mean(axis=0, keepdims=True)])))
    np.testing.assert_allclose(middle, first / 2 + second / 2, atol=1e-5)


@EACH
@hypothesis_settings(max_examples=20, deadline=None)
@given(counts=st.lists(st.integers(0, SLOTS), min_size=1, max_size=4), seed=st.integers(0, 1000))
def test_embedding_does_not_depend_on_the_order_of_constituents(model: UCluster, counts: list[int], seed: int) -> None:
    features, n_particles = clouds(counts, seed=seed)
    shuffled = features.copy()
    rng = np.random.default_rng(seed)
    for jet, count in enumerate(counts):
        shuffled[jet, :count] = features[jet, rng.permutation(count)]
    np.testing.assert_allclose(embed(shuffled, n_particles, model), embed(features, n_particles, model), atol=1e-5)


@EACH
def test_embedding_does_not_depend_on_padding(model: UCluster) -> None:
    features, counts = clouds([SLOTS, 5, 1, 0])
    expected = embed(features, counts, model)
    filled = features.copy()
    filled[np.arange(SLOTS)[None, :] >= counts[:, None]] = 1e3
    np.testing.assert_allclose(embed(filled, counts, model), expected, atol=1e-6)
    wider = network(slots=SLOTS + 9, settings=model.settings)
    wider.set_weights(model.get_weights())
    padded = np.concatenate([features, np.full((4, 9, 8), -7, np.float32)], axis=1)
    np.testing.assert_allclose(embed(padded, counts, wider), expected, atol=1e-5)


def test_each_jet_is_embedded_by_itself() -> None:
    features, counts = clouds([7, 5, 3, 12])
    together = embed(features, counts)
    alone = np.concatenate([embed(features[i : i + 1], counts[i : i + 1]) for i in range(4)])
    np.testing.assert_allclose(together, alone, atol=1e-5)


def test_the_graph_in_angles_is_periodic() -> None:
    """Shifting all phirel by a full turn leaves neighbours alone; the inputs differ, so compare the graphs."""
    from sparton.ucluster.graph import angular_distance, nearest, pack

    features, counts = clouds([SLOTS, 6])
    packing = pack(counts, SLOTS)
    first = nearest(angular_distance(features[..., 0], features[..., 1]), packing, 4)
    turned = features[..., 1] + np.float32(2 * math.pi) * np.sign(features[..., 1])
    second = nearest(angular_distance(features[..., 0], turned), packing, 4)
    np.testing.assert_array_equal(first.neighbour, second.neighbour)


@pytest.mark.parametrize("settings", [SMALL, SMALL_WITH_MULTIPLICITY], ids=["default", "multiplicity"])
@pytest.mark.parametrize("counts", [[1], [1, 1, 1], [2, 1, 0], [0, 0], [SLOTS, 1]])
def test_gradients_are_finite_for_tiny_jets(counts: list[int], settings: ModelSettings) -> None:
    model = network(settings=settings)
    features, n_particles = clouds(counts)
    weight = (n_particles > 0).astype(np.float32)
    with tf.GradientTape() as tape:
        outputs = model(tf.constant(features), tf.constant(n_particles), weight=tf.constant(weight), context=ALONE)
        loss = tf.reduce_sum(outputs.logits**2) + tf.reduce_sum(outputs.embedding)
    variables = [variable.value for variable in model.trainable_variables]
    for gradient in tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO):
        assert np.isfinite(tf.convert_to_tensor(gradient)).all()


def test_embedding_has_unit_variance_in_training() -> None:
    features, counts = clouds([SLOTS] * 200)
    outputs = network()(tf.constant(features), tf.constant(counts), context=ALONE)
    np.testing.assert_allclose(np.asarray(outputs.embedding).std(axis=0), 1, atol=0.02)


@pytest.mark.parametrize("settings", [SMALL, SMALL_WITH_MULTIPLICITY], ids=["default", "multiplicity"])
def test_jets_of_weight_zero_change_nothing(settings: ModelSettings) -> None:
    features, counts = clouds([8, 5, 12, 3])
    weight = np.array([1, 1, 0, 0], np.float32)
    first, second = network(settings=settings), network(settings=settings)
    part = first(tf.constant(features[:2]), tf.constant(counts[:2]), context=ALONE)
    whole = second(tf.constant(features), tf.constant(counts), weight=tf.constant(weight), context=ALONE)
    np.testing.assert_allclose(whole.embedding[:2], part.embedding, atol=1e-6)
    for one, other in zip(first.variables, second.variables, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("more", [0, 1, 100])
def test_a_fixed_number_of_nodes_changes_nothing(more: int, training: bool) -> None:
    """Neither results nor gradients nor averages, however many nodes are empty; jets without particles included."""
    features, counts = clouds([3, 0, SLOTS, 1, 0, 7])
    target = np.random.default_rng(1).normal(size=(len(counts), 2)).astype(np.float32)
    found = []
    for nodes in (None, int(counts.sum()) + more):
        model = network(settings=SMALL_WITH_MULTIPLICITY)
        with tf.GradientTape() as tape:
            outputs = model(features, counts, context=ALONE if training else None, nodes=nodes)
            loss = tf.reduce_sum(outputs.logits**2) + tf.reduce_sum(target * outputs.embedding)
        variables = [variable.value for variable in model.trainable_variables]
        gradients = tape.gradient(loss, variables, unconnected_gradients=tf.UnconnectedGradients.ZERO)
        found.append([*outputs, *map(tf.convert_to_tensor, gradients), *map(np.array, model.variables)])
    for free, fixed in zip(*found, strict=True):
        np.testing.assert_allclose(fixed, free, rtol=1e-4, atol=1e-5 * max(1.0, float(np.abs(free).max())))


@pytest.mark.parametrize("training", [False, True])
def test_more_particles_than_nodes_give_no_number(training: bool) -> None:
    features, counts = clouds([3, SLOTS])
    outputs = network()(features, counts, context=ALONE if training else None, nodes=SLOTS + 2)
    assert np.isnan(outputs.embedding).all()
    assert np.isnan(outputs.logits).all()


def test_equal_seeds_give_equal_networks() -> None:
    one, same, other = network(seed=1), network(seed=1), network(seed=2)
    pairs = list(zip(one.trainable_variables, same.trainable_variables, strict=True))
    assert all(np.array_equal(a, b) for a, b in pairs)
    assert any(not np.array_equal(a, b) for a, b in zip(one.variables, other.variables, strict=True))


@EACH
def test_configuration_round_trip(model: UCluster) -> None:
    assert UCluster.from_config(model.get_config()).get_config() == model.get_config()
