"""What the scaling study makes of measurements: medians, predictions, the page; and which large batches it trains."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

import scaling
from parts import large_batch, scaling_pages
from parts.pages import fill
from parts.recipes import PEAKS, settings
from parts.scaling_measure import SIZES, WARM_UP, Crew, summary, take_turns
from parts.scaling_model import Link, allreduce_seconds
from parts.scaling_scenarios import HALF_CYCLE_S, predict
from sparton.ucluster.schedule import schedule_at

BATCH = 100
COLLECTIVES = [4, 400, 40_000]
DOCS = Path(__file__).resolve().parents[2] / "docs"


def answer(step_s: float, steps: int = 4, exchange: float = 0.0, halved: bool = False) -> dict[str, Any]:
    """Return what a worker says of a turn whose steps take ``step_s`` and a bit, in turns more and less."""
    durations = [step_s * (1.01 if index % 2 else 0.99) for index in range(steps)]
    return {
        "seconds": sum(durations),
        "steps": durations,
        "times": {"input": 0.0, "compute": sum(durations) - exchange, "exchange": exchange, "other": 0.0},
        "collectives": [4, 400, 20_000] if halved else COLLECTIVES,
        "gradient_bytes": 19_000 if halved else 38_000,
    }


def turn(source: str, alone: float, both: float, together: float) -> dict[str, Any]:
    """Return the answers of a round; one of the workers together is slower than the other."""
    return {
        "source": source,
        "singles": [answer(alone), answer(alone)],
        "both": [answer(both), answer(both)],
        "direct float32": [answer(together, exchange=0.2), answer(0.9 * together, exchange=0.2)],
        "direct float16": [answer(2 * together, halved=True), answer(2 * together, halved=True)],
        "Horovod float32": [answer(3 * together), answer(3 * together)],
    }


TURNS = [
    turn(source, factor * 0.10, factor * 0.11, together)
    for source in ("memory", "table")
    for factor, together in ((1.0, 0.125), (2.0, 0.25), (1.0, 0.200))
]
"""In the second round the machine is half as fast, which ratios within a round do not see; the third is an outlier."""

CALIBRATION = {
    "hop_s": 2e-5,
    **{
        name: {
            "sizes": list(SIZES[:count]),
            "seconds": [intercept + slope * size for size in SIZES[:count]],
            "fit": {"intercept_s": intercept, "seconds_per_byte": slope, "worst": 0.0},
        }
        for name, count, intercept, slope in (
            ("direct float32", 7, 4e-4, 1e-9),
            ("direct float16", 7, 4e-4, 3e-9),
            ("Horovod float32", 9, 4e-3, 2e-9),
        )
    },
}


@pytest.fixture
def found() -> dict[str, Any]:
    return summary(TURNS, BATCH)


def test_ratios_are_taken_within_rounds_and_the_slower_worker_counts(found: dict[str, Any]) -> None:
    first = found["lines"][0]
    assert (first["source"], first["precision"]) == ("memory", "float32")
    assert first["alone"] == pytest.approx(BATCH / 0.10)
    assert first["together"] == pytest.approx(2 * BATCH / 0.200)
    assert first["efficiency"] == pytest.approx(0.8)
    assert first["efficiency_range"] == pytest.approx([0.5, 0.8])
    assert first["apart_efficiency"] == pytest.approx(1 / 1.1)
    assert [found["lines"][place]["efficiency"] for place in (1, 2)] == pytest.approx([0.4, 0.8 / 3])
    assert [line["way"] for line in found["lines"]] == ["direct", "direct", "Horovod"] * 2
    assert first["exchange_s"] == pytest.approx(0.2 / 4)
    assert sum(first["shares"].values()) == pytest.approx(1)
    assert (found["rounds"], found["steps"]) == (3, 4)
    assert found["exchange"]["float16"]["gradient_bytes"] * 2 == found["exchange"]["float32"]["gradient_bytes"]


def test_the_model_starts_from_what_was_measured(found: dict[str, Any]) -> None:
    predicted = predict(found, CALIBRATION)
    loopback = predicted["scenarios"]["loopback"]
    assert loopback["direct"] == pytest.approx({"latency_s": 2e-5, "bytes_per_second": 1e9, "overhead_s": 3.8e-4})
    assert loopback["link"] == pytest.approx({"latency_s": 2e-5, "bytes_per_second": 5e8, "overhead_s": 3.96e-3})
    spread = loopback["workload"]["spread_s"] * 0.5641895835
    for name, intercept, slope in (("loopback", 4e-4, 1e-9), ("horovod", 4e-3, 2e-9)):
        exchange = sum(intercept + slope * size for size in COLLECTIVES)
        assert predicted["scenarios"][name]["efficiency"]["ring"][1] == pytest.approx(
            found["alone_s"] / (found["shared_s"] + spread + exchange)
        )
    for scenario in predicted["scenarios"].values():
        for algorithm in ("ring", "tree"):
            values = scenario["efficiency"][algorithm]
            assert values[0] == 1
            assert all(after < before for before, after in pairwise(values))


def test_the_published_point_lies_between_the_assumed_links(found: dict[str, Any]) -> None:
    predicted = predict(found, CALIBRATION)
    slow, fast = (predicted["scenarios"][f"resnet_{name}"]["at_published"] for name in ("infiniband", "nvlink"))
    assert slow["tree"] < predicted["published"]["efficiency"] < fast["ring"]
    link = Link(5e-6, 100e9, HALF_CYCLE_S)
    assert fast["ring"] == pytest.approx(1 / (1 + allreduce_seconds(51.2e6, 24, link) * 1300 / 256))


def test_the_page_is_filled_between_its_markers_and_results_are_kept(tmp_path: Path, found: dict[str, Any]) -> None:
    machine: dict[str, Any] = {"cores": 2, "processor": "a processor", "load": 0.0, "environment": {}}
    machine |= {"copied_bytes_per_second": 5e9}
    predicted = predict(found, CALIBRATION) | {"check": {"model": 0.81, "measured": 0.8}}
    row = {
        "workers": 8,
        "batch": 1024,
        "scaled": True,
        "warmup": None,
        "steps": 5,
        "val_loss": 0.25,
        "accuracy": 0.8125,
    }
    runs = {"jets": 9000, "pretrain_epochs": 3, "joint_epochs": 1, "seed": 1, "seconds": 60.0}
    results = {
        "efficiency": found | {"machine": machine},
        "calibration": CALIBRATION,
        "model": predicted,
        "large_batch": runs | {"runs": [row | {"best_accuracy": 0.82}]},
    }
    page = tmp_path / scaling_pages.PAGE
    page.write_text((DOCS / scaling_pages.PAGE).read_text())
    scaling_pages.write(tmp_path, results)
    text = page.read_text()
    assert (
        "| memory | direct | float32 | 1,000 | 1,818 | 1,000 | **0.800** (0.500 to 0.800) | ≥ 0.90: missed | 0.909 |"
        in text
    )
    assert "| float16 | 3 | 20,000 B | 404 B | 19,000 B |" in text
    assert "| 4 MiB | 4.594 | 12.983 | 12.389 |" in text
    assert "| 64 MiB |  |  | 138.218 |" in text
    assert "the model says 0.810, the measurement 0.800" in text
    assert "| 8 | 1,024 | × N | none | 5 | 0.2500 | 0.812 | 0.820 |" in text
    assert json.loads((tmp_path / scaling_pages.RESULTS).read_text()) == scaling_pages.read(tmp_path)
    assert "<svg" in (tmp_path / scaling_pages.FIGURE).read_text()
    # Written again with one part alone, the others stay.
    scaling_pages.write(tmp_path, {"calibration": CALIBRATION})
    assert page.read_text() == text


def test_the_page_has_a_place_for_every_part() -> None:
    text = (DOCS / scaling_pages.PAGE).read_text()
    for name in ("efficiency", "exchange", "calibration", "model", "large-batch"):
        assert fill(text, name, scaling_pages.SCRIPT, ["a new line"]) != text
    assert fill(text, "another", scaling_pages.SCRIPT, ["a new line"]) == text


class Silent:
    """A worker that remembers what it was asked."""

    def __init__(self, name: str, log: list[str]) -> None:
        self._name = name
        self._log = log

    def ask(self, call: str, **arguments: Any) -> None:
        assert arguments["warm_up"] == WARM_UP
        self._log.append(f"{self._name} {arguments['source']} {arguments['precision']}")

    def answer(self) -> dict[str, Any]:
        return answer(0.1)

    def signal(self, number: int) -> None:
        self._log.append(f"{self._name} {number}")


def test_workers_of_a_world_run_only_in_their_turn() -> None:
    log: list[str] = []
    alone = Crew([Silent("a", log), Silent("b", log)])  # type: ignore[list-item]
    worlds = {
        "direct": Crew([Silent("0", log), Silent("1", log)]),  # type: ignore[list-item]
        "Horovod": Crew([Silent("2", log), Silent("3", log)]),  # type: ignore[list-item]
    }
    turns = take_turns(alone, worlds, rounds=2, steps=4)
    assert [each["source"] for each in turns] == ["memory", "table"] * 2
    assert log[:22] == [
        *(f"{name} memory float32" for name in "abab"),
        *(
            line
            for names, precision in (("01", "float32"), ("01", "float16"), ("23", "float32"))
            for action in ("18", f"memory {precision}", "19")
            for line in (f"{name} {action}" for name in names)
        ),
    ]
    assert len(log) == 3 * 2 * 22


def test_large_batches_follow_the_schedule_of_their_workers() -> None:
    recipe = settings(None)
    runs = large_batch.runs(recipe, PEAKS, 10_000, (3, 1), 5)
    assert len({run.name for run in runs}) == len(runs) == 9
    assert [run.workers for run in runs] == [1, 8, 8, 8, 8, 32, 32, 32, 32]
    base = recipe.train.learning_rate * 128 / 256
    for run in runs:
        assert run.training.batch_size == 128 * run.workers
        assert run.worker_settings.batch_size == 128
        assert (run.training.epochs, run.training.seed) == (4, 5)
        steps = -(-10_000 // run.training.batch_size)
        peak = base * (run.workers if run.training.linear_scaling else 1)
        first = schedule_at(run.worker_settings, run.workers, 0, 0, steps).learning_rate
        after = schedule_at(run.worker_settings, run.workers, 1, 0, steps).learning_rate
        if run.training.warmup_steps:
            assert run.training.warmup_steps == steps
            assert base < first < peak
            assert after == pytest.approx(peak)
        else:
            assert first == pytest.approx(peak)
            assert after < peak


def test_options_say_what_to_do() -> None:
    assert scaling._options([]).only == ["efficiency", "model"]
    found = scaling._options(["--only", "large-batch", "--epochs", "2", "1", "--save"])
    assert (found.only, found.epochs, found.save) == (["large-batch"], [2, 1], True)
    assert dict(scaling._options(["--environment", "A=1", "B=x=y"]).environment) == {"A": "1", "B": "x=y"}
    for bad in (["--only", "nothing"], ["--environment", "A"]):
        with pytest.raises(SystemExit):
            scaling._options(bad)


def test_a_model_needs_step_times(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="add efficiency"):
        scaling.main(["--only", "model", "--docs", str(tmp_path)])
