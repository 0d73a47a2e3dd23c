"""The processes that can be generated: Pythia 8 settings, labels and published selections.

``g q W Z t`` follow the five-class HLS4ML jet data set (partons of 1 TeV within 1 %, anti-kT R = 0.8, jets of
0.8-1.6 TeV; arXiv:1804.06913), at leading order of Pythia. The two ``lhco`` processes follow the R&D data set of the
LHC Olympics 2020 (arXiv:2101.08320): QCD dijets, and W' -> X Y -> four quarks with masses of 3.5, 0.5 and 0.1 TeV,
whose angular correlations come from giving X and Y the places of W and Z.
"""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from types import MappingProxyType

from sparton.errors import UsageError


@dataclass(frozen=True)
class Process:
    """One process and the selection that its data set was published with (momenta in GeV).

    Attributes
    ----------
    code
        Number that enters the identifiers of jets; never reused.
    commands
        Pythia settings that turn the process on.
    hard_pt
        Window of the hard process's pT; None where it has none (2 -> 1), infinity for no upper limit.
    jet_pt
        Window of the jets' pT; with ``pairs`` that of the leading jet.
    pairs
        False: each of the two leading jets that lies in the window is kept by itself.
        True: events whose leading jet passes are kept, with both leading jets.
    max_abs_eta
        Largest ``|eta|`` of the leading jet of a pair.
    """

    name: str
    label: str
    code: int
    commands: tuple[str, ...]
    radius: float = 0.8
    hard_pt: tuple[float, float] | None = (990.0, 1010.0)
    jet_pt: tuple[float, float] = (800.0, 1600.0)
    pairs: bool = False
    max_abs_eta: float = float("inf")


_HADRONIC_W = ("24:onMode = off", "24:onIfAny = 1 2 3 4 5")
_HADRONIC_Z = ("23:onMode = off", "23:onIfAny = 1 2 3 4 5")

_LHCO_SIGNAL = (
    "NewGaugeBoson:ffbar2Wprime = on",
    "Wprime:coup2WZ = 1.",
    "Wprime:anglesWZ = 0.",
    "34:m0 = 3500.",
    "34:mWidth = 10.",
    "34:mMin = 3000.",
    "34:mMax = 4000.",
    "34:doForceWidth = on",
    "34:onMode = off",
    "34:onIfAny = 23 24",
    "24:m0 = 500.",
    "24:mWidth = 2.",
    "24:mMin = 450.",
    "24:mMax = 550.",
    "24:doForceWidth = on",
    *_HADRONIC_W,
    # At 500 GeV the charged boson may also decay to t b, which the data set does not contain.
    "24:offIfAny = 6",
    "23:m0 = 100.",
    "23:mWidth = 2.",
    "23:mMin = 80.",
    "23:mMax = 120.",
    "23:doForceWidth = on",
    *_HADRONIC_Z,
)

_ALL = (
    Process("g", "g", 0, ("HardQCD:gg2gg = on", "HardQCD:qqbar2gg = on")),
    Process(
        "q",
        "q",
        1,
        (
            "HardQCD:qq2qq = on",
            "HardQCD:gg2qqbar = on",
            "HardQCD:qqbar2qqbarNew = on",
            "HardQCD:nQuarkNew = 3",
        ),
    ),
    Process("W", "W", 2, ("WeakDoubleBoson:ffbar2WW = on", *_HADRONIC_W)),
    Process("Z", "Z", 3, ("WeakDoubleBoson:ffbar2gmZgmZ = on", "WeakZ0:gmZmode = 2", *_HADRONIC_Z)),
    Process("t", "t", 4, ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", *_HADRONIC_W)),
    Process(
        "lhco-signal",
        "signal",
        5,
        _LHCO_SIGNAL,
        radius=1.0,
        hard_pt=None,
        jet_pt=(1200.0, float("inf")),
        pairs=True,
        max_abs_eta=2.5,
    ),
    Process(
        "lhco-background",
        "background",
        6,
        ("HardQCD:all = on",),
        radius=1.0,
        hard_pt=(1000.0, float("inf")),
        jet_pt=(1200.0, float("inf")),
        pairs=True,
        max_abs_eta=2.5,
    ),
)

PROCESSES = MappingProxyType({process.name: process for process in _ALL})
"""Every process by name, in the order of their codes."""


def find(name: str) -> Process:
    """Return the process of this name.

    Raises
    ------
    UsageError
        If there is none; the message gives the nearest name and all names.
    """
    if name in PROCESSES:
        return PROCESSES[name]
    by_lower = {known.lower(): known for known in PROCESSES}
    near = difflib.get_close_matches(name.lower(), by_lower, n=1, cutoff=0.4)
    hint = f"did you mean {by_lower[near[0]]!r}? " if near else ""
    raise UsageError(f"unknown process {name!r}; {hint}Known processes: {', '.join(PROCESSES)}")
