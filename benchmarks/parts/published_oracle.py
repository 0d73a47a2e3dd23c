"""The published UCluster networks written out plainly: what the project's layers are tested and timed against.

Every formula stands as in the papers: neighbours are gathered, differences taken and a dense layer run over every
edge; statistics are those of TensorFlow's own function; nothing is rearranged or left out. Weights go by the names of
the published TensorFlow 1 checkpoints. It shares no code with the project's networks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

EPSILON = 1e-3  # in batch normalisation
LEAK = 0.2  # slope of LeakyReLU below 0
PADDING_SHIFT = 1000.0  # what an empty slot adds to distances in the first graph

Arrays = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Shape:
    """Sizes of the network; the defaults are those of the published run.

    Features are in the published order: the first two are angles, the third is 0 in empty slots.
    """

    features: int = 8
    k: int = 10
    attention: tuple[int, int] = (16, 128)
    first: tuple[int, ...] = (64, 128)
    second: tuple[int, ...] = (256, 256)
    embedding: int = 3
    head: tuple[int, ...] = (256, 128)
    classes: int = 20
    clusters: int = 3

    @property
    def body(self) -> int:
        """Channels of everything that is aggregated."""
        return sum((*self.first, *self.second, *self.attention))

    def attention_layers(self) -> list[tuple[str, int, int]]:
        """Return (scope, channels of the input, channels) of each attention layer."""
        inputs = (self.features, self.first[-1])
        return [
            (f"layerfilter{i}", width, units)
            for i, (width, units) in enumerate(zip(inputs, self.attention, strict=True))
        ]

    def dense_layers(self) -> list[tuple[str, int, int]]:
        """Return (scope, channels of the input, channels) of each normalised layer outside the attention."""
        layers = []
        for block, (widths, attended) in enumerate(zip((self.first, self.second), self.attention, strict=True)):
            inputs = (self.features + attended, *widths[:-1])
            layers += [(f"gapnet{block}{i + 1}", *pair) for i, pair in enumerate(zip(inputs, widths, strict=True))]
        layers.append(("agg", self.body, self.embedding))
        inputs = (self.embedding, *self.head[:-1])
        return layers + [(f"fc{i + 1}", *pair) for i, pair in enumerate(zip(inputs, self.head, strict=True))]


PUBLISHED = Shape()


def random_weights(shape: Shape, seed: int = 0) -> Arrays:
    """Return weights and moving averages as a checkpoint has them: kernels as convolutions, all values at random.

    Biases, scales and averages are away from what a fresh network has, so that each of them matters.
    """
    rng = np.random.default_rng(seed)
    weights: Arrays = {}

    def dense(scope: str, width: int, units: int, flat: bool = False, bias: bool = True, norm: bool = True) -> None:
        kernel = rng.normal(0, math.sqrt(2 / (width + units)), (width, units))
        weights[f"{scope}/weights"] = kernel if flat else kernel[None, None]
        if bias:
            weights[f"{scope}/biases"] = rng.normal(0, 0.1, units)
        if norm:
            weights[f"{scope}/bn/gamma"] = rng.uniform(0.5, 1.5, units)
            weights[f"{scope}/bn/beta"] = rng.normal(0.2, 0.2, units)
            mean, variance = moving_names(scope)
            weights[mean], weights[variance] = rng.normal(0, 0.3, units), rng.uniform(0.5, 2, units)

    for index, (scope, width, units) in enumerate(shape.attention_layers()):
        dense(f"{scope}_newfea_conv_head_0", width, units, bias=False)
        dense(f"{scope}_edgefea_0", width, units)
        dense(f"{scope}_self_att_conv_head_0", units, 1)
        dense(f"{scope}_neib_att_conv_head_0", units, 1)
        weights[f"{attention_bias(index)}"] = rng.normal(0, 0.1, units)
    for scope, width, units in shape.dense_layers():
        dense(scope, width, units, flat=scope.startswith("fc"))
    dense(f"fc{len(shape.head) + 1}", shape.head[-1], shape.classes, flat=True, norm=False)
    weights["mu"] = rng.uniform(0, 1, (shape.clusters, shape.embedding))
    return {name: value.astype(np.float32) for name, value in weights.items()}


def moving_names(scope: str) -> tuple[str, str]:
    """Return the names of the moving averages of mean and variance of a layer."""
    stem = f"{scope}/bn/{scope}/bn/moments/Squeeze"
    return f"{stem}/ExponentialMovingAverage", f"{stem}_1/ExponentialMovingAverage"


def attention_bias(index: int) -> str:
    """Return the name of the output bias of an attention layer."""
    return "BiasAdd/biases" if index == 0 else f"BiasAdd_{index}/biases"


@dataclass
class Oracle:
    """The network that classifies jets.

    Attributes
    ----------
    shape
        Its sizes.
    weights
        Variables by their names in a checkpoint; kernels as matrices.
    moments
        Mean and variance of each normalised layer in the last training call, by scope.
    """

    shape: Shape
    weights: dict[str, tf.Variable]
    moments: dict[str, tuple[tf.Tensor, tf.Tensor]] = field(default_factory=dict)

    @classmethod
    def of(cls, arrays: Mapping[str, NDArray[Any]], shape: Shape = PUBLISHED, dtype: Any = tf.float32) -> Oracle:
        """Return a network with these weights; float64 computes all but the graphs in double precision."""
        weights = {
            name: tf.Variable(
                tf.cast(value.reshape(value.shape[-2:]) if name.endswith("/weights") else value, dtype),
                trainable=not name.endswith("/ExponentialMovingAverage"),
            )
            for name, value in arrays.items()
        }
        return cls(shape, weights)

    @property
    def trainable(self) -> dict[str, tf.Variable]:
        """The variables that training changes, by name."""
        return {name: variable for name, variable in self.weights.items() if variable.trainable}

    def __call__(self, features: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Return embedding [B, D] and logits [B, classes] of features [B, P, F]."""
        features = tf.cast(features, self.weights["agg/weights"].dtype)
        layers, local = self._body(features, training)
        joined = tf.concat([*layers, *local], axis=-1)
        embedding = tf.reduce_mean(self._dense("agg", joined, training), axis=1)
        rows = embedding
        for number in range(1, len(self.shape.head) + 1):
            rows = self._dense(f"fc{number}", rows, training)
        return embedding, self._linear(f"fc{len(self.shape.head) + 1}", rows)

    def update_averages(self, momentum: float | tf.Tensor) -> None:
        """Move the moving averages towards the last training call's moments."""
        for scope, moments in self.moments.items():
            for name, value in zip(moving_names(scope), moments, strict=True):
                average = self.weights[name]
                average.assign(momentum * average + (1 - momentum) * value)

    def _body(self, features: tf.Tensor, training: bool) -> tuple[list[tf.Tensor], list[tf.Tensor]]:
        """Return the outputs of the dense layers and the largest edge encodings of the attention layers."""
        first, largest_first = self._attention(0, features, _plane_neighbours(features, self.shape.k), training)
        layers = [self._dense("gapnet01", tf.concat([features, first], axis=-1), training)]
        for number in range(2, len(self.shape.first) + 1):
            layers.append(self._dense(f"gapnet0{number}", layers[-1], training))
        second, largest_second = self._attention(1, layers[-1], _space_neighbours(layers[-1], self.shape.k), training)
        layers.append(self._dense("gapnet11", tf.concat([features, second], axis=-1), training))
        for number in range(2, len(self.shape.second) + 1):
            layers.append(self._dense(f"gapnet1{number}", layers[-1], training))
        return layers, [largest_first, largest_second]

    def _attention(
        self, index: int, slots: tf.Tensor, neighbour: tf.Tensor, training: bool
    ) -> tuple[tf.Tensor, tf.Tensor]:
        scope = f"layerfilter{index}"
        own = self._dense(f"{scope}_newfea_conv_head_0", slots[:, :, None], training)
        central = tf.tile(slots[:, :, None], [1, 1, neighbour.shape[2], 1])
        edges = central - tf.gather(slots, neighbour, batch_dims=1)
        edges = self._dense(f"{scope}_edgefea_0", edges, training)
        scores = self._dense(f"{scope}_self_att_conv_head_0", own, training)
        scores += self._dense(f"{scope}_neib_att_conv_head_0", edges, training)
        shares = tf.nn.softmax(tf.nn.leaky_relu(scores, LEAK), axis=2)
        mixed = tf.reduce_sum(shares * edges, axis=2)
        return tf.nn.relu(mixed + self.weights[attention_bias(index)]), tf.reduce_max(edges, axis=2)

    def _dense(self, scope: str, values: tf.Tensor, training: bool) -> tf.Tensor:
        """Return ``ReLU(BN(x W + b))``, statistics over all but the last axis."""
        values = self._linear(scope, values)
        if training:
            moments = tf.nn.moments(values, list(range(len(values.shape) - 1)))
            self.moments[scope] = moments
        else:
            moments = [self.weights[name] for name in moving_names(scope)]
        beta, gamma = self.weights[f"{scope}/bn/beta"], self.weights[f"{scope}/bn/gamma"]
        return tf.nn.relu(tf.nn.batch_normalization(values, *moments, beta, gamma, EPSILON))

    def _linear(self, scope: str, values: tf.Tensor) -> tf.Tensor:
        product = tf.matmul(values, self.weights[f"{scope}/weights"])
        bias = self.weights.get(f"{scope}/biases")
        return product if bias is None else product + bias


