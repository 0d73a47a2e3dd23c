"""Random jets with two or three prongs, in the columns of the jets table; quick, and physical enough for tests."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa

from sparton.data.schema import JETS_ARROW
from sparton.physics.jets import Jets
from sparton.physics.kinematics import offsets_from_counts, owners

PRONGS = {"W": 2, "Z": 2, "t": 3}
MASSES = {"W": 80.4, "Z": 91.2, "t": 172.5}  # GeV
LABELS = tuple(PRONGS)
MEAN_CONSTITUENTS = 40
SPREAD = 0.02  # of a prong, in eta and phi


def random_jets(n: int, seed: int = 0, mean_constituents: float = MEAN_CONSTITUENTS) -> tuple[Jets, np.ndarray]:
    """Return ``n`` jets of about 1 TeV and their labels (object[n])."""
    rng = np.random.default_rng(seed)
    label = np.array(LABELS, object)[rng.integers(len(LABELS), size=n)]
    offsets = offsets_from_counts(3 + rng.poisson(mean_constituents - 3, size=n))
    jet = owners(offsets)
    prongs = np.array([PRONGS[name] for name in label], int)
    distance = np.array([MASSES[name] for name in label], float) / 1000.0
    prong = np.floor(rng.random(jet.size) * prongs[jet]).astype(int)
    turn = rng.uniform(0, 2 * np.pi, n)[jet] + 2 * np.pi * prong / prongs[jet]
    eta = rng.uniform(-1.5, 1.5, n)[jet] + distance[jet] * np.cos(turn) + rng.normal(0, SPREAD, jet.size)
    phi = rng.uniform(-np.pi, np.pi, n)[jet] + distance[jet] * np.sin(turn) + rng.normal(0, SPREAD, jet.size)
    share = rng.exponential(size=jet.size)
    pt = rng.normal(1000, 10, n)[jet] * share / np.add.reduceat(share, offsets[:-1])[jet]
    momenta = (pt * np.cos(phi), pt * np.sin(phi), pt * np.sinh(eta), pt * np.cosh(eta))
    px, py, pz, energy = (component.astype(np.float32) for component in momenta)
    pdg_id = np.array([22, 130, 211, -211], np.int32)[rng.integers(4, size=jet.size)]
    return Jets.from_constituents(np.arange(n), px, py, pz, energy, pdg_id, offsets), label


def jets_table(n: int, seed: int = 0, first_id: int = 0, mean_constituents: float = MEAN_CONSTITUENTS) -> pa.Table:
    """Return ``n`` random jets with ids from ``first_id`` on as a table with the schema ``JETS_ARROW``."""
    jets, label = random_jets(n, seed, mean_constituents)
    jet_id = np.arange(first_id, first_id + n)
    limits = pa.array(jets.offsets.astype(np.int32))
    columns: dict[str, Any] = {name: getattr(jets, name) for name in ("jet_pt", "jet_eta", "jet_phi", "jet_mass")}
    columns |= {
        name: pa.ListArray.from_arrays(limits, pa.array(getattr(jets, name)))
        for name in ("px", "py", "pz", "energy", "pdg_id")
    }
    columns |= {"jet_id": jet_id, "event_id": jet_id, "n_constituents": jets.n_constituents, "label": label}
    columns["source"] = ["synthetic"] * n
    return pa.table([columns[name] for name in JETS_ARROW.names], schema=JETS_ARROW)
