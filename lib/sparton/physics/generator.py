"""Exactly n jets of a process, a pure function of (process, n, seed, settings)."""

from __future__ import annotations

import logging
import math

import numpy as np
from numpy.typing import NDArray

from sparton.errors import DataError, UsageError
from sparton.physics import pythia
from sparton.physics.clustering import cluster, rank_in_event
from sparton.physics.detector import smear
from sparton.physics.jets import Jets
from sparton.physics.processes import Process, find
from sparton.physics.settings import GenerationSettings, Selection

logger = logging.getLogger(__name__)

BATCH_EVENTS = (10, 200)
"""Fewest and most events in a batch; 200 events take some 100 MB."""

GRACE_EVENTS = 2000
EVENTS_PER_JET = 100
"""Generation gives up after GRACE_EVENTS plus EVENTS_PER_JET for every jet found."""

SECOND_JET_PT_MIN = 20.0
"""Least pT in GeV of the second jet of a pair."""


def generate_jets(process: str, n_jets: int, seed: int, settings: GenerationSettings) -> Jets:
    """Generate jets; the first k of n jets are those that asking for k alone gives.

    Parameters
    ----------
    process
        Name of the process.
    n_jets
        Number of jets, even for processes that keep pairs.
    seed
        Pythia's seed, 1 to 900 000 000.
    settings
        Windows, radius, underlying event and detector; its processes, numbers and seed are not used.

    Returns
    -------
    Jets
        ``event_index`` numbers the generated events from 0.

    Raises
    ------
    UsageError
        If the process is unknown, or the seed or number is out of range.
    DataError
        If fewer than one jet in :data:`EVENTS_PER_JET` events passes the selection.
    SpartonError
        If Pythia or FastJet is missing or refuses the settings.
    """
    definition = find(process)
    if n_jets < 0 or (definition.pairs and n_jets % 2):
        raise UsageError(f"{process}: cannot generate {n_jets} jets; expected 0 or more, even where pairs are kept")
    generator = pythia.start(definition, seed, settings)
    randoms = np.random.default_rng(seed)
    selection = settings.selection(definition)
    parts: list[Jets] = []
    found = tried = seen = 0
    while found < n_jets:
        size = _batch_size(n_jets - found, found, tried)
        if size < 1:
            raise DataError(_too_few(definition, selection, n_jets, found, tried))
        events = pythia.next_events(generator, size)
        visible = events.visible(settings.particle_pt_min)
        measured = smear(visible, randoms) if settings.detector else visible
        candidates = cluster(measured, selection.radius, _cluster_pt_min(definition, selection))
        jets = candidates.take(select(candidates, definition, selection))
        parts.append(jets.shift_events(seen))
        found, tried, seen = found + len(jets), tried + size, seen + len(events)
    logger.debug("%s: %d jets from %d events, seed %d", process, n_jets, tried, seed)
    return Jets.concatenate(parts).take(np.arange(n_jets))


def select(jets: Jets, process: Process, selection: Selection) -> NDArray[np.bool_]:
    """Tell which of the jets of :func:`~sparton.physics.clustering.cluster` the process keeps, bool[n]."""
    rank = rank_in_event(jets)
    low, high = selection.jet_pt
    in_window = (jets.jet_pt >= low) & (jets.jet_pt < high)
    if not process.pairs:
        return in_window & (rank < 2)
    triggered = in_window & (rank == 0) & (np.abs(jets.jet_eta) < process.max_abs_eta)
    complete = np.intersect1d(jets.event_index[triggered], jets.event_index[rank == 1])
    return np.isin(jets.event_index, complete) & (rank < 2)


def _cluster_pt_min(process: Process, selection: Selection) -> float:
    # A little below the window, which is applied to the rounded sum of the constituents.
    return SECOND_JET_PT_MIN if process.pairs else 0.999 * selection.jet_pt[0]


def _batch_size(missing: int, found: int, tried: int) -> int:
    """Return how many events to generate next; less than 1 when the limit on trials is reached."""
    jets_per_event = found / tried if found else 2.0
    wanted = math.ceil(1.05 * missing / jets_per_event)
    fewest, most = BATCH_EVENTS
    return min(max(wanted, fewest), most, GRACE_EVENTS + EVENTS_PER_JET * found - tried)


def _too_few(process: Process, selection: Selection, n_jets: int, found: int, tried: int) -> str:
    low, high = selection.jet_pt
    hard = selection.hard_pt
    origin = "" if hard is None else f" from a hard process of {hard[0]:g}-{hard[1]:g} GeV"
    return (
        f"{process.name}: only {found} of {n_jets} jets after {tried} events; jets with pT of {low:g}-{high:g} GeV and "
        f"radius {selection.radius:g}{origin} are too rare. Widen pt_min and pt_max, or move the hard process's window"
    )