class ParticleOracle(Oracle):
    """The network that classifies particles; its further scopes are ``global_expand``, ``seg/conv2, 4`` and ``5``."""

    def classify(self, features: tf.Tensor, jets: tf.Tensor, training: bool = False) -> tuple[tf.Tensor, tf.Tensor]:
        """Return embedding [B, D] and logits [B, P, classes] of features [B, P, F] and [B, G]."""
        dtype = self.weights["agg/weights"].dtype
        features, jets = tf.cast(features, dtype), tf.cast(jets, dtype)
        n_slots = features.shape[1]
        layers, local = self._body(features, training)
        expanded = self._dense("global_expand", tf.tile(jets[:, None], [1, n_slots, 1]), training)
        joined = tf.concat([*layers, expanded, *local], axis=-1)
        embedding = tf.reduce_max(self._dense("agg", joined, training), axis=1)
        first, second = layers[0], layers[len(self.shape.first)]
        rows = tf.concat([tf.tile(embedding[:, None], [1, n_slots, 1]), first, second], axis=-1)
        for scope in ("seg/conv2", "seg/conv4"):
            rows = self._dense(scope, rows, training)
        return embedding, self._linear("seg/conv5", rows)


def particle_weights(shape: Shape, n_globals: int = 4, expanded: int = 16, seed: int = 0) -> Arrays:
    """Return random weights for :class:`ParticleOracle`, as :func:`random_weights` does for the other network."""
    weights = {name: value for name, value in random_weights(shape, seed).items() if not name.startswith("fc")}
    width = shape.embedding + shape.first[0] + shape.second[0]
    layers = [
        ("global_expand", n_globals, expanded),
        ("agg", shape.body + expanded, shape.embedding),
        ("seg/conv2", width, shape.head[0]),
        ("seg/conv4", shape.head[0], shape.head[1]),
        ("seg/conv5", shape.head[1], shape.classes),
    ]
    rng = np.random.default_rng(seed + 1)
    for scope, inputs, units in layers:
        weights[f"{scope}/weights"] = rng.normal(0, math.sqrt(2 / (inputs + units)), (1, 1, inputs, units))
        weights[f"{scope}/biases"] = rng.normal(0, 0.1, units)
        if scope != "seg/conv5":
            weights[f"{scope}/bn/gamma"] = rng.uniform(0.5, 1.5, units)
            weights[f"{scope}/bn/beta"] = rng.normal(0.2, 0.2, units)
            mean, variance = moving_names(scope)
            weights[mean], weights[variance] = rng.normal(0, 0.3, units), rng.uniform(0.5, 2, units)
    return {name: value.astype(np.float32) for name, value in weights.items()}


