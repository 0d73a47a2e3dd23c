"""The published networks against their formulas written out edge by edge, in numbers, gradients and statistics."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path

import keras
import numpy as np
import pytest
import tensorflow as tf

from benchmarks.parts.published_oracle import (
    PUBLISHED,
    Arrays,
    Oracle,
    ParticleOracle,
    Shape,
    attention_bias,
    clustering_loss,
    focal_loss,
    moving_names,
    particle_weights,
    random_weights,
)
from sparton.errors import ConfigError
from sparton.physics.features import ucluster_features
from sparton.ucluster.losses import clustering, focal, soft_assignments, squared_distances
from sparton.ucluster.networks import create
from sparton.ucluster.normalisation import BatchContext
from sparton.ucluster.published import PublishedParticleUCluster, PublishedUCluster
from sparton.ucluster.published_checkpoint import (
    PUBLISHED_INPUTS,
    assign_tensors,
    published_tensors,
    read_checkpoint,
)
from sparton.ucluster.published_layers import different_slots
from sparton.ucluster.settings import InputSpec, ModelSettings
from tests.synthetic import random_jets

CHECKPOINT = Path(__file__).resolve().parents[2] / ".." / "shared" / "data" / "ucluster_wztop" / "cluster.ckpt"
SETTINGS = ModelSettings(network="published")
NARROW = Shape(k=4, attention=(4, 6), first=(5, 7), second=(8, 9), embedding=2, head=(6, 5), classes=4, clusters=3)
MOMENTUM = 0.7
ALONE = BatchContext(lambda tensors: [tf.convert_to_tensor(tensor) for tensor in tensors], MOMENTUM)
RNG = np.random.default_rng(8)


def narrow(slots: int = 12) -> PublishedUCluster:
    """Return the network of the shape ``NARROW``."""
    settings = ModelSettings(
        network="published",
        embedding=2,
        neighbours=4,
        attention=NARROW.attention,
        first_block=NARROW.first,
        second_block=NARROW.second,
        head=NARROW.head,
    )
    edges = tuple(float(edge) for edge in range(NARROW.classes))
    return create(settings, PUBLISHED_INPUTS.model_copy(update={"n_particles": slots, "mass_bin_edges": edges}))


def cloud(jets: int, slots: int, features: int = 8, seed: int = 0) -> np.ndarray:
    """Return random tensors with 0 to ``slots`` particles, zero in empty slots."""
    rng = np.random.default_rng(seed)
    tensors = rng.normal(size=(jets, slots, features)).astype(np.float32)
    tensors[np.arange(slots)[None, :] >= rng.integers(0, slots + 1, jets)[:, None]] = 0
    return tensors


def jets(n: int, mean_constituents: float) -> np.ndarray:
    return ucluster_features(random_jets(n, seed=4, mean_constituents=mean_constituents)[0], 100)[0]


def one_particle() -> np.ndarray:
    """Jets with one particle: as ``prepare`` makes them, where it has ln pT(rel) = 0 as empty slots have, and not."""
    tensors = RNG.normal(size=(8, 100, 8)).astype(np.float32)
    tensors[:, 1:] = 0
    tensors[:4, 0, 2] = 0
    return tensors


INPUTS = {
    "jets": jets(32, 50),
    "jets of few particles": jets(32, 6),
    "jets of more particles than slots": jets(16, 150),
    "random tensors": RNG.normal(size=(16, 100, 8)).astype(np.float32),
    "random clouds": cloud(32, 100),
    "one particle": one_particle(),
    "nothing": np.zeros((3, 100, 8), np.float32),
}


@pytest.fixture(scope="module", params=["random", "checkpoint"])
def weights(request: pytest.FixtureRequest) -> Arrays:
    """Weights of the full network: at random, and those that were published."""
    if request.param == "random":
        return random_weights(PUBLISHED, seed=2)
    if not CHECKPOINT.with_suffix(".ckpt.index").exists():
        pytest.skip(f"{CHECKPOINT} is not there")
    return read_checkpoint(str(CHECKPOINT))


def network_with(arrays: Arrays) -> PublishedUCluster:
    network = create(SETTINGS, PUBLISHED_INPUTS)
    assign_tensors(network, arrays, "the test")
    return network


def oracle_with(arrays: Arrays) -> Oracle:
    return Oracle.of({tensor.name: arrays[tensor.name] for tensor in published_tensors(network_with(arrays))})


def test_equal_slots_are_one_node_that_counts_as_often() -> None:
    features = np.zeros((4, 5, 8), np.float32)
    features[0, :2, 3] = [1, 2]  # two particles
    features[1, :, 0] = 1  # full
    features[2, 2, 7] = np.nan  # a slot with nothing in it in front of one that has something
    slots = different_slots(tf.constant(features))
    assert slots.packing.slot.numpy().tolist() == [0, 1, 2, 5, 6, 7, 8, 9, 10, 11, 12, 13, 15]
    assert slots.packing.offsets.numpy().tolist() == [0, 3, 8, 12, 13]
    assert slots.count.numpy().tolist() == [1, 1, 3, 1, 1, 1, 1, 1, 1, 1, 1, 2, 5]
    nodes = tf.range(13.0)[:, None]
    spread = [[0, 1, 2, 2, 2], [3, 4, 5, 6, 7], [8, 9, 10, 11, 11], [12] * 5]
    np.testing.assert_array_equal(slots.spread(nodes)[..., 0], spread)
    np.testing.assert_allclose(slots.mean(nodes)[:, 0], np.mean(spread, axis=1))
    np.testing.assert_array_equal(slots.max(nodes)[:, 0], np.max(spread, axis=1))


@pytest.fixture
def double_precision() -> Iterator[None]:
    before = keras.config.dtype_policy()
    keras.config.set_dtype_policy("float64")
    yield
    keras.config.set_dtype_policy(before)


def counts(features: np.ndarray) -> np.ndarray:
    """Numbers of particles that are wrong: the network must not look at them."""
    return np.full(len(features), -7, np.int32)


def test_number_of_weights_is_the_published_one() -> None:
    network = create(SETTINGS, PUBLISHED_INPUTS)
    sizes = {tensor.name: math.prod(tensor.shape) for tensor in published_tensors(network)}
    averages = {name: size for name, size in sizes.items() if name.endswith("ExponentialMovingAverage")}
    trainable = {name: size for name, size in sizes.items() if name not in averages}
    assert sizes["mu"] == 9
    assert sum(trainable.values()) - 9 == 186_201
    assert sum(averages.values()) == 2_766
    inert = [size for name, size in trainable.items() if "newfea" in name or "self_att" in name]
    assert sum(inert) == 16_950
    head = sum(size for name, size in trainable.items() if name.startswith("fc"))
    assert sum(trainable.values()) - head - 9 == 148_933
    for kind, variables in ((True, network.trainable_variables), (False, network.non_trainable_variables)):
        found = sorted(id(variable) for variable in variables)
        assert found == sorted(id(t.variable) for t in published_tensors(network) if (t.name in trainable) is kind)


def test_every_tensor_has_its_place_in_the_checkpoint(weights: Arrays) -> None:
    """All that the published code trains is in the network and the other way round; the rest is the optimiser's."""
    network = create(SETTINGS, PUBLISHED_INPUTS)
    optimiser = [name for name in weights if "/Adam" in name or name.startswith(("beta1_", "beta2_", "Variable"))]
    assert set(weights) - set(optimiser) == {tensor.name for tensor in published_tensors(network)}
    for tensor in published_tensors(network):
        assert weights[tensor.name].shape == tensor.shape, tensor.name


