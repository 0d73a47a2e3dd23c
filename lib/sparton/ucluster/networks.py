"""The one place where settings become a network."""

from __future__ import annotations

from sparton.ucluster.model import UCluster
from sparton.ucluster.precision import POLICIES
from sparton.ucluster.published import PublishedUCluster
from sparton.ucluster.settings import InputSpec, ModelSettings, Precision

Network = UCluster | PublishedUCluster
"""What can be trained and bundled: called with features, numbers of particles, weights and a training step's context,
it returns embedding and logits; it holds the centroids, its settings and what it reads."""

KINDS: dict[str, type[UCluster] | type[PublishedUCluster]] = {"default": UCluster, "published": PublishedUCluster}


def create(settings: ModelSettings, inputs: InputSpec, seed: int = 0, precision: Precision | None = None) -> Network:
    """Return the network that ``settings.network`` names, with fresh weights.

    Its weights are float32; ``precision`` is that of the products, and None takes Keras' own dtype policy.
    """
    network = KINDS[settings.network](settings, inputs, seed, dtype=None if precision is None else POLICIES[precision])
    network.build()
    return network
