"""Trainings that several processes run together, each with the whole command: under horovodrun, mpirun or srun.

Rank 0 runs the stage and publishes; the others train with it what it publishes.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from sparton.distributed import external
from sparton.distributed.launch import launch
from sparton.distributed.world import described
from sparton.pipeline.stage import StageCall, StageResult


def others_rank() -> int | None:
    """Return the rank of this process if it is one that follows rank 0; None of rank 0, and of one that is alone."""
    world = described()
    return None if world is None or world.is_root else world.rank


def call_others(call: StageCall) -> None:
    """Let the other ranks, if there are any, train with this one."""
    if described() is not None:
        external.summon(call.configuration.launch, start=True)


def dismiss_others(call: StageCall) -> None:
    """Tell the other ranks, if there are any, that there is nothing to do."""
    if described() is not None:
        external.summon(call.configuration.launch, start=False)


def follow(call: StageCall, fn: Callable[..., Any], arguments: tuple[Any, ...], rank: int) -> StageResult:
    """Call ``fn(connection, *arguments)`` with rank 0, if that says so, as another rank than 0."""
    started, launching = time.perf_counter(), call.configuration.launch
    start = external.summoned(launching)
    if start:
        launch(fn, arguments, None, launching)
    return StageResult(call.stage, call.output, {"rank": rank}, not start, time.perf_counter() - started)