@pytest.mark.parametrize("name", INPUTS)
def test_embedding_is_that_of_the_formulas(name: str, weights: Arrays) -> None:
    """To 1e-4, but where rounding decides between neighbours that are equally near, which is rare."""
    features = INPUTS[name]
    network, oracle = network_with(weights), oracle_with(weights)
    embedding, logits = network(features, counts(features))
    expected, expected_logits = oracle(features)
    difference = np.abs(np.asarray(embedding) - np.asarray(expected)).max(axis=1)
    assert np.count_nonzero(difference > 1e-4) <= (1 if len(features) > 8 else 0)
    assert np.median(difference) < 1e-5
    agreeing = difference <= 1e-4
    scale = np.abs(expected_logits).max()
    np.testing.assert_allclose(
        np.asarray(logits)[agreeing] / scale, np.asarray(expected_logits)[agreeing] / scale, atol=1e-4
    )


def test_a_full_turn_between_angles_is_taken_as_published() -> None:
    """Beyond 2 pi the published distance is that around the circle, at smaller differences the straight one."""
    features = cloud(8, 12, seed=3)
    features[..., 1] *= 4
    arrays = random_weights(NARROW)
    network = narrow()
    assign_tensors(network, arrays, "the test")
    found = np.asarray(network(features, counts(features)).embedding)
    np.testing.assert_allclose(found, Oracle.of(arrays, NARROW)(features)[0], atol=1e-5)
    straight = features.copy()
    straight[..., 1] = 0
    assert np.ptp(features[..., 1]) > 2 * math.pi
    assert not np.allclose(network(straight, counts(features)).embedding, found, atol=1e-3)


