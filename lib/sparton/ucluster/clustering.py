"""The first centroids: k-means on a sample of embeddings, then evened out, the same on any number of ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.spatial.distance import pdist
from scipy.special import logsumexp
from sklearn.cluster import KMeans

from sparton.errors import TrainingError

Array = NDArray[np.float64]

KMEANS_STARTS = 10
REFINEMENTS = 20
SCALINGS = 300
DOUBLINGS = 8


def first_centroids(embedding: NDArray[np.float32], n_clusters: int, seed: int, alpha: float, balanced: bool) -> Array:
    """Return centroids float64 [K, D], in the order of their first coordinate.

    Parameters
    ----------
    embedding
        Embeddings [n, D] of a sample, in an order that does not depend on the number of ranks.
    n_clusters
        K.
    seed
        Seed of k-means.
    alpha
        Inverse temperature of the soft assignments that even the clusters out; raised where they would merge.
    balanced
        Whether to even out; False leaves the result of k-means.

    Raises
    ------
    TrainingError
        If there are fewer distinct embeddings than clusters: the embedding has collapsed.
    """
    points = np.asarray(embedding, np.float64)
    distinct = len(np.unique(points, axis=0))
    if distinct < n_clusters:
        raise TrainingError(
            f"found {distinct} distinct embeddings in {len(points)} jets, expected at least n_clusters={n_clusters}; "
            "the embedding has collapsed: lower learning_rate or take more jets"
        )
    centroids = KMeans(n_clusters, n_init=KMEANS_STARTS, random_state=seed).fit(points).cluster_centers_
    if balanced:
        centroids = _separate(points, centroids, alpha)
    return np.asarray(centroids[np.argsort(centroids[:, 0], kind="stable")], np.float64)


def _separate(points: Array, centroids: Array, alpha: float) -> Array:
    """Even out at ``alpha``, or at the first doubling of it at which no two centroids merge.

    Soft assignments blur over a width of ``1 / sqrt(2 alpha)``; clusters that lie closer than that become one.
    """
    for _ in range(DOUBLINGS):
        found = balance_centroids(points, centroids, alpha)
        if pdist(found).min() > 1 / np.sqrt(2 * alpha):
            return found
        alpha *= 2
    return centroids


def balance_centroids(points: Array, centroids: Array, alpha: float) -> Array:
    """Move centroids [K, D] until soft assignments of equal total weight give them back.

    Alternates the assignments of :func:`balanced_assignments` with the means that they weight: k-means with
    entropy-regularised transport to clusters of equal size (Cuturi, NIPS 2013; Asano et al., arXiv:1911.05371).
    """
    for _ in range(REFINEMENTS):
        weights = balanced_assignments(points, centroids, alpha)
        centroids = weights.T @ points / weights.sum(axis=0)[:, None]
    return centroids


def balanced_assignments(points: Array, centroids: Array, alpha: float) -> Array:
    """Return assignments [n, K] whose rows sum to 1 and whose columns sum to n / K, by Sinkhorn scaling.

    They are ``softmax_k(-alpha d_jk + b_k)`` of squared distances d, with offsets b that even the columns out.
    """
    squares = ((points[:, None, :] - centroids[None]) ** 2).sum(axis=-1)
    logits = -alpha * squares
    n, k = logits.shape
    offsets = np.zeros(k)
    for _ in range(SCALINGS):
        rows = logits + offsets
        occupation = logsumexp(rows - logsumexp(rows, axis=1, keepdims=True), axis=0)
        offsets += np.log(n / k) - occupation
    rows = logits + offsets
    return np.exp(rows - logsumexp(rows, axis=1, keepdims=True))
