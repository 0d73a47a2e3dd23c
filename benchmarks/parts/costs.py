"""What a jet costs a network: FLOP in products of dense layers, and bytes that have to be moved, counted by its sizes.

Both are counts of the method, not of a program: they are the same for whoever computes the same network. The layers on
jets, 1 % of the whole, are left out of both.

Bytes are those of the particles' tensors. A product reads its rows and writes its result; a normalisation with its
ReLU reads and writes its rows, and in training reads them once more for the statistics; the softmax over neighbours
reads and writes its scores; the sum over particles reads all that goes into it. Of edges nothing is counted as stored:
a pass over them reads the projected row of each particle and those of its neighbours. Inference has two such passes,
for the scores and for the weighted mean and the maximum. Training has a third one before them, for the statistics, and
goes over the three again backwards, where a row is read, and its gradient is read and written. What else is moved
backwards is twice what is moved forwards, as with products: a gradient for the input of each operation, and one for its
weights.
"""

from __future__ import annotations

from typing import NamedTuple

from sparton.ucluster.settings import ModelSettings

TRAINING_FACTOR = 3
"""A product, or an operation on rows, forward, and two of its size backward."""

INFERENCE_PASSES = 2
TRAINING_PASSES = 3 * (1 + 3)
"""Readings of all edges' rows: three forward; three backward, each with a gradient that is read and written."""


class Traffic(NamedTuple):
    """What is moved, in values or bytes: rows that layers read and write, and rows that passes over edges read."""

    rows: float
    edges: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.rows + self.edges

    def times(self, factor: float) -> Traffic:
        """Return so many times as much."""
        return Traffic(factor * self.rows, factor * self.edges)


def node_flops(settings: ModelSettings, features: int) -> float:
    """Return the FLOP of one particle's (or slot's) forward products in dense layers."""
    width, macs = features, 0
    for attention, block in zip(settings.attention, (settings.first_block, settings.second_block), strict=True):
        macs += 2 * width * attention
        width = features + attention
        for units in block:
            macs += width * units
            width = units
    if settings.network == "published":
        macs += pooled_width(settings) * settings.embedding
    return 2.0 * macs


def oracle_flops(settings: ModelSettings, features: int) -> float:
    """Return the same where the edges go through a dense layer of their own, each with its score."""
    inputs = (features, settings.first_block[-1])
    once = sum(width * units for width, units in zip(inputs, settings.attention, strict=True))
    scored = sum(settings.attention)
    return node_flops(settings, features) + 2.0 * ((settings.neighbours - 1) * once + settings.neighbours * scored)


def node_traffic(settings: ModelSettings, features: int, training: bool) -> Traffic:
    """Return the values that are moved for one particle (or slot), in inference or in a training step."""
    statistics = 1 if training else 0
    normalised = 2 + statistics
    rows, width = 0.0, features
    for attention, block in zip(settings.attention, (settings.first_block, settings.second_block), strict=True):
        rows += 2 * (width + attention)  # both projections
        rows += normalised * attention + attention + 1  # the node's encoding, and its score
        rows += 4 * settings.neighbours  # scores are written, turned into shares, and read
        rows += 2 * attention + 2 * attention  # weighted mean and maximum, then the mean's bias and ReLU
        width = features + attention
        for units in block:
            rows += width + units + normalised * units
            width = units
    rows += pooled_width(settings)
    if settings.network == "published":
        rows += (1 + normalised + 1) * settings.embedding  # the projection's result, its normalisation and mean
    # The published network counts a particle among its own neighbours.
    reached = settings.neighbours + (settings.network == "default")
    passes = TRAINING_PASSES if training else INFERENCE_PASSES
    return Traffic((TRAINING_FACTOR if training else 1) * rows, float(passes * reached * sum(settings.attention)))


def pooled_width(settings: ModelSettings) -> int:
    """Return how many channels of a particle are summed over the particles, or aggregated."""
    return sum((*settings.first_block, *settings.second_block, *settings.attention))
