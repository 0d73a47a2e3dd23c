"""FastJet's jets and groomed masses against slow reference algorithms."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from sparton.physics.clustering import cluster, rank_in_event
from sparton.physics.events import Events
from sparton.physics.grooming import soft_drop_mass
from sparton.physics.jets import Jets
from sparton.physics.kinematics import offsets_from_counts

Vector = NDArray[np.float64]
Node = tuple[Vector, Any]


def random_events(counts: list[int], seed: int, spread: float = 1.5) -> Events:
    rng = np.random.default_rng(seed)
    size = sum(counts)
    pt, eta, phi = rng.exponential(30, size) + 0.5, rng.normal(0, spread, size), rng.uniform(-np.pi, np.pi, size)
    px, py, pz = pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta)
    energy = np.sqrt(px**2 + py**2 + pz**2 + 0.02)
    px32, py32, pz32, energy32 = (column.astype(np.float32) for column in (px, py, pz, energy))
    ids = rng.integers(1, 10**6, size).astype(np.int32)
    return Events(px32, py32, pz32, energy32, ids, offsets_from_counts(counts))


def rapidity(p: Vector) -> float:
    return float(np.arctanh(p[2] / p[3]))


def distance2(first: Vector, second: Vector) -> float:
    dphi = np.angle(np.exp(1j * (np.arctan2(first[1], first[0]) - np.arctan2(second[1], second[0]))))
    return float((rapidity(first) - rapidity(second)) ** 2 + dphi**2)


def reference_anti_kt(momenta: Vector, radius: float) -> list[set[int]]:
    """Members of every jet, by the definition: the smallest of d_ij and d_iB, again and again."""
    objects = [(p, {i}) for i, p in enumerate(momenta)]
    jets = []
    while objects:
        inverse = [1 / (p[0] ** 2 + p[1] ** 2) for p, _ in objects]
        beam = min(range(len(objects)), key=inverse.__getitem__)
        best, pair = inverse[beam], None
        for i in range(len(objects)):
            for j in range(i):
                d = min(inverse[i], inverse[j]) * distance2(objects[i][0], objects[j][0]) / radius**2
                if d < best:
                    best, pair = d, (i, j)
        if pair is None:
            jets.append(objects.pop(beam)[1])
        else:
            first, second = objects.pop(pair[0]), objects.pop(pair[1])
            objects.append((first[0] + second[0], first[1] | second[1]))
    return jets


def test_anti_kt_jets_have_the_members_of_the_definition() -> None:
    events = random_events([14, 1, 20, 9], 3)
    jets = cluster(events, 0.8, 0.0)
    momenta = np.stack([events.px, events.py, events.pz, events.energy], axis=1).astype(np.float64)
    for event in range(len(events)):
        own = slice(events.offsets[event], events.offsets[event + 1])
        ids = events.pdg_id[own]
        expected = {frozenset(ids[list(members)].tolist()) for members in reference_anti_kt(momenta[own], 0.8)}
        rows = np.flatnonzero(jets.event_index == event)
        found = {frozenset(jets.pdg_id[jets.offsets[row] : jets.offsets[row + 1]].tolist()) for row in rows}
        assert found == expected


def test_jets_come_by_event_and_falling_pt_above_the_cut() -> None:
    jets = cluster(random_events([30, 40, 25], 4), 0.6, 40.0)
    assert np.all(jets.jet_pt >= 40)
    assert np.all(np.diff(jets.event_index) >= 0)
    rank = rank_in_event(jets)
    for event in range(3):
        own = jets.event_index == event
        assert np.all(np.diff(jets.jet_pt[own]) <= 0)
        np.testing.assert_array_equal(rank[own], np.arange(own.sum()))


def test_events_without_particles() -> None:
    full = random_events([8, 12], 5)
    holed = Events(full.px, full.py, full.pz, full.energy, full.pdg_id, np.array([0, 0, 8, 8, 20, 20]))
    jets, expected = cluster(holed, 0.8, 5.0), cluster(full, 0.8, 5.0)
    np.testing.assert_array_equal(jets.jet_pt, expected.jet_pt)
    np.testing.assert_array_equal(jets.event_index, 1 + 2 * expected.event_index)
    assert len(cluster(full.select(np.zeros(20, bool)), 0.8, 5.0)) == 0


def test_visible_particles() -> None:
    px = np.array([1, 1, 0.3], np.float32)
    pz = np.sinh(np.array([4.9, -5.1, 0.0])).astype(np.float32) * px
    zero = np.zeros(3, np.float32)
    events = Events(px, zero, pz, np.hypot(px, pz), np.array([1, 2, 3], np.int32), np.array([0, 1, 3]))
    seen = events.visible(0.5)
    assert seen.pdg_id.tolist() == [1]
    assert seen.offsets.tolist() == [0, 1, 1]
    assert events.visible(0.0).pdg_id.tolist() == [1, 3]


def reference_groomed_mass(momenta: Vector, cut: float) -> float:
    """Cambridge/Aachen by the definition, then drop the softer branch until the split is symmetric enough."""
    nodes: list[Node] = [(p, None) for p in momenta]
    while len(nodes) > 1:
        pairs = [(distance2(nodes[i][0], nodes[j][0]), i, j) for i in range(len(nodes)) for j in range(i)]
        _, i, j = min(pairs)
        first, second = nodes.pop(i), nodes.pop(j)
        nodes.append((first[0] + second[0], (first, second)))
    node = nodes[0]
    while node[1] is not None:
        soft, hard = sorted(node[1], key=lambda branch: np.hypot(branch[0][0], branch[0][1]))
        pt_soft, pt_hard = (np.hypot(branch[0][0], branch[0][1]) for branch in (soft, hard))
        if pt_soft / (pt_soft + pt_hard) > cut:
            break
        node = hard
    p = node[0]
    return float(np.sqrt(max(p[3] ** 2 - p[0] ** 2 - p[1] ** 2 - p[2] ** 2, 0.0)))


@pytest.mark.parametrize("cut", [0.1, 0.3])
def test_soft_drop_mass_of_the_definition(cut: float) -> None:
    jets = cluster(random_events([24] * 12, 6, spread=0.4), 1.0, 0.0)
    momenta = np.stack([jets.px, jets.py, jets.pz, jets.energy], axis=1).astype(np.float64)
    expected = [reference_groomed_mass(momenta[a:b], cut) for a, b in zip(jets.offsets, jets.offsets[1:], strict=False)]
    found = soft_drop_mass(jets, symmetry_cut=cut)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=2e-3)
    assert np.any(found > 10)
    assert np.any(found < jets.jet_mass - 1)


def test_soft_drop_of_empty_jets() -> None:
    none = np.zeros(0, np.float32)
    jets = Jets.from_constituents(
        np.zeros(1, np.int64), none, none, none, none, np.zeros(0, np.int32), np.array([0, 0])
    )
    assert soft_drop_mass(jets).tolist() == [0.0]
    assert soft_drop_mass(Jets.empty()).shape == (0,)
