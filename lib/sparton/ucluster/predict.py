"""Embedding, distances and cluster of jets, by a loaded bundle."""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf
from numpy.typing import NDArray

from sparton.ucluster.losses import squared_distances

if TYPE_CHECKING:
    from sparton.ucluster.bundle import Bundle
    from sparton.ucluster.networks import Network

BATCH_SIZE = 512


def assign(
    bundle: Bundle,
    features: NDArray[np.float32],
    n_particles: NDArray[np.integer[Any]],
    batch_size: int = BATCH_SIZE,
) -> tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.int32]]:
    """Return embeddings [n, D], Euclidean distances to the centroids [n, K] and the nearest cluster [n].

    Each jet is computed by itself in inference mode: the batches change nothing but the speed.

    Parameters
    ----------
    bundle
        The trained network.
    features
        float32 [n, P, F], as in a training set.
    n_particles
        Any integers [n].
    batch_size
        Jets at once.
    """
    run, n_particles = _compiled(bundle.model), n_particles.astype(np.int32)
    parts = [
        run(tf.constant(features[start : start + batch_size]), tf.constant(n_particles[start : start + batch_size]))
        for start in range(0, len(features), batch_size)
    ]
    settings = bundle.model.settings
    embedding = _join([part[0] for part in parts], settings.embedding)
    distance = _join([part[1] for part in parts], settings.n_clusters)
    cluster = distance.argmin(axis=1) if len(distance) else np.zeros(0)
    return embedding, distance, cluster.astype(np.int32)


@lru_cache(maxsize=1)
def _compiled(model: Network) -> Any:
    shape = (None, model.inputs_spec.n_particles, model.inputs_spec.n_features)

    @tf.function(
        input_signature=[tf.TensorSpec(shape, tf.float32), tf.TensorSpec((None,), tf.int32)],
    )
    def run(tensors: tf.Tensor, n_particles: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        embedding = model(tensors, n_particles).embedding
        return embedding, tf.sqrt(squared_distances(embedding, model.centroids))

    return run


def _join(parts: list[tf.Tensor], width: int) -> NDArray[np.float32]:
    return np.concatenate([part.numpy() for part in parts]) if parts else np.zeros((0, width), np.float32)
