"""Starts worlds as horovodrun, mpirun and srun do.

Reads an order from each line of standard input, runs it to its end and answers with a line of JSON. TensorFlow is
imported once, before anything of it runs, and each process of a world is a fork of this one, so that a world costs a
second instead of ten.
"""

from __future__ import annotations

import importlib
import json
import logging
import math
import os
import pickle
import signal
import sys
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path

import cloudpickle

from sparton.distributed.launch import launch

POLL_S = 0.05


@dataclass(frozen=True)
class Order:
    """A world.

    Parameters
    ----------
    folder
        Where ``call`` is (function, arguments and settings, pickled) and ``result-R`` and ``output-R`` of rank R go.
    environments
        Variables of each process that is to run, by its rank.
    grace_s
        Seconds after the failure of one until the others, which are to end by themselves, are killed.
    """

    folder: str
    environments: dict[str, dict[str, str]]
    grace_s: float

    def to_line(self) -> str:
        """Return the line that orders it."""
        return json.dumps(asdict(self)) + "\n"


def run(order: Order) -> dict[str, int | None]:
    """Run a world; return the exit status of each rank, negative for a signal, and None if it had to be killed."""
    running = {}
    for rank, variables in order.environments.items():
        number = os.fork()
        if number == 0:
            become_rank(Path(order.folder), rank, variables)
        running[number] = rank
    statuses: dict[str, int | None] = {}
    deadline = math.inf
    while running:
        number, status = os.waitpid(-1, os.WNOHANG)
        if number:
            rank = running.pop(number)
            statuses.setdefault(rank, os.waitstatus_to_exitcode(status))
            if status:
                deadline = min(deadline, time.monotonic() + order.grace_s)
        elif time.monotonic() > deadline:
            for number, rank in running.items():
                statuses[rank] = None
                os.kill(number, signal.SIGKILL)
            deadline = math.inf
        else:
            time.sleep(POLL_S)
    return statuses


def become_rank(folder: Path, rank: str, variables: dict[str, str]) -> None:
    """Be one process of a world, to its end."""
    os.environ.update(variables)
    output = os.open(folder / f"output-{rank}", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(output, stream)
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    fn, args, settings = cloudpickle.loads((folder / "call").read_bytes())
    try:
        results = launch(fn, args, None, settings)
        (folder / f"result-{rank}").write_bytes(pickle.dumps(results))
    except BaseException:
        traceback.print_exc()
        sys.exit(1)
    sys.exit(0)


def main() -> None:
    """Run worlds until standard input is closed."""
    importlib.import_module("horovod.tensorflow")
    for line in sys.stdin:
        statuses = run(Order(**json.loads(line)))
        print(json.dumps({"statuses": statuses, "ended": time.time()}), flush=True)


if __name__ == "__main__":
    main()