def focal_loss(logits: tf.Tensor, target: tf.Tensor, gamma: float = 4.0, scale: float = 10.0) -> tf.Tensor:
    """Return the mean of ``scale (1 - p)^gamma (-ln p)`` of the true classes, with the published guard of 1e-9."""
    p = tf.gather(tf.nn.softmax(logits), target, batch_dims=1) + 1e-9
    return tf.reduce_mean(scale * (1 - p) ** gamma * -tf.math.log(p))


def clustering_loss(embedding: tf.Tensor, centroids: tf.Tensor, alpha: float | tf.Tensor) -> tf.Tensor:
    """Return the mean of the squared distances, weighted by their softmax."""
    distances = tf.reduce_sum((embedding[:, None] - centroids[None]) ** 2, axis=-1)
    return tf.reduce_mean(tf.reduce_sum(distances * tf.nn.softmax(-alpha * distances), axis=-1))


def _plane_neighbours(features: tf.Tensor, k: int) -> tf.Tensor:
    """Return the ``k`` nearest slots in the first two features; single precision, as its ties decide."""
    features = tf.cast(features, tf.float32)
    phi = features[:, :, 1]
    turn = tf.abs(phi[:, None, :] - phi[:, :, None])
    correction = tf.where(turn >= 2 * np.pi, 4 * np.pi**2 - 4 * np.pi * turn, tf.zeros_like(turn))
    shift = PADDING_SHIFT * tf.cast(features[:, :, 2:3] == 0, tf.float32)
    distance = _squared_distances(features[:, :, :2]) + correction + shift + tf.transpose(shift, [0, 2, 1])
    return tf.math.top_k(-distance, k).indices


def _space_neighbours(points: tf.Tensor, k: int) -> tf.Tensor:
    return tf.math.top_k(-_squared_distances(tf.cast(points, tf.float32)), k).indices


def _squared_distances(points: tf.Tensor) -> tf.Tensor:
    squares = tf.reduce_sum(tf.square(points), axis=-1, keepdims=True)
    product = -2 * tf.matmul(points, points, transpose_b=True)
    return squares + product + tf.transpose(squares, [0, 2, 1])
