"""The whole pipeline: every stage in order, each skipped where it is up to date."""

from __future__ import annotations

from typing import Any

from sparton import storage
from sparton.pipeline.assignment import assign
from sparton.pipeline.evaluation import evaluate
from sparton.pipeline.generation import generate
from sparton.pipeline.preparation import prepare
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageResult
from sparton.pipeline.training import train


def run(settings: PipelineSettings, *, force: bool = False) -> list[StageResult]:
    """Run generate, prepare, train, assign and evaluate in the workspace and return their results in this order."""
    return [stage(settings, force=force) for stage in (generate, prepare, train, assign, evaluate)]


def closing_rows(results: list[StageResult]) -> dict[str, Any]:
    """Return the closing table of a whole run: jets, training, accuracy beside the baselines, times and the report."""
    by_stage = {result.stage: result for result in results}
    generated, trained, evaluated = (by_stage[stage].summary for stage in ("generate", "train", "evaluate"))
    took = [f"{r.stage} {'up to date' if r.skipped else f'{r.seconds:.0f} s'}" for r in results]
    return {
        "jets per class": generated["jets"],
        "workers": trained["workers"],
        "steps": trained["steps"],
        "jets/s in training steps": trained["jets/s"],
        **evaluated,
        "report": storage.join(by_stage["evaluate"].output, evaluated["report"]),
        "stages": took,
    }
