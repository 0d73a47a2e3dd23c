"""Trainings that are killed at chosen moments; started by tests/integration/test_kills.py.

``process`` trains in forks of this process, one after the other until one ends well, so that TensorFlow is imported
once; ``spark`` is one driver with its workers.
"""

from __future__ import annotations

import functools
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sparton.config import load_config
from sparton.distributed.world import Connection
from sparton.pipeline import PipelineSettings, train

MOMENTS = ("start-up", "evaluation", "checkpoint", "last step", "bundle")
"""Before the first step, after an epoch's last step, where its checkpoint is written but not in place, after the last
epoch, and where the bundle is written but not published."""

HELD_S = 300.0  # how long a worker waits at its moment for the driver to be killed


class Deaths:
    """Kills a process of a training at the first moment that no one before it has died at.

    Parameters
    ----------
    folder
        Where those that died leave a note.
    moments
        The moments to die at, each once.
    victim
        ``worker``: the rank that comes there; ``driver``, who watches the notes: the rank waits for it.
    rank
        The rank in question; None takes each that comes.
    """

    def __init__(self, folder: str, moments: tuple[str, ...], victim: str, rank: int | None) -> None:
        self.folder, self.moments, self.victim, self.rank = folder, moments, victim, rank

    def strike(self, moment: str) -> None:
        """Die now, if it is time."""
        note = Path(self.folder) / moment
        if moment not in self.moments or note.exists():
            return
        note.touch()
        if self.victim == "worker":
            os.kill(os.getpid(), signal.SIGKILL)
        time.sleep(HELD_S)

    def before(self, owner: Any, name: str, moment: str, applies: Callable[..., bool] = lambda *_: True) -> None:
        """Let a function strike whenever it is called."""
        original = getattr(owner, name)

        @functools.wraps(original)
        def deadly(*args: Any, **kwargs: Any) -> Any:
            if applies(*args):
                self.strike(moment)
            return original(*args, **kwargs)

        setattr(owner, name, deadly)

    def arrange(self, rank: int) -> None:
        """Prepare this process, which is a rank."""
        from sparton import publication
        from sparton.ucluster.monitor import Monitor
        from sparton.ucluster.selection import Selection
        from sparton.ucluster.train import Trainer

        if self.rank not in (None, rank):
            return
        self.before(Trainer, "_resume", "start-up")
        self.before(Monitor, "observe", "evaluation")
        self.before(publication, "_put_into_place", "checkpoint", lambda _, output: "step-" in output)
        self.before(Selection, "apply", "last step")
        self.before(publication, "_put_into_place", "bundle", lambda _, output: output.endswith("model"))


def dying(deaths: Deaths, train_ucluster: Callable[..., Any], connection: Connection, *args: Any) -> Any:
    """Train as a rank that may die."""
    deaths.arrange(connection.world.rank)
    return train_ucluster(connection, *args)


def run(training_set: str, assigned: list[str], deaths: Deaths) -> None:
    """Train as ``sparton train`` does."""
    import sparton.ucluster.train as module

    module.train = functools.partial(dying, deaths, module.train)  # type: ignore[assignment]
    train(load_config(PipelineSettings, None, assigned), input=training_set)


def in_forks(training_set: str, assigned: list[str], deaths: Deaths) -> None:
    """Train until a process does not die, and print how each ended."""
    import sparton.ucluster.train

    assert sparton.ucluster.train is not None  # imported for the forks
    status = -1
    while status:
        number = os.fork()
        if number == 0:
            run(training_set, assigned, deaths)
            sys.exit(0)
        status = os.waitstatus_to_exitcode(os.waitpid(number, 0)[1])
        print("ended", status, flush=True)
        if status not in (0, -signal.SIGKILL):
            sys.exit(1)


def as_driver(training_set: str, assigned: list[str], deaths: Deaths) -> None:
    """Train with workers on Spark; where the driver is the victim, it is killed when one of them has come there."""

    def watch() -> None:
        before = set(os.listdir(deaths.folder))
        while set(os.listdir(deaths.folder)) == before:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGKILL)

    if deaths.victim == "driver":
        # The bundle is published by the driver itself, which waits there to be killed.
        threading.Thread(target=watch, daemon=True).start()
        driver = Deaths(deaths.folder, deaths.moments, "driver", None)
        from sparton import publication

        driver.before(publication, "_put_into_place", "bundle", lambda _, output: output.endswith("model"))
    run(training_set, assigned, deaths)


def main() -> None:
    """Take the way, the victim, its rank, folders for notes and data, moments with commas, and settings."""
    way, victim, rank, folder, training_set, moments, *assigned = sys.argv[1:]
    deaths = Deaths(folder, tuple(filter(None, moments.split(","))), victim, int(rank) if rank else None)
    (in_forks if way == "process" else as_driver)(training_set, assigned, deaths)


if __name__ == "__main__":
    main()