@pytest.mark.parametrize("beta", [0.0, 10.0])
def test_gradients_are_those_of_the_formulas(double_precision: None, beta: float) -> None:
    """In double precision, for the loss of pre-training and the joint one."""
    arrays = random_weights(NARROW, seed=5)
    network = narrow()
    assign_tensors(network, arrays, "the test")
    oracle = Oracle.of(arrays, NARROW, tf.float64)
    features, target = cloud(20, 12, seed=6), RNG.integers(0, NARROW.classes, 20).astype(np.int32)
    with tf.GradientTape() as tape:
        embedding, logits = oracle(features, training=True)
        expected_loss = focal_loss(logits, target) + beta * clustering_loss(embedding, oracle.weights["mu"], 5.0)
    expected = dict(zip(oracle.trainable, tape.gradient(expected_loss, list(oracle.trainable.values())), strict=True))

    with tf.GradientTape() as tape:
        embedding, logits = network(features, counts(features), context=ALONE)
        distances = squared_distances(embedding, network.centroids)
        joint = clustering(distances, soft_assignments(distances, 5.0))
        loss = tf.reduce_mean(focal(logits, target, 4.0, 10.0)) + beta * tf.reduce_mean(joint)
    places = {tensor.name: tensor.variable for tensor in published_tensors(network)}
    found = dict(zip(oracle.trainable, tape.gradient(loss, [places[n].value for n in oracle.trainable]), strict=True))

    assert float(loss) == pytest.approx(float(expected_loss), rel=1e-7)  # the published guard of the logarithm is 1e-9
    largest = max(float(tf.norm(value)) for value in expected.values() if value is not None)
    for name, value in expected.items():
        reference = np.zeros(places[name].shape) if value is None else np.asarray(value)
        np.testing.assert_allclose(found[name], reference, atol=1e-8 * largest, rtol=1e-7, err_msg=name)


def test_gradients_of_the_embedding_agree_to_nine_digits(double_precision: None) -> None:
    """Without the guard of the focal loss there is nothing but rounding between the two."""
    arrays = random_weights(NARROW, seed=9)
    network = narrow()
    assign_tensors(network, arrays, "the test")
    oracle = Oracle.of(arrays, NARROW, tf.float64)
    features, direction = cloud(20, 12, seed=1), RNG.normal(size=(20, NARROW.classes))
    with tf.GradientTape() as tape:
        expected_loss = tf.reduce_sum(direction * oracle(features, training=True)[1])
    expected = tape.gradient(expected_loss, list(oracle.trainable.values()), unconnected_gradients="zero")
    places = {tensor.name: tensor.variable for tensor in published_tensors(network)}
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(direction * network(features, counts(features), context=ALONE).logits)
    values = [places[name].value for name in oracle.trainable]
    found = tape.gradient(loss, values, unconnected_gradients="zero")
    for name, one, other in zip(oracle.trainable, found, expected, strict=True):
        scale = max(float(np.abs(other).max()), 1.0)
        np.testing.assert_allclose(np.asarray(one) / scale, np.asarray(other) / scale, atol=1e-9, err_msg=name)


