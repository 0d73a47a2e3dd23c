"""FLOP and bytes of a network by its sizes, against its weights and tensors, and against sums done by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
import tensorflow as tf

from parts.costs import INFERENCE_PASSES, TRAINING_PASSES, Traffic, node_flops, node_traffic, oracle_flops
from sparton.ucluster.graph import pack
from sparton.ucluster.settings import ModelSettings
from tests.clouds import SLOTS, SMALL, SMALL_PUBLISHED, clouds, network

FEATURES = 8


@pytest.mark.parametrize("settings", [SMALL, SMALL_PUBLISHED], ids=["default", "published"])
def test_products_are_those_of_the_kernels_that_particles_meet(settings: ModelSettings) -> None:
    model = network(settings=settings)
    body = model.body if settings.network == "published" else model
    name = "slot_kernel" if settings.network == "published" else "node_kernel"
    kernels = [getattr(attention, name) for attention in body.attention]
    kernels += [attention.edge_kernel for attention in body.attention]
    kernels += [layer.kernel for block in body.blocks for layer in block]
    if settings.network == "published":
        kernels.append(model.aggregate.kernel)
    assert node_flops(settings, FEATURES) == 2 * sum(math.prod(kernel.shape) for kernel in kernels)


def test_the_oracle_multiplies_edges_too() -> None:
    edges, scores = 8 * 4 + 7 * 6, 4 + 6
    k = SMALL_PUBLISHED.neighbours
    more = oracle_flops(SMALL_PUBLISHED, FEATURES) - node_flops(SMALL_PUBLISHED, FEATURES)
    assert more == 2 * ((k - 1) * edges + k * scores)


def test_what_is_summed_over_particles_is_what_the_network_sums() -> None:
    """All of a particle's values that leave a block are read once by the sum: as many as the network hands over."""
    features, counts = clouds([5, 3])
    parts = network().particles(tf.constant(features), pack(counts, SLOTS))
    assert node_traffic(SMALL, FEATURES, False).rows - _without_sum(SMALL) == sum(part.shape[-1] for part in parts)


def _without_sum(settings: ModelSettings) -> int:
    """Return the values of one particle by hand for the small network: blocks (4 | 5, 7) and (6 | 8), 4 neighbours."""
    first = (8 + 4) + (8 + 4) + 2 * 4 + (4 + 1) + 4 * 4 + 2 * 4 + 2 * 4
    first += ((8 + 4) + 5 + 2 * 5) + (5 + 7 + 2 * 7)
    second = (7 + 6) + (7 + 6) + 2 * 6 + (6 + 1) + 4 * 4 + 2 * 6 + 2 * 6
    second += (8 + 6) + 8 + 2 * 8
    assert (settings.attention, settings.first_block, settings.second_block) == ((4, 6), (5, 7), (8,))
    return first + second


def test_training_adds_a_reading_of_what_is_normalised_and_the_way_back() -> None:
    forward = node_traffic(SMALL, FEATURES, False).rows + (4 + 5 + 7) + (6 + 8)
    assert node_traffic(SMALL, FEATURES, True).rows == 3 * forward


@pytest.mark.parametrize(("settings", "reached"), [(SMALL, 5), (SMALL_PUBLISHED, 4)], ids=["default", "published"])
def test_a_pass_over_edges_reads_the_particle_and_its_neighbours(settings: ModelSettings, reached: int) -> None:
    """Of the published network's k neighbours one is the particle itself."""
    assert node_traffic(settings, FEATURES, False).edges == INFERENCE_PASSES * reached * (4 + 6)
    assert node_traffic(settings, FEATURES, True).edges == TRAINING_PASSES * reached * (4 + 6)


def test_edges_of_the_published_network_are_the_megabytes_that_are_said_of_it() -> None:
    """Some 4 MB a jet in training where the equal empty slots behind 54 particles are one; 7 MB of all 100 slots."""
    published = ModelSettings(network="published")
    slot = node_traffic(published, FEATURES, True).times(4)
    assert np.isclose(55 * slot.edges, 3.8e6, rtol=0.01)
    assert np.isclose(100 * slot.edges, 6.9e6, rtol=0.01)


def test_traffic_adds_up() -> None:
    assert Traffic(2.0, 3.0).times(4) == Traffic(8.0, 12.0)
    assert Traffic(2.0, 3.0).total == 5
