"""Anti-kT jets of a batch of events by FastJet, with the constituents' identities."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton.physics import kinematics, libraries
from sparton.physics.events import Events
from sparton.physics.jets import Jets


def momentum_array(
    px: NDArray[np.float32],
    py: NDArray[np.float32],
    pz: NDArray[np.float32],
    energy: NDArray[np.float32],
    offsets: NDArray[np.int64],
) -> Any:
    """Return jagged four-momenta (GeV) as the awkward array of float64 records that FastJet reads."""
    awkward = libraries.load("awkward")
    components = {"px": px, "py": py, "pz": pz, "E": energy}
    wide = {name: np.ascontiguousarray(values, np.float64) for name, values in components.items()}
    return awkward.unflatten(awkward.zip(wide, with_name="Momentum4D"), np.diff(offsets))


def cluster(events: Events, radius: float, pt_min: float) -> Jets:
    """Return all anti-kT jets (E scheme) of at least ``pt_min`` GeV.

    ``event_index`` counts the events of the batch; jets come by event, those of an event by falling pT
    (Cacciari, Salam, Soyez, arXiv:0802.1189 and arXiv:1111.6097).
    """
    if len(events) == 0 or events.px.size == 0:
        return Jets.empty()
    awkward, fastjet = libraries.load("awkward"), libraries.load("fastjet")
    momenta = momentum_array(events.px, events.py, events.pz, events.energy, events.offsets)
    sequence = fastjet.ClusterSequence(momenta, fastjet.JetDefinition(fastjet.antikt_algorithm, radius))
    members = sequence.constituent_index(pt_min)
    jets_per_event = awkward.to_numpy(awkward.num(members, axis=1))
    counts = awkward.to_numpy(awkward.flatten(awkward.num(members, axis=2), axis=None))
    event = np.repeat(np.arange(len(events)), jets_per_event)
    local = awkward.to_numpy(awkward.flatten(members, axis=None))
    index = local + np.repeat(events.offsets[event], counts)
    jets = Jets.from_constituents(
        event,
        events.px[index],
        events.py[index],
        events.pz[index],
        events.energy[index],
        events.pdg_id[index],
        kinematics.offsets_from_counts(counts),
    )
    return jets.take(np.lexsort((-jets.jet_pt, jets.event_index)))


def rank_in_event(jets: Jets) -> NDArray[np.int64]:
    """Return each jet's place by pT in its event, 0 for the leading one (jets as :func:`cluster` orders them)."""
    first = np.searchsorted(jets.event_index, jets.event_index, side="left")
    return np.arange(len(jets)) - first