def test_gradients_in_single_precision() -> None:
    arrays = random_weights(NARROW, seed=5)
    network = narrow()
    assign_tensors(network, arrays, "the test")
    oracle = Oracle.of(arrays, NARROW)
    features, target = cloud(40, 12, seed=2), RNG.integers(0, NARROW.classes, 40).astype(np.int32)
    with tf.GradientTape() as tape:
        expected_loss = focal_loss(oracle(features, training=True)[1], target)
    expected = tape.gradient(expected_loss, list(oracle.trainable.values()), unconnected_gradients="zero")
    places = {tensor.name: tensor.variable for tensor in published_tensors(network)}
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean(focal(network(features, counts(features), context=ALONE).logits, target, 4.0, 10.0))
    found = tape.gradient(loss, [places[name].value for name in oracle.trainable], unconnected_gradients="zero")
    norm = math.sqrt(sum(float(np.square(value).sum()) for value in expected))
    for name, one, other in zip(oracle.trainable, found, expected, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4 * max(np.abs(other).max(), 0.01 * norm), err_msg=name)


def test_moving_averages_after_a_step_are_those_of_the_formulas() -> None:
    """Those of the self-attention branch too, which changes nothing else."""
    arrays = random_weights(PUBLISHED, seed=3)
    network, oracle = network_with(arrays), oracle_with(arrays)
    features = np.concatenate([jets(12, 40), cloud(4, 100)])
    embedding, _ = network(features, counts(features), context=ALONE)
    expected, _ = oracle(features, training=True)
    np.testing.assert_allclose(embedding, expected, atol=1e-4)
    oracle.update_averages(MOMENTUM)
    for tensor in published_tensors(network):
        value = oracle.weights[tensor.name].numpy()
        np.testing.assert_allclose(tensor.variable, value, rtol=1e-3, atol=1e-4, err_msg=tensor.name)


def test_self_attention_has_no_effect_and_no_gradient() -> None:
    features = cloud(10, 12, seed=4)
    network = narrow()
    assign_tensors(network, random_weights(NARROW), "the test")
    inert = [t.variable for t in published_tensors(network) if "newfea" in t.name or "self_att" in t.name]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(network(features, counts(features), context=ALONE).logits)
    for gradient in tape.gradient(loss, [variable.value for variable in inert if variable.trainable]):
        np.testing.assert_array_equal(gradient, 0)
    before = np.asarray(network(features, counts(features)).embedding)
    for variable in inert:
        variable.assign(variable + 1)
    np.testing.assert_array_equal(network(features, counts(features)).embedding, before)


def test_jets_of_weight_zero_change_nothing() -> None:
    features = cloud(9, 12, seed=7)
    weight = np.array([1, 1, 1, 1, 1, 0, 0, 0, 0], np.float32)
    first, second = narrow(), narrow()
    part = first(features[:5], counts(features[:5]), context=ALONE)
    whole = second(features, counts(features), weight=tf.constant(weight), context=ALONE)
    np.testing.assert_allclose(whole.embedding[:5], part.embedding, atol=1e-6)
    for one, other in zip(first.variables, second.variables, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-6)


def test_each_jet_is_embedded_by_itself() -> None:
    features = cloud(6, 12, seed=8)
    network = narrow()
    together = np.asarray(network(features, counts(features)).embedding)
    alone = np.concatenate([network(features[i : i + 1], counts(features)[:1]).embedding for i in range(6)])
    np.testing.assert_allclose(together, alone, atol=1e-6)


def test_the_embedding_depends_on_padding_as_published() -> None:
    """The mean over all slots: more empty ones shift it. The default network does not do that."""
    features = cloud(5, 12, seed=9)
    arrays = random_weights(NARROW)
    network, wider = narrow(), narrow(30)
    for each in (network, wider):
        assign_tensors(each, arrays, "the test")
    padded = np.concatenate([features, np.zeros((5, 18, 8), np.float32)], axis=1)
    found = np.asarray(wider(padded, counts(features)).embedding)
    np.testing.assert_allclose(found, Oracle.of(arrays, NARROW)(padded)[0], atol=1e-5)
    assert not np.allclose(found, network(features, counts(features)).embedding, atol=1e-3)


def test_features_without_the_sign_of_empty_slots_are_refused() -> None:
    inputs = InputSpec(
        feature_names=("etarel", "phirel", "log_pt"),
        feature_mean=(0, 0, 0),
        feature_std=(1, 1, 1),
        n_particles=5,
        mass_bin_edges=(0, 1),
    )
    with pytest.raises(ConfigError, match="log_ptrel; found etarel, phirel, log_pt"):
        create(SETTINGS, inputs)


