"""The first centroids, by k-means or by the classifier, on a sample of embeddings: the same on any number of ranks."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize
from scipy.spatial.distance import cdist, pdist
from scipy.special import log_softmax, logsumexp, softmax
from sklearn.cluster import KMeans

from sparton.errors import TrainingError

Array = NDArray[np.float64]

KMEANS_STARTS = 10
REFINEMENTS = 20
SHIFT = 1e-4
"""Movement of a centroid, in units of the width of soft assignments, at which the search ends."""

EVENNESS = 1e-9
"""Deviation of a cluster's share from 1 / K that is let stand."""

DOUBLINGS = 8

ANCHOR, FIRST_ALPHA, FIT_STEPS = 1e-4, 5.0, 500
"""Weight of the classes' means in the fit of centroids to a classifier, its first inverse temperature, its steps."""


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


def classifier_centroids(embedding: NDArray[np.float32], logits: NDArray[np.float32]) -> Array:
    """Return centroids float64 [K, D] whose nearest one is the classifier's choice, in the order of its classes.

    Soft assignments ``softmax_k(-alpha d_jk)`` are fitted to the classifier's probabilities by their cross entropy,
    over centroids and alpha. Means of k-means cut off part of a class that is wider than its neighbour; these do not.

    Parameters
    ----------
    embedding
        Embeddings [n, D] of a sample.
    logits
        What the classifier says of them, [n, K].
    """
    points, target = np.asarray(embedding, np.float64), softmax(np.asarray(logits, np.float64), axis=1)
    n = len(points)
    shares = target / np.maximum(target.sum(axis=0), np.finfo(float).tiny)
    means = shares.T @ points

    def cost(values: Array) -> tuple[float, Array]:
        centroids, alpha = values[:-1].reshape(means.shape), np.exp(values[-1])
        distances = cdist(points, centroids, "sqeuclidean")
        log_share = log_softmax(-alpha * distances, axis=1)
        slope = -alpha * (np.exp(log_share) - target) / n
        # Equal shifts of what all centroids stand for change no share; a little weight on the means settles them.
        away = centroids - means
        by_centroid = 2 * (slope.sum(axis=0)[:, None] * centroids - slope.T @ points) + 2 * ANCHOR * away
        gradient = np.append(by_centroid.ravel(), (slope * distances).sum())
        return float(-(target * log_share).sum() / n + ANCHOR * np.square(away).sum()), gradient

    start = np.append(means.ravel(), np.log(FIRST_ALPHA))
    found = minimize(cost, start, jac=True, method="L-BFGS-B", options={"maxiter": FIT_STEPS}).x[:-1]
    return np.asarray(found.reshape(means.shape), np.float64)


def _separate(points: Array, centroids: Array, alpha: float) -> Array:
    """Even out at ``alpha``, or at the first doubling of it at which no two centroids merge.

    Soft assignments blur over a width of ``1 / sqrt(2 alpha)``; clusters that lie closer than that become one.
    """
    for _ in range(DOUBLINGS):
        found = balance_centroids(points, centroids, alpha)
        if pdist(found).min(initial=np.inf) > 1 / np.sqrt(2 * alpha):
            return found
        alpha *= 2
    return centroids


def balance_centroids(points: Array, centroids: Array, alpha: float) -> Array:
    """Move centroids [K, D] until soft assignments of equal total weight give them back.

    Alternates the assignments of :func:`balanced_assignments` with the means that they weight: k-means with
    entropy-regularised transport to clusters of equal size (Cuturi, NIPS 2013; Asano et al., arXiv:1911.05371).
    """
    offsets = np.zeros(len(centroids))
    for _ in range(REFINEMENTS):
        weights, offsets = _even_out(points, centroids, alpha, offsets)
        found = weights.T @ points / weights.sum(axis=0)[:, None]
        shift = np.abs(found - centroids).max()
        centroids = found
        if shift < SHIFT / np.sqrt(alpha):
            break
    return centroids


def balanced_assignments(points: Array, centroids: Array, alpha: float) -> Array:
    """Return assignments [n, K] whose rows sum to 1 and whose columns sum to n / K.

    They are ``softmax_k(-alpha d_jk + b_k)`` of squared distances d, with the offsets b that even the columns out.
    """
    return _even_out(points, centroids, alpha, np.zeros(len(centroids)))[0]


def _even_out(points: Array, centroids: Array, alpha: float, start: Array) -> tuple[Array, Array]:
    """Return the balanced assignments [n, K] and their offsets [K], searched from ``start``.

    The offsets minimise ``mean_j logsumexp_k(logits_jk + b_k) - mean_k b_k``, which is convex, and flat only along
    equal shifts of all b; a Newton method needs a few passes where Sinkhorn's scaling needs hundreds.
    """
    logits = -alpha * cdist(points, centroids, "sqeuclidean")
    n, k = logits.shape

    def pull(free: Array) -> tuple[float, Array]:
        rows = logits + np.append(0.0, free)
        height = logsumexp(rows, axis=1)
        shares = np.exp(rows - height[:, None]).mean(axis=0)
        return float(height.mean() - free.sum() / k), shares[1:] - 1 / k

    def curvature(free: Array) -> Array:
        weights = softmax(logits + np.append(0.0, free), axis=1)[:, 1:]
        return np.asarray(np.diag(weights.mean(axis=0)) - weights.T @ weights / n)

    if k == 1:
        return np.ones((n, 1)), start
    found = minimize(
        pull, start[1:] - start[0], jac=True, hess=curvature, method="trust-exact", options={"gtol": EVENNESS}
    )
    offsets = np.append(0.0, found.x)
    return softmax(logits + offsets, axis=1), offsets
