"""Progress of Spark jobs: a bar on a terminal, a line now and then in a log; and the closing table."""

from __future__ import annotations

import contextlib
import logging
import sys
import threading
import time
import uuid
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    from pyspark import SparkContext
    from pyspark.sql import SparkSession

POLL_S = 0.5
LOG_INTERVAL_S = 10.0

logger = logging.getLogger(__name__)


@contextlib.contextmanager
def spark_progress(spark: SparkSession, description: str) -> Iterator[None]:
    """Show the finished and total tasks of the Spark jobs that the block starts from this thread."""
    context = spark.sparkContext
    group = f"sparton-{uuid.uuid4().hex}"
    context.setJobGroup(group, description)
    stop = threading.Event()
    show = _show_bar if sys.stderr.isatty() else _log_lines
    thread = threading.Thread(target=show, args=(context, group, description, stop), daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        for property_name in ("spark.jobGroup.id", "spark.job.description"):
            context.setLocalProperty(property_name, None)  # type: ignore[arg-type]  # None clears it


def closing_table(title: str, rows: Mapping[str, Any], width: int | None = None) -> None:
    """Print a two-column table of names and figures on standard output."""
    console = Console(width=width or (None if sys.stdout.isatty() else 100), markup=False)
    table = Table(title=title, show_header=False, title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    for key, value in rows.items():
        table.add_row(key, format_value(value))
    console.print(table)


def format_value(value: Any) -> str:
    """Return a figure as a person reads it: thousands separated, four significant digits, mappings in one line."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: "-"}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:,.4g}" if abs(value) < 1000 else f"{value:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{key} {format_value(item)}" for key, item in value.items())
    if isinstance(value, list | tuple):
        return ", ".join(format_value(item) for item in value)
    return str(value)


def _tasks(context: SparkContext, group: str) -> tuple[int, int]:
    """Return (finished, total) tasks over all stages known so far of the jobs in a group."""
    tracker = context.statusTracker()
    finished = total = 0
    for job in tracker.getJobIdsForGroup(group):
        info = tracker.getJobInfo(job)
        for stage in info.stageIds if info else []:
            stage_info = tracker.getStageInfo(stage)
            if stage_info:
                finished += stage_info.numCompletedTasks
                total += stage_info.numTasks
    return finished, total


def _show_bar(context: SparkContext, group: str, description: str, stop: threading.Event) -> None:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(description, total=None)
        while not stop.wait(POLL_S):
            finished, total = _tasks(context, group)
            progress.update(task, completed=finished, total=total or None)


def _log_lines(context: SparkContext, group: str, description: str, stop: threading.Event) -> None:
    last_time, last_count = time.monotonic(), 0
    while not stop.wait(POLL_S):
        finished, total = _tasks(context, group)
        if finished != last_count and time.monotonic() - last_time >= LOG_INTERVAL_S:
            logger.info("%s: %d of %d tasks", description, finished, total)
            last_time, last_count = time.monotonic(), finished
