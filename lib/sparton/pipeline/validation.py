"""Stage ``validate``: a table against the rules of the configuration."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from sparton import storage
from sparton.config import Config
from sparton.data.validation.outcome import Outcome, evaluate
from sparton.data.validation.profile import Request
from sparton.data.validation.reference import NAME, Reference, read_reference
from sparton.data.validation.settings import RulesSettings
from sparton.errors import RulesError, UsageError
from sparton.pipeline.progress import format_value, spark_progress
from sparton.pipeline.session import spark_session
from sparton.pipeline.settings import PipelineSettings
from sparton.pipeline.stage import StageCall, StageResult, run_stage

if TYPE_CHECKING:
    from pyspark.sql import DataFrame

RESULT = "validation.json"
LOG_WIDTH = 120  # characters, where there is no terminal to measure


class Validation(Config):
    """What the stage publishes: the outcome of every rule."""

    outcomes: tuple[Outcome, ...]

    @property
    def failures(self) -> tuple[Outcome, ...]:
        """The rules that do not hold."""
        return tuple(outcome for outcome in self.outcomes if not outcome.holds)


def validate(
    settings: PipelineSettings,
    *,
    input: str | None = None,
    output: str | None = None,
    reference: str | None = None,
    write_reference: str | None = None,
    force: bool = False,
) -> StageResult:
    """Check a table and publish the outcome of every rule.

    Parameters
    ----------
    settings
        The section ``rules`` holds the rules.
    input
        Folder of Parquet files: a jets table, a set or any other; None takes ``<workspace>/jets``.
    output
        Folder to publish; None takes ``<workspace>/validation``.
    reference
        Folder of a reference that ``rules.drift.columns`` are compared with.
    write_reference
        Folder that gets a reference made of this table, if the rules hold.
    force
        Run even where the output is up to date.

    Raises
    ------
    RulesError
        If rules do not hold; the outcomes are published all the same.
    UsageError
        If there is no rule, no reference where one is needed, or no input.
    DataError
        If a column is missing or of a type that its rule cannot be about.
    """
    table = settings.folder("jets", input)
    _check(settings.rules, reference, write_reference)
    inputs = {"table": table} | ({"reference": storage.absolute(reference)} if reference else {})
    target = settings.folder("validation", output)
    call = StageCall("validate", {"rules": settings.rules}, inputs, target, settings, force)

    def body(staging: str) -> dict[str, Any]:
        frame = _read(settings, table)
        with spark_progress(frame.sparkSession, "validate: checking rules"):
            found = _outcomes(frame, settings.rules, reference)
        storage.write_json(storage.join(staging, RESULT), found.model_dump(mode="json"))
        return {"rules": len(found.outcomes), "failed": len(found.failures)}

    result = run_stage(call, body)
    failures = read_validation(target).failures
    if failures:
        broken = ", ".join(f"{outcome.rule} {outcome.column}".strip() for outcome in failures)
        raise RulesError(f"{table}: {len(failures)} rules do not hold ({broken}); see {target}/{RESULT}", target)
    if write_reference:
        _write_reference(settings, table, storage.absolute(write_reference))
    return result


def read_validation(folder: str) -> Validation:
    """Return what the stage published."""
    return Validation.model_validate(storage.read_json(storage.join(folder, RESULT)))


def show_failures(folder: str) -> None:
    """Print the rules that do not hold on standard output."""
    table = Table(title="rules that do not hold", title_justify="left")
    for heading in ("rule", "column", "found", "expected", "rows"):
        table.add_column(heading, overflow="fold")
    for outcome in read_validation(folder).failures:
        table.add_row(outcome.rule, outcome.column, outcome.found, outcome.expected, format_value(outcome.rows))
    Console(width=None if sys.stdout.isatty() else LOG_WIDTH, markup=False).print(table)


def _check(rules: RulesSettings, reference: str | None, write_reference: str | None) -> None:
    compared = rules.drift.columns
    if not rules.profiled and rules.min_rows <= 1:
        raise UsageError("validate: no rule in the section 'rules' of the configuration; see docs/validation.md")
    if compared and not (reference or write_reference):
        raise UsageError(
            f"rules.drift compares {', '.join(compared)} with a reference; name one with --reference, "
            "or make one with --write-reference"
        )
    if not compared and (reference or write_reference):
        raise UsageError("validate: a reference is of use with rules.drift.columns only, which names no column")


def _read(settings: PipelineSettings, table: str) -> DataFrame:
    spark = spark_session(settings.spark, "sparton validate")
    return spark.read.parquet(storage.spark_source(table))


def _outcomes(frame: DataFrame, rules: RulesSettings, folder: str | None) -> Validation:
    from sparton.data.validation.scan import profile_table

    reference = read_reference(folder) if folder else None
    edges = {name: column.edges for name, column in reference.columns.items()} if reference else {}
    profile = profile_table(frame, Request(rules, {name: edges[name] for name in rules.drift.columns if name in edges}))
    return Validation(outcomes=tuple(evaluate(profile, rules, reference)))


def _write_reference(settings: PipelineSettings, table: str, folder: str) -> None:
    """Write a reference unless the folder holds that of the same table already."""
    from sparton.data.validation.scan import profile_table, reference_edges

    if storage.exists(folder) and storage.list_files(folder) and not storage.exists(storage.join(folder, NAME)):
        raise UsageError(f"{folder}: it holds something else than a reference; choose another folder")
    frame, rules = _read(settings, table), settings.rules
    edges = reference_edges(frame, rules.drift.columns, rules.drift.bins)
    only = RulesSettings(drift=rules.drift)
    Reference.of(table, profile_table(frame, Request(only, edges)), edges).write(folder)
