"""Pythia 8: from settings to batches of final-state particles.

A running generator cannot be pickled. What travels to an executor is a process's name, a seed and the settings; the
generator is built where it runs.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton.errors import SpartonError, UsageError
from sparton.physics import libraries
from sparton.physics.events import Events
from sparton.physics.kinematics import offsets_from_counts
from sparton.physics.processes import Process
from sparton.physics.settings import GenerationSettings

BEAM_ENERGY = 13000.0
"""Centre-of-mass energy of the proton beams in GeV."""

MAX_SEED = 900_000_000
"""Pythia's largest seed; 0 would mean the clock and -1 a fixed default."""

NEUTRINOS = (12, 14, 16)
"""PDG codes (absolute) of the particles that no detector sees."""


def commands(process: Process, settings: GenerationSettings) -> list[str]:
    """Return the lines that configure Pythia for a process, all but the seed."""
    lines = [
        "Print:quiet = on",
        f"Beams:eCM = {BEAM_ENERGY:g}",
        f"PartonLevel:MPI = {'on' if settings.underlying_event else 'off'}",
    ]
    hard = settings.selection(process).hard_pt
    if hard is not None:
        lines.append(f"PhaseSpace:pTHatMin = {hard[0]:g}")
        # A negative maximum is Pythia's way to say that there is none.
        lines.append(f"PhaseSpace:pTHatMax = {hard[1] if np.isfinite(hard[1]) else -1.0:g}")
    return [*lines, *process.commands]


def check_seed(seed: int) -> None:
    """Raise a UsageError unless Pythia takes the seed as it is: 1 to :data:`MAX_SEED`."""
    if not 1 <= seed <= MAX_SEED:
        raise UsageError(f"seed {seed} of a generator: expected 1 to {MAX_SEED} (0 would be the clock)")


def start(process: Process, seed: int, settings: GenerationSettings) -> Any:
    """Return an initialised generator.

    Raises
    ------
    UsageError
        If the seed is out of range.
    SpartonError
        If Pythia is missing, does not find its data, refuses a line or cannot be initialised.
    """
    check_seed(seed)
    generator = libraries.load("pythia8mc").Pythia("", False)
    for line in [*commands(process, settings), "Random:setSeed = on", f"Random:seed = {seed}"]:
        if not generator.readString(line):
            raise SpartonError(
                f"Pythia refused the setting {line!r} of process {process.name}; if it refuses every setting it did "
                "not find its data: set PYTHIA8DATA to the folder share/Pythia8/xmldoc of its installation"
            )
    if not generator.init():
        raise SpartonError(f"Pythia could not be initialised for process {process.name}; its reason stands above")
    return generator


def next_events(generator: Any, n_events: int) -> Events:
    """Generate up to ``n_events`` events (failed ones are left out): their final particles but neutrinos."""
    awkward = libraries.load("awkward")
    particles = generator.nextBatch(n_events).prt
    counts = awkward.to_numpy(awkward.num(particles, axis=1))

    def flat(field: Any) -> NDArray[Any]:
        values: NDArray[Any] = awkward.to_numpy(awkward.flatten(field, axis=1))
        return values

    pdg_id = flat(particles.id)
    final = (flat(particles.status) > 0) & ~np.isin(np.abs(pdg_id), NEUTRINOS)
    index = np.flatnonzero(final)
    momentum = particles.p
    px, py, pz, energy = (flat(momentum[name])[index].astype(np.float32) for name in ("px", "py", "pz", "e"))
    offsets = np.searchsorted(index, offsets_from_counts(counts)).astype(np.int64)
    return Events(px, py, pz, energy, pdg_id[index].astype(np.int32), offsets)
