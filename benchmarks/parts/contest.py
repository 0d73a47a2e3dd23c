"""Contestants that take turns, so that whatever else the machine does hits all of them; medians are compared."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass

import numpy as np
from rich.console import Console
from rich.table import Table

from sparton import storage

COPIED_BYTES = 64 << 20
MOVED_BYTES = 128 << 20
"""What each core copies: no cache holds it."""

REPEATS = 3

Times = tuple[float, float]
"""Wall and processor seconds."""


@dataclass(frozen=True)
class Contestant:
    """Something that processes ``rows`` rows of ``bytes`` bytes in all each time ``run`` is called.

    ``before`` is called first and not timed.
    """

    name: str
    run: Callable[[], object]
    rows: int
    bytes: int
    note: str = ""
    before: Callable[[], object] | None = None


@dataclass(frozen=True)
class Line:
    """One line of the table.

    ``seconds`` is the median, ``fastest`` the least, ``cpu`` the median processor time of this process.
    ``ratio`` is the rate (rows/s) over that of the contest's reference, ``goal`` what the project asks of it, ``floor``
    the seconds that the bytes alone need at the contest's bandwidth.
    """

    contest: str
    name: str
    rows: int
    seconds: float
    fastest: float
    cpu: float
    rows_per_second: float
    mb_per_second: float
    ratio: float
    goal: str
    floor: float
    note: str

    @property
    def reached(self) -> float:
        """Fraction of the floor's rate that was reached."""
        return self.floor / self.seconds


def compete(
    contest: str,
    contestants: Sequence[Contestant],
    rounds: int,
    bandwidth: float,
    goals: dict[str, str] | None = None,
) -> list[Line]:
    """Run the contestants in turns and return a line for each; the first is the reference.

    Parameters
    ----------
    contest
        Title of the group of lines.
    contestants
        Who takes part.
    rounds
        Timed turns of each; one turn before them is not timed.
    bandwidth
        Bytes/s that the floor is computed from.
    goals
        What the project asks for, by name of the contestant.
    """
    times: dict[str, list[Times]] = {contestant.name: [] for contestant in contestants}
    for turn in range(rounds + 1):
        for contestant in contestants:
            if contestant.before is not None:
                contestant.before()
            started = time.perf_counter(), time.process_time()
            contestant.run()
            if turn:
                times[contestant.name].append((time.perf_counter() - started[0], time.process_time() - started[1]))
    reference = contestants[0].rows / _median(times[contestants[0].name], 0)
    return [
        _line(contest, one, times[one.name], reference, bandwidth, (goals or {}).get(one.name, ""))
        for one in contestants
    ]


def _line(contest: str, one: Contestant, times: list[Times], reference: float, bandwidth: float, goal: str) -> Line:
    seconds = _median(times, 0)
    return Line(
        contest=contest,
        name=one.name,
        rows=one.rows,
        seconds=seconds,
        fastest=min(wall for wall, _ in times),
        cpu=_median(times, 1),
        rows_per_second=one.rows / seconds,
        mb_per_second=one.bytes / seconds / 1e6,
        ratio=one.rows / seconds / reference,
        goal=goal,
        floor=one.bytes / bandwidth,
        note=one.note,
    )


def _median(times: list[Times], part: int) -> float:
    return statistics.median(pair[part] for pair in times)


def memory_bandwidth() -> float:
    """Return the bytes/s at which one core copies memory."""
    source, target = np.ones(COPIED_BYTES, np.uint8), np.zeros(COPIED_BYTES, np.uint8)
    return COPIED_BYTES / seconds_of(lambda: np.copyto(target, source))


def moved_bandwidth() -> float:
    """Return the bytes/s that all cores together read and write while they copy memory, each a part of it."""
    cores = os.cpu_count() or 1
    source, target = np.ones((cores, MOVED_BYTES), np.uint8), np.zeros((cores, MOVED_BYTES), np.uint8)
    with ThreadPoolExecutor(cores) as pool:
        seconds = seconds_of(lambda: list(pool.map(np.copyto, target, source)))
    return 2 * source.nbytes / seconds


def seconds_of(run: Callable[[], object]) -> float:
    """Return the median time of a few calls."""
    times = []
    for _ in range(REPEATS):
        started = time.perf_counter()
        run()
        times.append(time.perf_counter() - started)
    return statistics.median(times)


HEADINGS = (
    "what",
    "rows",
    "s (median)",
    "s (best)",
    "CPU s",
    "rows/s",
    "MB/s",
    "ratio",
    "goal",
    "floor, s",
    "of floor",
    "note",
)


def show(lines: Sequence[Line], title: str) -> None:
    """Print the lines as a table."""
    table = Table(*HEADINGS, title=title)
    for previous, line in zip((None, *lines), lines, strict=False):
        if previous is None or previous.contest != line.contest:
            table.add_section()
            table.add_row(f"[bold]{line.contest}[/bold]")
        table.add_row(*_cells(line))
    Console(width=200).print(table)


def save(lines: Sequence[Line], title: str, path: str) -> None:
    """Write the lines as ``path.md`` and ``path.json``."""
    storage.make_dirs(storage.parent(path))
    rule = "|".join(["---"] * (len(HEADINGS) + 1))
    body = "".join(f"| {line.contest} | {' | '.join(_cells(line))} |\n" for line in lines)
    storage.write_text(f"{path}.md", f"# {title}\n\n| contest | {' | '.join(HEADINGS)} |\n|{rule}|\n{body}")
    storage.write_json(
        f"{path}.json", {"title": title, "lines": [asdict(line) | {"reached": line.reached} for line in lines]}
    )


def _cells(line: Line) -> tuple[str, ...]:
    return (
        line.name,
        f"{line.rows:,}",
        f"{line.seconds:.3f}",
        f"{line.fastest:.3f}",
        f"{line.cpu:.3f}",
        f"{line.rows_per_second:,.0f}",
        f"{line.mb_per_second:,.0f}",
        f"{line.ratio:.2f}",
        line.goal,
        f"{line.floor:.3f}",
        f"{line.reached:.3f}",
        line.note,
    )