def test_configuration_round_trip() -> None:
    network = create(SETTINGS, PUBLISHED_INPUTS, seed=5)
    assert PublishedUCluster.from_config(network.get_config()).get_config() == network.get_config()


PARTICLE_FEATURES = ("etarel", "phirel", "log_ptrel", "log_erel", "log_pt", "log_e", "deltaR")
PARTICLE_SHAPE = Shape(features=7, embedding=2, classes=21, clusters=2)


def particle_network() -> PublishedParticleUCluster:
    inputs = InputSpec(
        feature_names=PARTICLE_FEATURES,
        feature_mean=(0,) * 7,
        feature_std=(1,) * 7,
        n_particles=100,
        mass_bin_edges=(*np.linspace(10, 1000, 20).tolist(), 1e5),
    )
    network = PublishedParticleUCluster(SETTINGS.model_copy(update={"embedding": 2, "n_clusters": 2}), inputs)
    network.build()
    return network


def test_number_of_weights_of_the_network_for_particles_is_the_published_one() -> None:
    network = particle_network()
    assert sum(math.prod(variable.shape) for variable in network.trainable_variables) == 266_935 + 4
    config = network.get_config()
    assert PublishedParticleUCluster.from_config(config).get_config() == config


def with_particle_weights(network: PublishedParticleUCluster, arrays: Arrays) -> None:
    """Give the network the oracle's weights, layer by layer."""
    scopes = {"global_expand": network.expand, "agg": network.aggregate}
    scopes |= {f"seg/conv{2 + 2 * i}": layer for i, layer in enumerate(network.head)}
    scopes |= {f"gapnet{b}{i + 1}": each for b, block in enumerate(network.body.blocks) for i, each in enumerate(block)}
    places = {scope: (layer.kernel, layer.norm) for scope, layer in scopes.items()}
    for index, layer in enumerate(network.body.attention):
        places[f"layerfilter{index}_edgefea_0"] = (layer.edge_kernel, layer.edge_norm)
        places[f"layerfilter{index}_neib_att_conv_head_0"] = (layer.neighbour_kernel, layer.neighbour_norm)
        layer.bias.assign(arrays[attention_bias(index)])
    for scope, (kernel, norm) in places.items():
        kernel.assign(arrays[f"{scope}/weights"][0, 0])
        norm.bias.assign(arrays[f"{scope}/biases"])
        norm.norm.gamma.assign(arrays[f"{scope}/bn/gamma"])
        norm.norm.beta.assign(arrays[f"{scope}/bn/beta"])
        for average, name in zip((norm.norm.moving_mean, norm.norm.moving_variance), moving_names(scope), strict=True):
            average.assign(arrays[name])
    network.logits.kernel.assign(arrays["seg/conv5/weights"][0, 0])
    network.logits.bias.assign(arrays["seg/conv5/biases"])


@pytest.mark.parametrize("training", [False, True])
def test_network_for_particles_is_that_of_the_formulas(double_precision: None, training: bool) -> None:
    arrays = particle_weights(PARTICLE_SHAPE)
    network = particle_network()
    with_particle_weights(network, arrays)
    features, of_jets = cloud(12, 100, 7, seed=5), RNG.normal(size=(12, 4)).astype(np.float32)
    embedding, logits = network(features, counts(features), of_jets, context=ALONE if training else None)
    oracle = ParticleOracle.of(arrays, PARTICLE_SHAPE, tf.float64)
    assert isinstance(oracle, ParticleOracle)
    expected, expected_logits = oracle.classify(features, of_jets, training)
    np.testing.assert_allclose(embedding, expected, atol=1e-9)
    np.testing.assert_allclose(logits, expected_logits, rtol=1e-9, atol=1e-9)


def test_the_published_network_refuses_layers_that_it_does_not_have() -> None:
    with pytest.raises(ConfigError, match=r"expected no jet_block\. Received: jet_block=\[64\]"):
        ModelSettings(network="published", jet_block=(64,))
    assert ModelSettings(network="published", jet_block=()).jet_block == ()
