"""The launchers behind one call, for the suite that each of them passes; what one of them cannot keep is said here."""

from __future__ import annotations

import json
import logging
import os
import pickle
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cloudpickle
import pytest

from sparton.distributed import places, rendezvous
from sparton.distributed.launch import LaunchSettings, launch
from sparton.errors import SpartonError

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROOT = Path(__file__).resolve().parents[1]
LAUNCHERS = ("process", "barrier", "spark", "external")
LOOPBACK = "127.0.0.1"
GRACE_S = 20.0  # more than a rank takes to end when another one has failed


@dataclass(frozen=True)
class Point:
    """Something that launchers keep, as docs/distributed.md says it; ``unless`` gives the reason of one that cannot."""

    says: str
    unless: Mapping[str, str] = field(default_factory=dict)


POINTS: Mapping[str, Point] = {
    "results": Point("the function runs on all ranks, with the same collectives and results"),
    "log": Point(
        "lines of the log arrive while it runs, with the rank before them", {"process": "one rank, the caller"}
    ),
    "output": Point(
        "so does what it prints", {"process": "one rank, the caller", "external": "left to what started it"}
    ),
    "error": Point("a rank that raises ends all, with its message and traceback"),
    "range": Point("numbers that leave their range end all, as one error that is not tried again"),
    "apart": Point(
        "ranks that call other sums than others end all, as one error that is not tried again",
        {"process": "nobody differs"},
    ),
    "killed": Point("a killed rank ends all", {"process": "nobody is left"}),
    "retry": Point("`retries` starts again", {"external": "left to what started it"}),
    "hang": Point("a rank that keeps others waiting ends all", {"process": "nobody waits"}),
    "absent": Point(
        "ranks that do not come end all within `start_timeout_s`",
        {"process": "there is one", "spark": "Horovod's own message"},
    ),
    "early": Point("a rank killed before it connects is named at once", {"process": "nobody is left"}),
    "unable": Point("a process that cannot start says why", {"process": "it runs already"}),
    "size": Point("a world of an impossible size is refused at once"),
    "moving": Point("settings of Spark that move tasks are refused", {"process": "no Spark", "external": "no Spark"}),
    "interface": Point(
        "an unknown `interface` is refused", {"process": "no network", "external": "`--network-interfaces`"}
    ),
    "interrupt": Point("Ctrl-C and SIGTERM leave no process running", {"process": "it is this one"}),
}
"""What the suite asks of every launcher, and the one place that says which of them cannot give it."""


def keeping(point: str, **slow: bool) -> pytest.MarkDecorator:
    """Run a test with every launcher that keeps a point; those that are named here count as slow."""
    names = [name for name in LAUNCHERS if name not in POINTS[point].unless]
    marks = {name: [pytest.mark.slow] if slow.get(name) else [] for name in names}
    return pytest.mark.parametrize("launcher", [pytest.param(name, marks=marks[name]) for name in names])


