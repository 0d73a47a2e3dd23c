"""What linear scaling and a warm-up are worth, on scikit-learn's digits (algorithms.md a.3)."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.datasets import load_digits
from threadpoolctl import threadpool_limits

from sparton.optim.schedules import WarmupShape, scaled_rate, warmup_cosine

WORKERS, BATCH = 24, 8
EPOCHS, WARMUP_EPOCHS = 20, 5
RATE, MOMENTUM = 0.01, 0.9
WIDTHS = (64, 128, 128, 10)
TEST = 540

Array = NDArray[np.float64]


@cache
def digits() -> tuple[Array, NDArray[np.int64], Array, NDArray[np.int64]]:
    """Pixels in [0, 1] and digits, of training and test."""
    data = load_digits()
    order = np.random.default_rng(0).permutation(len(data.target))
    pixels, target = data.data[order] / 16, data.target[order]
    return pixels[TEST:], target[TEST:], pixels[:TEST], target[:TEST]


def gradients(weights: list[Array], pixels: Array, target: NDArray[np.int64]) -> list[Array]:
    """Return those of the mean cross entropy of a network with ReLU; each matrix has its bias in the last row."""
    inputs = [pixels]
    for weight in weights[:-1]:
        inputs.append(np.maximum(inputs[-1] @ weight[:-1] + weight[-1], 0))
    logits = inputs[-1] @ weights[-1][:-1] + weights[-1][-1]
    share = np.exp(logits - logits.max(axis=1, keepdims=True))
    upstream = share / share.sum(axis=1, keepdims=True)
    upstream[np.arange(len(target)), target] -= 1
    upstream /= len(target)
    found = []
    for weight, given in zip(reversed(weights), reversed(inputs), strict=True):
        found.append(np.vstack([given.T @ upstream, upstream.sum(axis=0)]))
        upstream = (upstream @ weight[:-1].T) * (given > 0)
    return found[::-1]


def accuracy(seed: int, peak: float, shape: WarmupShape | None) -> float:
    """Train with the global batch of 24 workers; the rate rises from that of one worker where there is a shape."""
    with threadpool_limits(1):  # threads would wait for each other more than they multiply
        return _accuracy(seed, peak, shape)


def _accuracy(seed: int, peak: float, shape: WarmupShape | None) -> float:
    pixels, target, test_pixels, test_target = digits()
    rng = np.random.default_rng(seed)
    weights = [
        np.vstack([rng.normal(scale=np.sqrt(2 / n), size=(n, m)), np.zeros(m)]) for n, m in itertools.pairwise(WIDTHS)
    ]
    velocity = [np.zeros_like(weight) for weight in weights]
    size = WORKERS * BATCH
    epoch_steps = -(-len(target) // size)
    steps, warmup_steps = EPOCHS * epoch_steps, WARMUP_EPOCHS * epoch_steps if shape else 0
    step = 0
    for _ in range(EPOCHS):
        order = rng.permutation(len(target))
        for start in range(0, len(target), size):
            chosen = order[start : start + size]
            rate = warmup_cosine(step, steps, peak, warmup_steps, first=RATE, shape=shape or "linear")
            found = gradients(weights, pixels[chosen], target[chosen])
            velocity = [MOMENTUM * before + gradient for before, gradient in zip(velocity, found, strict=True)]
            weights = [weight - rate * change for weight, change in zip(weights, velocity, strict=True)]
            step += 1
    hidden = test_pixels
    for weight in weights[:-1]:
        hidden = np.maximum(hidden @ weight[:-1] + weight[-1], 0)
    return float(np.mean((hidden @ weights[-1][:-1] + weights[-1][-1]).argmax(axis=1) == test_target))


@pytest.mark.parametrize("shape", [None, "linear", "exponential", "cosine", "quadratic", "root"])
def test_linear_scaling_recovers_what_a_large_batch_loses(shape: WarmupShape | None) -> None:
    """No warm-up shows a benefit at this size, which is what the source found too.

    ``constant`` spends a quarter of the epochs at the rate of one worker and ends at 0.957.
    """
    scaled = [accuracy(seed, scaled_rate(RATE, WORKERS, True), shape) for seed in range(3)]
    assert np.mean(scaled) >= 0.965


def test_without_linear_scaling_it_is_lost() -> None:
    assert np.mean([accuracy(seed, scaled_rate(RATE, WORKERS, False), None) for seed in range(3)]) <= 0.91
