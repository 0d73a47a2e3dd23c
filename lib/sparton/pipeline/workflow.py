"""The whole pipeline, of jets or of a table: every stage in order, each skipped where it is up to date."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from sparton import storage
from sparton.pipeline.assignment import assign
from sparton.pipeline.clustering import SIZES, cluster
from sparton.pipeline.evaluation import evaluate
from sparton.pipeline.generation import generate
from sparton.pipeline.preparation import prepare
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageResult, check_alone
from sparton.pipeline.training import train

Stage = Callable[..., StageResult]


def run(settings: PipelineSettings, *, force: bool = False) -> list[StageResult]:
    """Run the stages of the configuration's kind in the workspace and return their results in this order.

    Of jets: generate, prepare, train, assign and evaluate; of a table: prepare, cluster, assign and evaluate.

    Raises
    ------
    UsageError
        If the lanes of the training cannot be shared equally by the workers, or several processes were started,
        before any stage begins.
    ConfigError
        If ``launch.launcher`` is ``external`` and nothing outside has started this process.
    """
    check_alone("run")
    stages: tuple[Stage, ...] = (generate, prepare, train, assign, evaluate)
    if settings.kind == "table":
        stages = (prepare, cluster, assign, evaluate)
    settings.check_training("cluster" if settings.kind == "table" else "train")
    return [stage(settings, force=force) for stage in stages]


def closing_rows(results: list[StageResult]) -> dict[str, Any]:
    """Return the closing table of a whole run: what was clustered, training, what was found, times and the report."""
    by_stage = {result.stage: result for result in results}
    evaluated = by_stage["evaluate"].summary
    took = [f"{r.stage} {'up to date' if r.skipped else f'{r.seconds:.0f} s'}" for r in results]
    return {
        **(_table_rows(by_stage) if "cluster" in by_stage else _jets_rows(by_stage)),
        **evaluated,
        "report": storage.join(by_stage["evaluate"].output, evaluated["report"]),
        "stages": took,
    }


def _jets_rows(by_stage: dict[str, StageResult]) -> dict[str, Any]:
    generated, trained = by_stage["generate"].summary, by_stage["train"].summary
    return {
        "jets per class": generated["jets"],
        "workers": trained["workers"],
        "steps": trained["steps"],
        # Nothing is timed where each process made only the step in which TensorFlow traces the network.
        **({"jets/s in training steps": trained["jets/s"]} if "jets/s" in trained else {}),
    }


def _table_rows(by_stage: dict[str, StageResult]) -> dict[str, Any]:
    # Sizes that evaluate found are below.
    clustered = {name: value for name, value in by_stage["cluster"].summary.items() if name not in SIZES.values()}
    return {"rows": by_stage["prepare"].summary["rows kept"], **clustered}
