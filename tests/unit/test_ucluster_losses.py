"""Losses against their closed forms."""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from sparton.ucluster.losses import clustering, focal, occupation_divergence, soft_assignments, squared_distances

RNG = np.random.default_rng(2)


def softmax(logits: np.ndarray) -> np.ndarray:
    exponential = np.exp(logits - logits.max(axis=-1, keepdims=True))
    return exponential / exponential.sum(axis=-1, keepdims=True)


@pytest.mark.parametrize("gamma", [0.0, 2.0, 4.0])
def test_focal_loss(gamma: float) -> None:
    logits = RNG.normal(size=(6, 4)).astype(np.float32)
    target = np.array([0, 1, 2, 3, 0, 1])
    p = softmax(logits.astype(float))[np.arange(6), target]
    np.testing.assert_allclose(focal(logits, target, gamma, 10.0), -10 * (1 - p) ** gamma * np.log(p), rtol=1e-4)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 4.0])
def test_focal_loss_of_a_certain_class_has_a_finite_gradient(gamma: float) -> None:
    logits = tf.Variable([[200.0, 0.0], [0.0, 200.0]])
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(focal(logits, np.array([0, 0]), gamma, 10.0))
    assert np.isfinite(tape.gradient(loss, logits)).all()


def test_distances_assignments_and_clustering_loss() -> None:
    z, mu = RNG.normal(size=(5, 2)).astype(np.float32), RNG.normal(size=(3, 2)).astype(np.float32)
    expected = ((z[:, None] - mu[None]) ** 2).sum(-1)
    distances = squared_distances(z, mu)
    np.testing.assert_allclose(distances, expected, rtol=1e-5)
    shares = softmax(-4.0 * expected)
    np.testing.assert_allclose(soft_assignments(distances, 4.0), shares, rtol=1e-4)
    np.testing.assert_allclose(clustering(distances, shares), (shares * expected).sum(-1), rtol=1e-4)


def test_hard_assignments_give_the_k_means_objective() -> None:
    distances = np.array([[1.0, 4.0], [9.0, 2.0]], np.float32)
    np.testing.assert_allclose(clustering(distances, soft_assignments(distances, 1e4)), [1.0, 2.0], rtol=1e-6)


def test_occupation_divergence_is_zero_when_equal_and_largest_when_one_holds_all() -> None:
    assert float(occupation_divergence(np.full(3, 1 / 3, np.float32))) == pytest.approx(0, abs=1e-6)
    one = float(occupation_divergence(np.array([1, 0, 0], np.float32)))
    assert one == pytest.approx(np.log(3), abs=1e-4)
    share = np.array([0.5, 0.3, 0.2])
    expected = (share * np.log(share * 3)).sum()
    assert float(occupation_divergence(share.astype(np.float32))) == pytest.approx(expected, rel=1e-4)
