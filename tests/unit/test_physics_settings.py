"""Names, windows and Pythia commands of the processes."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from sparton.config import validate
from sparton.errors import ConfigError, SpartonError, UsageError
from sparton.physics import libraries, pythia
from sparton.physics.processes import PROCESSES, find
from sparton.physics.settings import GenerationSettings


def test_codes_are_unique_and_labels_as_in_the_table() -> None:
    assert sorted(process.code for process in PROCESSES.values()) == list(range(len(PROCESSES)))
    assert [process.label for process in PROCESSES.values()] == ["g", "q", "W", "Z", "t", "signal", "background"]


@pytest.mark.parametrize(
    ("name", "nearest"), [("w", "W"), ("T", "t"), ("lhco-sginal", "lhco-signal"), ("background", "lhco-background")]
)
def test_an_unknown_process_names_the_nearest(name: str, nearest: str) -> None:
    with pytest.raises(UsageError, match=f"did you mean '{nearest}'"):
        find(name)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"processes": ["w"]}, "did you mean 'W'"),
        ({"processes": []}, "processes"),
        ({"processes": ["W", "W"]}, "named once"),
        ({"jets_per_process": 0}, "jets_per_process"),
        ({"radius": 0}, "radius"),
        ({"pt_min": 1700}, "must lie below pt_max"),
        ({"pt_min": 300, "pt_max": 500}, "set hard_pt_min and hard_pt_max"),
        ({"hard_pt_min": 1200}, "must lie below hard_pt_max"),
        ({"processes": ["lhco-signal"], "jets_per_process": 11}, "must be even"),
        ({"processes": ["lhco-signal"], "jets_per_task": 11}, "must be even"),
        ({"detectr": True}, "did you mean 'detector'"),
    ],
)
def test_bad_settings_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        validate(GenerationSettings, values, "test")


def test_defaults_are_the_published_windows() -> None:
    settings = GenerationSettings(processes=tuple(PROCESSES))
    top = settings.selection(find("t"))
    assert (top.radius, top.jet_pt, top.hard_pt) == (0.8, (800, 1600), (990, 1010))
    signal = settings.selection(find("lhco-signal"))
    assert (signal.radius, signal.jet_pt[0], signal.hard_pt) == (1.0, 1200, None)


def test_settings_reach_pythia() -> None:
    settings = GenerationSettings(pt_min=400, pt_max=600, hard_pt_min=450, hard_pt_max=550, underlying_event=True)
    lines = pythia.commands(find("W"), settings)
    assert {"PartonLevel:MPI = on", "PhaseSpace:pTHatMin = 450", "PhaseSpace:pTHatMax = 550"} <= set(lines)
    assert "PartonLevel:MPI = off" in pythia.commands(find("W"), GenerationSettings())
    assert "PhaseSpace:pTHatMax = -1" in pythia.commands(find("lhco-background"), GenerationSettings())
    assert not [line for line in lines if "seed" in line.lower()]


@pytest.mark.parametrize("seed", [0, -1, pythia.MAX_SEED + 1])
def test_seeds_that_pythia_would_not_take_are_refused(seed: int) -> None:
    with pytest.raises(UsageError, match="expected 1 to 900000000"):
        pythia.start(find("W"), seed, GenerationSettings())


def test_a_refused_setting_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pythia, "commands", lambda *_: ["HardQCD:nothing = on"])
    with pytest.raises(SpartonError, match="refused the setting 'HardQCD:nothing = on'"):
        pythia.start(find("g"), 1, GenerationSettings())


@pytest.mark.parametrize("package", ["pythia8mc", "fastjet"])
def test_a_missing_package_names_the_extra(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    libraries.load.cache_clear()
    with pytest.raises(SpartonError, match=rf"{package}.*sparton\[gen\].*GPL-2-or-later") as caught:
        libraries.versions()
    assert "\n" not in str(caught.value)
    monkeypatch.undo()
    libraries.load.cache_clear()
