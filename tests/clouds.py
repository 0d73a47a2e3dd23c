"""Small networks and random particle clouds for tests of the model."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from sparton.physics.features import FEATURE_NAMES
from sparton.ucluster import bundle
from sparton.ucluster.networks import Network, create
from sparton.ucluster.settings import InputSpec, ModelSettings

SLOTS = 12
SMALL = ModelSettings(
    n_clusters=3,
    embedding=2,
    neighbours=4,
    attention=(4, 6),
    first_block=(5, 7),
    second_block=(8,),
    jet_block=(7, 5),
    head=(6,),
)
SMALL_WITH_MULTIPLICITY = SMALL.model_copy(update={"multiplicity": True})
SMALL_WITH_MEANS = SMALL.model_copy(update={"pooling": "mean"})
SMALL_PUBLISHED = SMALL.model_copy(update={"network": "published", "jet_block": ()})


def inputs(slots: int = SLOTS) -> InputSpec:
    """Return an input whose features have unequal means and deviations."""
    return InputSpec(
        feature_names=FEATURE_NAMES,
        feature_mean=tuple(np.linspace(-1, 1, len(FEATURE_NAMES)).tolist()),
        feature_std=tuple(np.linspace(0.5, 2, len(FEATURE_NAMES)).tolist()),
        n_particles=slots,
        mass_bin_edges=(0.0, 50.0, 100.0, 150.0),
    )


def network(slots: int = SLOTS, settings: ModelSettings = SMALL, seed: int = 3) -> Network:
    """Return a small network with all its weights."""
    return create(settings, inputs(slots), seed)


def write_bundle(folder: str, settings: ModelSettings = SMALL, seed: int = 11) -> Network:
    """Write the bundle of a small network that was never trained, with centroids at random places; return it."""
    model = network(settings=settings, seed=seed)
    centroids = np.random.default_rng(seed).normal(size=(settings.n_clusters, settings.embedding))
    model.centroids.assign(centroids)
    description = bundle.Description(
        format=bundle.FORMAT,
        model=settings,
        inputs=inputs(),
        centroids=tuple(map(tuple, model.centroids.numpy().tolist())),
        training={"jets": 0, "workers": 1},
        versions={},
    )
    bundle.save(folder, model, description, {"epoch": 1}, "epoch\n1\n")
    return model


def clouds(n_particles: list[int], slots: int = SLOTS, seed: int = 0) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
    """Return features [B, slots, 8], zero on padding, and the numbers of particles."""
    counts = np.asarray(n_particles, np.int32)
    features = np.random.default_rng(seed).normal(size=(len(counts), slots, len(FEATURE_NAMES))).astype(np.float32)
    features[np.arange(slots)[None, :] >= counts[:, None]] = 0
    return features, counts