def table() -> str:
    """Return the points as docs/distributed.md has them."""
    lines = ["| | " + " | ".join(f"`{name}`" for name in LAUNCHERS) + " |", "| --- |" + " --- |" * len(LAUNCHERS)]
    for point in POINTS.values():
        cells = [point.unless.get(name, "yes") for name in LAUNCHERS]
        lines.append(f"| {point.says} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


@dataclass(frozen=True)
class Ended:
    """How a launch has ended.

    Parameters
    ----------
    results
        In the order of ranks; None if it failed.
    said
        What its user reads of the failure: the error, or what the processes have written.
    kind
        Name of the error's type.
    at
        When it was over (s since 1970).
    left
        Ranks that did not end by themselves, where nobody but they could.
    """

    results: list[Any] | None
    said: str
    kind: str
    at: float
    left: tuple[int, ...] = ()


class Outside:
    """What starts worlds without Spark: the program tests/outside_program.py."""

    def __init__(self) -> None:
        paths = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-u", "-m", "tests.outside_program"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT, env=os.environ | {"PYTHONPATH": paths},
        )  # fmt: skip

    def run(
        self, folder: Path, call: tuple[Any, ...], ranks: Sequence[int], world_size: int, grace_s: float
    ) -> dict[str, Any]:
        """Run some ranks of a world; return their exit statuses and when the last one ended."""
        from tests.outside_program import Order

        (folder / "call").write_bytes(cloudpickle.dumps(call))
        world = places.assign([LOOPBACK] * world_size)
        with rendezvous.serving(LOOPBACK) as server:
            server.open_to(world, [LOOPBACK])
            common = {
                "HOROVOD_GLOO_RENDEZVOUS_ADDR": LOOPBACK,
                "HOROVOD_GLOO_RENDEZVOUS_PORT": str(server.port),
                "HOROVOD_CONTROLLER": "gloo",
                "HOROVOD_CPU_OPERATIONS": "gloo",
                "HOROVOD_GLOO_IFACE": "lo",
            }
            order = Order(str(folder), {str(rank): world[rank].environment() | common for rank in ranks}, grace_s)
            assert self._process.stdin is not None
            assert self._process.stdout is not None
            self._process.stdin.write(order.to_line())
            self._process.stdin.flush()
            answer: dict[str, Any] = json.loads(self._process.stdout.readline())
        return answer

    def close(self) -> None:
        """End the program."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)


@dataclass(frozen=True)
class Launches:
    """Starts functions by any launcher.

    Parameters
    ----------
    spark
        The session.
    outside
        Returns what starts processes for the launcher ``external``.
    folder
        An empty one.
    common
        Settings of each launch.
    """

    spark: SparkSession
    outside: Callable[[], Outside]
    folder: Path
    common: Mapping[str, Any]

    def settings(self, launcher: str, **changes: Any) -> LaunchSettings:
        """Return the settings of a launch: a world of two where the launcher can."""
        workers = 1 if launcher == "process" else 2
        return LaunchSettings.model_validate({"workers": workers, **self.common, "launcher": launcher, **changes})

    def run(
        self,
        launcher: str,
        fn: Callable[..., Any],
        *args: Any,
        thread: bool = False,
        grace_s: float = GRACE_S,
        ranks: Sequence[int] = (0, 1),
        **changes: Any,
    ) -> Ended:
        """Run a function to its end.

        Parameters
        ----------
        launcher, fn, args
            What runs what.
        thread
            From another thread than the main one.
        grace_s, ranks
            Of the launcher ``external``: how long ranks may take to end after one has failed, and those that come.
        changes
            Further settings.
        """
        if launcher == "external":
            return self._outside((fn, args, self.settings(launcher, **changes)), ranks, grace_s)
        call = (fn, args, self.spark, self.settings(launcher, **changes))
        try:
            if thread:
                with ThreadPoolExecutor(1) as pool:
                    results = pool.submit(launch, *call).result()
            else:
                results = launch(*call)
        except SpartonError as error:
            return Ended(None, str(error), type(error).__name__, time.time())
        return Ended(results, "", "", time.time())

    def _outside(self, call: tuple[Any, ...], ranks: Sequence[int], grace_s: float) -> Ended:
        answer = self.outside().run(self.folder, call, ranks, 2, grace_s)
        said = "\n".join(path.read_text() for path in sorted(self.folder.glob("output-*")))
        for line in said.splitlines():
            logging.getLogger("outside").warning("%s", line)
        statuses = answer["statuses"]
        if any(statuses.values()):
            kinds = [line.partition(":")[0] for line in said.splitlines() if line.startswith("sparton.errors.")]
            kind = kinds[-1].rpartition(".")[2] if kinds else ""
            left = tuple(int(rank) for rank, status in sorted(statuses.items()) if status is None)
            return Ended(None, said, kind, answer["ended"], left)
        own = [pickle.loads((self.folder / f"result-{rank}").read_bytes()) for rank in ranks]
        return Ended([result for (result,) in own], said, "", answer["ended"])
