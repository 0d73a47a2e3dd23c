"""The published networks: padding, statistics and attention as in the code of arXiv:2010.07106.

Two variants share their body: one that classifies jets by mass bins, and one that classifies each particle, which was
used for the search for anomalies.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple, Self

import keras
import numpy as np
from keras import ops

from sparton.errors import ConfigError
from sparton.ucluster.graph import Graph, gather_nodes
from sparton.ucluster.model import Outputs
from sparton.ucluster.normalisation import BatchContext
from sparton.ucluster.precision import MixedLayer
from sparton.ucluster.published_layers import (
    SEEDS,
    BiasedDense,
    Columns,
    PublishedAttention,
    Slots,
    different_slots,
    nearest_in_plane,
    nearest_in_space,
)
from sparton.ucluster.settings import InputSpec, ModelSettings

Tensor = Any

SENTINEL = "log_ptrel"
"""The feature that is 0 in empty slots (and in those that hold all of a jet's pT)."""

GLOBAL_WIDTH = 16
"""Channels that the per-particle network makes of the jet-level features."""


class Encoded(NamedTuple):
    """What the body makes of the M different slots: outputs of each block's layers, largest edges, weights [M]."""

    first: list[Tensor]
    second: list[Tensor]
    edges: list[Tensor]
    weight: Tensor
    slots: Slots


class Body(MixedLayer):
    """Two blocks of graph attention and shared dense layers on the slots.

    The first graph joins neighbours in (eta, phi), the second one in what the first block computed; in the second,
    empty slots are slots like all others. Slots that are equal are computed once.

    Parameters
    ----------
    settings
        Sizes.
    inputs
        The tensor to be read.
    seeds
        Seeds of the initial weights, of which as many are taken as there are layers.
    """

    def __init__(self, settings: ModelSettings, inputs: InputSpec, seeds: Iterator[int], **kwargs: Any) -> None:
        super().__init__(**kwargs)
        if SENTINEL not in inputs.feature_names:
            raise ConfigError(
                f"the published network finds empty slots by the feature {SENTINEL}; "
                f"found {', '.join(inputs.feature_names)}"
            )
        self.settings = settings
        self.n_features = inputs.n_features
        self.columns = Columns(*inputs.angles, inputs.feature_names.index(SENTINEL))
        self.attention = [
            PublishedAttention(width, settings.epsilon, next(seeds), name=f"attention_{index}", dtype=self.dtype_policy)
            for index, width in enumerate(settings.attention)
        ]
        self.blocks = [
            [
                BiasedDense(
                    width, settings.epsilon, next(seeds), name=f"block_{block}_{layer}", dtype=self.dtype_policy
                )
                for layer, width in enumerate(widths)
            ]
            for block, widths in enumerate((settings.first_block, settings.second_block))
        ]

    def build(self, input_shape: Any = None) -> None:
        """Create all weights; the shapes follow from the settings."""
        width = self.n_features
        for attention, block in zip(self.attention, self.blocks, strict=True):
            attention.build(width)
            width = self.n_features + attention.channels
            for layer in block:
                layer.build(width)
                width = layer.units
        self.built = True

    def call(self, features: Tensor, weight: Tensor | None = None, context: BatchContext | None = None) -> Encoded:
        """Return what is made of features [B, P, F]; jets count ``weight`` [B] times."""
        k, slots = self.settings.neighbours, different_slots(features)
        each = slots.count if weight is None else slots.count * ops.take(weight, slots.packing.jet, axis=0)
        rows = gather_nodes(features, slots.packing)
        graph = nearest_in_plane(features, self.columns, slots, k)
        first, first_edges = self._block(0, rows, rows, graph, each, context)
        graph = nearest_in_space(first[-1], slots, k)
        second, second_edges = self._block(1, rows, first[-1], graph, each, context)
        return Encoded(first, second, [first_edges, second_edges], each, slots)

    def _block(
        self,
        index: int,
        features: Tensor,
        slots: Tensor,
        graph: Graph,
        weight: Tensor,
        context: BatchContext | None,
    ) -> tuple[list[Tensor], Tensor]:
        attended, edges = self.attention[index](slots, graph, weight=weight, context=context)
        parts, outputs = [features, attended], []
        for layer in self.blocks[index]:
            outputs.append(layer(parts, weight=weight, context=context))
            parts = outputs[-1:]
        return outputs, edges


class PublishedNetwork(keras.Model):
    """What the published networks share: body, centroids and configuration.

    Parameters
    ----------
    settings
        Sizes; ``neighbours`` counts a particle itself.
    inputs
        The tensor to be read. It is not standardised, whatever the statistics say.
    seed
        Of the initial weights.
    dtype
        Keras dtype policy of the layers on slots, as in :mod:`sparton.ucluster.precision`.
    """

    def __init__(self, settings: ModelSettings, inputs: InputSpec, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(**{"name": "published", "autocast": False, **kwargs})
        self.settings = settings
        self.inputs_spec = inputs
        self.seed = seed
        self._seeds = iter(_seeds(seed))
        self.body = Body(settings, inputs, self._seeds, name="body", dtype=self.dtype_policy)
        self.aggregate = self._of_slots(settings.embedding, "aggregate")
        self.centroids = self.add_weight(
            name="centroids", shape=(settings.n_clusters, settings.embedding), initializer="zeros"
        )

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal, untrained network."""
        return {
            **super().get_config(),
            "settings": self.settings.model_dump(mode="json"),
            "inputs": self.inputs_spec.model_dump(mode="json"),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> Self:
        """Make an untrained network from what :meth:`get_config` returned."""
        rest = {name: value for name, value in config.items() if name not in ("settings", "inputs")}
        return cls(ModelSettings(**config["settings"]), InputSpec(**config["inputs"]), **rest)

    def _of_slots(self, width: int, name: str) -> BiasedDense:
        return BiasedDense(width, self.settings.epsilon, next(self._seeds), name=name, dtype=self.dtype_policy)

    def _of_jets(self, width: int, name: str) -> BiasedDense:
        """Return a layer on jets, in the precision of the weights: it has few products."""
        return BiasedDense(width, self.settings.epsilon, next(self._seeds), name=name, dtype=self.variable_dtype)

    def _last(self, name: str) -> keras.layers.Dense:
        initial = keras.initializers.GlorotUniform(seed=next(self._seeds))
        return keras.layers.Dense(
            self.inputs_spec.n_targets, kernel_initializer=initial, name=name, dtype=self.variable_dtype
        )

    @property
    def _body_width(self) -> int:
        """Channels of everything that the body returns."""
        settings = self.settings
        return sum((*settings.first_block, *settings.second_block, *settings.attention))


class PublishedUCluster(PublishedNetwork):
    """The network that pre-trains on the jet's mass bin: the published run on W, Z and top jets.

    The embedding is the mean of ``ReLU(BN(...))`` over all slots of a jet, so it depends on how many are empty.
    """

    def __init__(self, settings: ModelSettings, inputs: InputSpec, seed: int = 0, **kwargs: Any) -> None:
        super().__init__(settings, inputs, seed, **kwargs)
        self.head = [self._of_jets(width, f"head_{layer}") for layer, width in enumerate(settings.head)]
        self.logits = self._last("logits")

    def build(self, input_shape: Any = None) -> None:
        """Create all weights; the shapes follow from the settings."""
        self.body.build()
        self.aggregate.build(self._body_width)
        width = self.settings.embedding
        for layer in self.head:
            layer.build(width)
            width = layer.units
        self.logits.build((None, width))
        self.built = True

    def call(
        self,
        features: Tensor,
        n_particles: Tensor,
        weight: Tensor | None = None,
        context: BatchContext | None = None,
    ) -> Outputs:
        """Return embedding and logits of a batch of jets.

        Parameters
        ----------
        features
            float32[B, P, F], zero in empty slots.
        n_particles
            int32[B], not read: what is empty shows in the features.
        weight
            float32[B]: how often each jet counts in the statistics; 0 for padding rows. None counts each once.
        context
            The training step; None in inference.
        """
        features = ops.cast(features, self.variable_dtype)
        encoded = self.body(features, weight=weight, context=context)
        parts = [*encoded.first, *encoded.second, *encoded.edges]
        slots = self.aggregate(parts, weight=encoded.weight, context=context)
        embedding = encoded.slots.mean(slots)
        rows = embedding
        for layer in self.head:
            rows = layer([rows], weight=weight, context=context)
        return Outputs(embedding, self.logits(rows))


class PublishedParticleUCluster(PublishedNetwork):
    """The network that pre-trains on a class of each particle: the published search for anomalies.

    It reads jet-level features too. The embedding is the maximum of ``ReLU(BN(...))`` over all slots; the classifier of
    a particle sees it beside what the first layer of each block made of the particle.

    Parameters
    ----------
    settings
        Sizes; ``head`` are the widths of the classifier of particles.
    inputs
        The tensor to be read; ``n_targets`` are the classes of a particle.
    n_globals
        Jet-level features.
    seed
        Of the initial weights.
    """

    def __init__(
        self, settings: ModelSettings, inputs: InputSpec, n_globals: int = 4, seed: int = 0, **kwargs: Any
    ) -> None:
        super().__init__(settings, inputs, seed, **kwargs)
        self.n_globals = n_globals
        self.expand = self._of_jets(GLOBAL_WIDTH, "expand")
        self.head = [self._of_slots(width, f"head_{layer}") for layer, width in enumerate(settings.head)]
        self.logits = self._last("logits")

    def build(self, input_shape: Any = None) -> None:
        """Create all weights; the shapes follow from the settings."""
        settings = self.settings
        self.body.build()
        self.expand.build(self.n_globals)
        self.aggregate.build(self._body_width + GLOBAL_WIDTH)
        width = settings.embedding + settings.first_block[0] + settings.second_block[0]
        for layer in self.head:
            layer.build(width)
            width = layer.units
        self.logits.build((None, width))
        self.built = True

    def call(
        self,
        features: Tensor,
        n_particles: Tensor,
        global_features: Tensor,
        weight: Tensor | None = None,
        context: BatchContext | None = None,
    ) -> Outputs:
        """Return embedding [B, D] and logits [B, P, n_targets] of a batch of jets.

        Parameters
        ----------
        features
            float32[B, P, F], zero in empty slots.
        n_particles
            int32[B], not read: what is empty shows in the features.
        global_features
            float32[B, n_globals].
        weight
            float32[B]: how often each jet counts in the statistics; 0 for padding rows. None counts each once.
        context
            The training step; None in inference.
        """
        features = ops.cast(features, self.variable_dtype)
        encoded = self.body(features, weight=weight, context=context)
        jets = self.expand([global_features], weight=weight, context=context)
        jet = encoded.slots.packing.jet
        parts = [*encoded.first, *encoded.second, ops.take(jets, jet, axis=0), *encoded.edges]
        embedding = encoded.slots.max(self.aggregate(parts, weight=encoded.weight, context=context))
        parts = [ops.take(embedding, jet, axis=0), encoded.first[0], encoded.second[0]]
        for layer in self.head:
            parts = [layer(parts, weight=encoded.weight, context=context)]
        return Outputs(embedding, encoded.slots.spread(self.logits(parts[0])))

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal, untrained network."""
        return {**super().get_config(), "n_globals": self.n_globals}


def _seeds(seed: int) -> list[int]:
    """Return independent seeds, spaced so that a layer may use the next few as well."""
    count = 64
    return (np.random.SeedSequence(seed).generate_state(count) // SEEDS * SEEDS).tolist()
