"""The losses of UCluster, one value a row: they are summed over rows and ranks by who calls."""

from __future__ import annotations

from typing import Any

import keras
from keras import ops

Tensor = Any


def focal(logits: Tensor, target: Tensor, gamma: float, scale: float) -> Tensor:
    """Return the focal loss ``scale (1 - p)^gamma (-ln p)`` [n] of the true class (Lin et al. 2017).

    Parameters
    ----------
    logits
        [n, classes].
    target
        int32[n]: the true class.
    gamma
        How much well classified rows are played down, 0 or more; 0 is the cross entropy.
    scale
        Factor; the published code has gamma 4 and scale 10.
    """
    log_probabilities = ops.log_softmax(logits, axis=-1)
    log_p = ops.take_along_axis(log_probabilities, ops.cast(target, "int32")[:, None], axis=-1)[:, 0]
    # The slope of x^gamma at 0 is infinite for gamma < 1, and what multiplies it is 0 there: the bound keeps it finite.
    rest = ops.maximum(-ops.expm1(log_p), keras.config.epsilon())
    return -scale * ops.power(rest, gamma) * log_p


def squared_distances(embedding: Tensor, centroids: Tensor) -> Tensor:
    """Return ``|z_j - mu_k|^2`` [n, K] of embeddings [n, D] and centroids [K, D]."""
    return ops.sum(ops.square(embedding[:, None, :] - centroids[None, :, :]), axis=-1)


def soft_assignments(distances: Tensor, alpha: Tensor) -> Tensor:
    """Return ``softmax_k(-alpha d_jk)`` [n, K] of squared distances d."""
    return ops.softmax(-alpha * distances, axis=-1)


def clustering(distances: Tensor, assignments: Tensor) -> Tensor:
    """Return ``sum_k pi_jk d_jk`` [n] of squared distances and assignments, [n, K] each (arXiv:2010.07106)."""
    return ops.sum(distances * assignments, axis=-1)


def occupation_divergence(occupation: Tensor) -> Tensor:
    """Return the Kullback-Leibler divergence of the clusters' occupation [K], which sums to 1, from equal shares.

    0 where all clusters are equally large, ln K where one holds everything: the term that keeps a cluster from
    swallowing the others (Krause et al., NIPS 2010, eq. 4).
    """
    share = ops.maximum(occupation, keras.config.epsilon())
    return ops.sum(share * ops.log(share * occupation.shape[-1]))
