"""What to generate: processes, numbers of jets, windows, detector and seed."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, field_validator, model_validator

from sparton.config import Config
from sparton.errors import UsageError
from sparton.physics.processes import Process, find

Momentum = Annotated[float, Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Selection:
    """The cuts that hold for one process: pT windows in GeV and the jet radius."""

    radius: float
    jet_pt: tuple[float, float]
    hard_pt: tuple[float, float] | None


class GenerationSettings(Config):
    """Settings of jet generation; a window or radius that is None is the published one of each process.

    Attributes
    ----------
    processes
        Names out of :data:`sparton.physics.processes.PROCESSES`.
    jets_per_process
        Jets of each process, exactly.
    jets_per_task
        Jets that one task generates. Each task has a seed of its own, so this changes the jets; the number of
        partitions or executors does not.
    seed
        Seed of the whole table.
    pt_min, pt_max
        Window of the jets' pT in GeV; for the pairs of the ``lhco`` processes that of the leading jet.
    hard_pt_min, hard_pt_max
        Window of the hard process's pT in GeV. It must overlap the jets' window.
    radius
        Radius of the anti-kT jets.
    particle_pt_min
        Particles below this pT (GeV) are ignored before clustering. The default ignores none, as the generator's
        truth has none: constituents beyond ``|etarel|`` of 1.5 (soft massive hadrons, near the jet in rapidity
        only) are 0.05 % of all, while a cut of 0.5 GeV, which removes them, also removes a tenth of the constituents
        and 2 GeV of a W's mass. The detector has thresholds of its own.
    underlying_event
        Generate multiparton interactions. They cost six times the time and add some 15 GeV to a W jet's mass.
    detector
        Smear particles as a simple detector does (:mod:`sparton.physics.detector`).
    """

    processes: tuple[str, ...] = Field(default=("g", "q", "W", "Z", "t"), min_length=1)
    jets_per_process: int = Field(default=10_000, ge=1)
    jets_per_task: int = Field(default=1000, ge=1, le=100_000)
    seed: int = Field(default=1, ge=0)
    pt_min: Momentum | None = None
    pt_max: Momentum | None = None
    hard_pt_min: Momentum | None = None
    hard_pt_max: Momentum | None = None
    radius: float | None = Field(default=None, gt=0, le=1.5)
    particle_pt_min: Momentum = 0.0
    underlying_event: bool = False
    detector: bool = False

    @field_validator("processes")
    @classmethod
    def _known_processes(cls, names: Iterable[str]) -> tuple[str, ...]:
        chosen = tuple(names)
        try:
            for name in chosen:
                find(name)
        except UsageError as error:
            raise ValueError(str(error)) from None
        if len(set(chosen)) != len(chosen):
            raise ValueError("each process may be named once")
        return chosen

    @model_validator(mode="after")
    def _consistent(self) -> GenerationSettings:
        for process in map(find, self.processes):
            _check_windows(process, self.selection(process))
            if process.pairs and (self.jets_per_process % 2 or self.jets_per_task % 2):
                raise ValueError(
                    f"{process.name} gives two jets an event: jets_per_process and jets_per_task must be even"
                )
        return self

    def selection(self, process: Process) -> Selection:
        """Return the cuts for a process: these settings where given, else what the process was published with."""
        low, high = process.jet_pt
        return Selection(
            radius=process.radius if self.radius is None else self.radius,
            jet_pt=(low if self.pt_min is None else self.pt_min, high if self.pt_max is None else self.pt_max),
            hard_pt=self._hard_window(process),
        )

    def _hard_window(self, process: Process) -> tuple[float, float] | None:
        if process.hard_pt is None:
            return None
        low, high = process.hard_pt
        return (
            low if self.hard_pt_min is None else self.hard_pt_min,
            high if self.hard_pt_max is None else self.hard_pt_max,
        )


def _check_windows(process: Process, selection: Selection) -> None:
    (low, high), hard = selection.jet_pt, selection.hard_pt
    if low >= high:
        raise ValueError(f"{process.name}: pt_min {low:g} GeV must lie below pt_max {high:g} GeV")
    if hard is None:
        return
    if hard[0] >= hard[1]:
        raise ValueError(f"{process.name}: hard_pt_min {hard[0]:g} GeV must lie below hard_pt_max {hard[1]:g} GeV")
    if hard[0] >= high or hard[1] <= low:
        raise ValueError(
            f"{process.name}: the jets' window {low:g}-{high:g} GeV lies outside the hard process's "
            f"{hard[0]:g}-{hard[1]:g} GeV; set hard_pt_min and hard_pt_max too"
        )
