"""The UCluster network: particles to an embedding of the jet, and from it the logits of its mass bin."""

from __future__ import annotations

import contextlib
from typing import Any, NamedTuple

import keras
import numpy as np
from keras import ops

from sparton.ucluster.backend import portable
from sparton.ucluster.graph import (
    Graph,
    Packing,
    angular_graph,
    feature_graph,
    gather_nodes,
    log_multiplicity,
    pack,
    pooled_mean,
    pooled_sum,
)
from sparton.ucluster.layers import DenseNorm, GraphAttention, Projection
from sparton.ucluster.normalisation import BatchContext, BatchNorm
from sparton.ucluster.settings import InputSpec, ModelSettings

Tensor = Any


class Outputs(NamedTuple):
    """Embedding [B, D] and logits [B, n_targets] of a batch."""

    embedding: Tensor
    logits: Tensor


class UCluster(keras.Model):
    """Two graph attention blocks on the particles, sums over them, a block on the jet, and a classifier.

    The first graph joins neighbours in (eta, phi), the second one neighbours in the features of the first block. Every
    layer's output is summed over the particles: a sum, unlike the published mean over the slots, does not depend on
    padding and can hold extensive quantities such as the jet's mass and multiplicity. ``settings.pooling`` takes means
    over particles instead; with ``settings.multiplicity`` the logarithm of their number stands beside either. Layers on
    the jet combine the sums, which no function of single particles can do, and project them on the embedding, which is
    normalised over jets to mean 0 and variance 1 in each dimension, without learnt scale: so it cannot shrink. The
    classifier sees the embedding alone.

    Parameters
    ----------
    settings
        Sizes.
    inputs
        The tensor to be read.
    seed
        Of the initial weights.
    dtype
        Keras dtype policy of the layers on particles, as in :mod:`sparton.ucluster.precision`.
    """

    def __init__(self, settings: ModelSettings, inputs: InputSpec, seed: int = 0, **kwargs: Any) -> None:
        # A fixed name: Keras would number the networks of a process, and checkpoints name variables by their paths.
        super().__init__(**{"name": "ucluster", "autocast": False, **kwargs})
        self.settings = settings
        self.inputs_spec = inputs
        self.seed = seed
        seeds = iter(_seeds(seed))

        # The layers on the jet, 1 % of the products, stay in the precision of the weights.
        particles, jets = self.dtype_policy, self.variable_dtype

        def dense(width: int, name: str, dtype: Any = jets) -> DenseNorm:
            return DenseNorm(width, settings.epsilon, next(seeds), name=name, dtype=dtype)

        self.attention = [
            GraphAttention(width, settings.epsilon, next(seeds), name=f"attention_{index}", dtype=particles)
            for index, width in enumerate(settings.attention)
        ]
        blocks = (settings.first_block, settings.second_block)
        self.blocks = [
            [dense(width, f"block_{block}_{layer}", particles) for layer, width in enumerate(widths)]
            for block, widths in enumerate(blocks)
        ]
        self.pooled_norm = BatchNorm(settings.epsilon, affine=False, name="pooled_norm", dtype=jets)
        self.jet_block = [dense(width, f"jet_block_{layer}") for layer, width in enumerate(settings.jet_block)]
        self.projection = Projection(settings.embedding, next(seeds), name="projection", dtype=jets)
        self.embedding_norm = BatchNorm(settings.epsilon, affine=False, name="embedding_norm", dtype=jets)
        self.head = [dense(width, f"head_{layer}") for layer, width in enumerate(settings.head)]
        initial = keras.initializers.GlorotUniform(seed=next(seeds))
        self.logits = keras.layers.Dense(inputs.n_targets, kernel_initializer=initial, name="logits", dtype=jets)
        self.centroids = self.add_weight(
            name="centroids", shape=(settings.n_clusters, settings.embedding), initializer="zeros"
        )

    def build(self, input_shape: Any = None) -> None:
        """Create all weights; the shapes follow from the settings."""
        settings, particle = self.settings, self.inputs_spec.n_features
        width = particle
        for attention, block in zip(self.attention, self.blocks, strict=True):
            attention.build((None, width))
            shapes = [(None, particle), (None, attention.channels)]
            for layer in block:
                layer.build(shapes)
                shapes = [(None, layer.units)]
            width = block[-1].units
        every = (*settings.first_block, *settings.second_block, *settings.attention)
        width = sum(every) + settings.multiplicity
        self.pooled_norm.build((None, width))
        for layer in self.jet_block:
            layer.build((None, width))
            width = layer.units
        self.projection.build((None, width))
        self.embedding_norm.build((None, settings.embedding))
        width = settings.embedding
        for layer in self.head:
            layer.build((None, width))
            width = layer.units
        self.logits.build((None, width))
        self.built = True

    def call(
        self,
        features: Tensor,
        n_particles: Tensor,
        weight: Tensor | None = None,
        context: BatchContext | None = None,
        nodes: int | None = None,
    ) -> Outputs:
        """Return embedding and logits of a batch of jets.

        Parameters
        ----------
        features
            float32[B, P, F], not standardised.
        n_particles
            int32[B]: real particles; they fill the first slots.
        weight
            float32[B]: how often each jet counts in the statistics; 0 for padding rows. None counts each once.
        context
            The training step; None in inference.
        nodes
            How many particles to compute, of all jets together, so that no shape depends on the batch's content, as
            ``jax.jit`` asks for. What is beyond the batch's particles changes nothing; where these are more, all
            results are NaN. None computes as many as there are, by compiled kernels if there are any.
        """
        with contextlib.nullcontext() if nodes is None else portable():
            return self._outputs(features, n_particles, weight, context, nodes)

    def _outputs(
        self,
        features: Tensor,
        n_particles: Tensor,
        weight: Tensor | None,
        context: BatchContext | None,
        nodes: int | None,
    ) -> Outputs:
        features = ops.cast(features, self.variable_dtype)
        if weight is not None:
            n_particles = ops.where(weight > 0, n_particles, 0)
        packing = pack(n_particles, features.shape[1], nodes)
        pooled = self.pooled(features, packing, context)
        if self.settings.multiplicity:
            pooled = ops.concatenate([pooled, log_multiplicity(packing, pooled.dtype)], axis=-1)
        embedding = self.embed(pooled, weight, context)
        rows = embedding
        for layer in self.head:
            rows = layer(rows, weight=weight, context=context)
        return Outputs(embedding, self.logits(rows))

    def embed(self, pooled: Tensor, weight: Tensor | None = None, context: BatchContext | None = None) -> Tensor:
        """Return the embedding [B, D] of jets whose particles' outputs sum up (or average) to ``pooled`` [B, C].

        The last of the C values is ln N where the settings ask for the multiplicity.
        """
        rows = self.pooled_norm(pooled, weight=weight, context=context)
        for layer in self.jet_block:
            rows = layer(rows, weight=weight, context=context)
        return self.embedding_norm(self.projection(rows), weight=weight, context=context)

    def pooled(self, features: Tensor, packing: Packing, context: BatchContext | None = None) -> Tensor:
        """Return the sums, or means, [B, C] over each jet's particles of all that the two blocks make of them."""
        pool = pooled_sum if self.settings.pooling == "sum" else pooled_mean
        parts = self.particles(features, packing, context)
        return ops.concatenate([pool(part, packing) for part in parts], axis=-1)

    def particles(self, features: Tensor, packing: Packing, context: BatchContext | None = None) -> list[Tensor]:
        """Return what the two blocks make of the nodes, in parts [M, C_i]."""
        particles = gather_nodes(features, packing)
        nodes, weight = self.standardised(particles), packing.weight
        first, first_edges = self._block(0, nodes, nodes, self.first_graph(particles, packing), context, weight)
        second, second_edges = self._block(1, nodes, first[-1], self.second_graph(first[-1], packing), context, weight)
        return [*first, *second, first_edges, second_edges]

    def standardised(self, particles: Tensor) -> Tensor:
        """Return the features [M, F] of particles shifted and scaled by their statistics."""
        kind = keras.backend.standardize_dtype(particles.dtype)
        mean, deviation = (
            np.array(values, kind) for values in (self.inputs_spec.feature_mean, self.inputs_spec.feature_std)
        )
        return (particles - mean) / deviation

    def first_graph(self, particles: Tensor, packing: Packing) -> Graph:
        """Return the neighbours in (eta, phi) of particles with features [M, F], not standardised."""
        eta, phi = self.inputs_spec.angles
        angles = ops.stack([particles[:, eta], particles[:, phi]], axis=1)
        return angular_graph(angles, packing, self.settings.neighbours)

    def second_graph(self, points: Tensor, packing: Packing) -> Graph:
        """Return the neighbours in the space of the first block's output [M, C]; no gradient flows through them."""
        return feature_graph(ops.stop_gradient(points), packing, self.settings.neighbours)

    def _block(
        self,
        index: int,
        nodes: Tensor,
        rows: Tensor,
        graph: Graph,
        context: BatchContext | None,
        weight: Tensor | None = None,
    ) -> tuple[list[Tensor], Tensor]:
        """Return the outputs of a block's layers and the largest edge encodings."""
        attended, edges = self.attention[index](rows, graph, weight=weight, context=context)
        parts: Any = [nodes, attended]
        outputs = []
        for layer in self.blocks[index]:
            parts = layer(parts, weight=weight, context=context)
            outputs.append(parts)
        return outputs, edges

    def get_config(self) -> dict[str, Any]:
        """Return the arguments that make an equal, untrained network."""
        return {
            **super().get_config(),
            "settings": self.settings.model_dump(mode="json"),
            "inputs": self.inputs_spec.model_dump(mode="json"),
            "seed": self.seed,
        }

    @classmethod
    def from_config(cls, config: dict[str, Any], custom_objects: Any = None) -> UCluster:
        """Make an untrained network from what :meth:`get_config` returned."""
        rest = {name: value for name, value in config.items() if name not in ("settings", "inputs")}
        return cls(ModelSettings(**config["settings"]), InputSpec(**config["inputs"]), **rest)


def _seeds(seed: int) -> list[int]:
    """Return independent seeds, spaced so that a layer may use the next few as well."""
    count, room = 64, 8
    return (np.random.SeedSequence(seed).generate_state(count) // room * room).tolist()
