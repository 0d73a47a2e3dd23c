"""Efficiency of two workers against one, and what their collectives cost, measured in turns on two pinned cores."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from parts.feeding import write_set
from parts.scaling_model import fit_line, spread
from sparton.data.featurize import FeatureSpec
from sparton.distributed.direct import DIRECT_SUM_BYTES
from sparton.distributed.places import Place, assign
from sparton.distributed.rendezvous import serving
from sparton.distributed.times import Times, scaling_efficiency

SOURCES = ("memory", "table")
DIRECT, HOROVOD = "direct", "Horovod"
ALL_BY_HOROVOD = {"DIRECT_SUM_BYTES": "0", "HOROVOD_CYCLE_TIME": "1"}
"""The way of sums without ours, with Horovod's own cycle in ms."""

WAYS = {DIRECT: {}, HOROVOD: ALL_BY_HOROVOD}
"""How sums travel, by the variables that the workers of a world are given for it."""

VARIANTS = ((DIRECT, "float32"), (DIRECT, "float16"), (HOROVOD, "float32"))
"""Ways of sums with the precisions of gradients."""

WORKERS = 2
SLOTS, MEAN_PARTICLES = 100, 54  # of generated W, Z and top jets without underlying event
SHARD_ROWS = 1024  # as in the recipe of the quality study
WARM_UP = 3
LOOPBACK = "127.0.0.1"
GLOO_TIMEOUT_S = 24 * 3600
"""Workers that are stopped while others have their turn must not take each other for dead."""

SIZES = tuple(1024 * 4**power for power in range(9))  # 1 kB to 64 MB
LARGE = 4 << 20  # bytes from which on fewer sums are timed
CHAIN = 8  # smaller ones are timed several at once: starting a graph costs as much
HOPS = 5000

Answer = dict[str, Any]
Turns = list[dict[str, Any]]


def key(way: str, precision: str) -> str:
    """Return the name of a variant in the results."""
    return f"{way} {precision}"


class Worker:
    """A process of :mod:`parts.scaling_worker` on one core."""

    def __init__(self, core: int, folder: Path, batch_size: int, environment: Mapping[str, str]) -> None:
        here = Path(__file__).resolve().parents[1]
        paths = os.pathsep.join(filter(None, [str(here), str(here.parent), os.environ.get("PYTHONPATH")]))
        self._process = subprocess.Popen(
            [sys.executable, "-m", "parts.scaling_worker", str(core), str(folder), str(batch_size)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1,
            env=os.environ | {"PYTHONPATH": paths} | dict(environment),
        )  # fmt: skip

    def ask(self, call: str, **arguments: Any) -> None:
        """Let the worker call a method of :class:`parts.scaling_steps.Steps`."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"call": call, **arguments}) + "\n")

    def answer(self) -> Answer:
        """Wait for what it returns.

        Raises
        ------
        RuntimeError
            If the worker has ended; it has told why on standard error.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"a worker ended with status {self._process.wait()}; its error is above")
        return dict(json.loads(line))

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, if it has not ended."""
        self._process.send_signal(number)

    def end(self) -> None:
        """Kill the process, stopped or not."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()


@dataclass(frozen=True)
class Crew:
    """Workers that do the same at the same time."""

    workers: Sequence[Worker]

    def do(self, call: str, **arguments: Any) -> list[Answer]:
        """Return the answers of all, in the order of ranks."""
        for worker in self.workers:
            worker.ask(call, **arguments)
        return [worker.answer() for worker in self.workers]

    @contextlib.contextmanager
    def awake(self) -> Iterator[None]:
        """Let the workers run within the block alone: those of a world look for each other a thousand times a second.

        Workers that are alone wait without computing.
        """
        for worker in self.workers:
            worker.signal(signal.SIGCONT)
        try:
            yield
        finally:
            for worker in self.workers:
                worker.signal(signal.SIGSTOP)


@contextlib.contextmanager
def crews(
    folder: Path, batch_size: int, cores: Sequence[int], environment: Mapping[str, str]
) -> Iterator[tuple[Crew, dict[str, Crew]]]:
    """Start workers on two cores that are alone, and two of a world for each way; those are stopped until woken.

    Parameters
    ----------
    folder, batch_size
        Training set, and jets of a worker in a step.
    cores
        A core for each of the two.
    environment
        Further variables of the two of each world.
    """
    started: list[Worker] = []

    def start(core: int, variables: Mapping[str, str]) -> Worker:
        started.append(Worker(core, folder, batch_size, variables))
        return started[-1]

    try:
        alone = Crew([start(core, {}) for core in cores])
        alone.do("place")  # they are ready
        with contextlib.ExitStack() as stack:
            worlds = {}
            for way, variables in WAYS.items():
                server = stack.enter_context(serving(LOOPBACK))
                places = assign(["localhost"] * len(cores))
                server.open_to(places, [LOOPBACK])
                own = variables | dict(environment)
                joined = zip(cores, places, strict=True)
                worlds[way] = Crew([start(core, _horovod(place, server.port) | own) for core, place in joined])
                with worlds[way].awake():
                    worlds[way].do("place")
            yield alone, worlds
    finally:
        for worker in started:
            worker.end()


def _horovod(place: Place, port: int) -> dict[str, str]:
    return place.environment() | {
        "HOROVOD_GLOO_RENDEZVOUS_ADDR": LOOPBACK,
        "HOROVOD_GLOO_RENDEZVOUS_PORT": str(port),
        "HOROVOD_CONTROLLER": "gloo",
        "HOROVOD_CPU_OPERATIONS": "gloo",
        "HOROVOD_GLOO_IFACE": "lo",
        "HOROVOD_GLOO_TIMEOUT_SECONDS": str(GLOO_TIMEOUT_S),
    }


def write_table(folder: Path, batch_size: int, steps: int) -> None:
    """Write a training set that gives each of two workers so many steps."""
    shards = WORKERS * -(-steps * batch_size // SHARD_ROWS)
    manifest = write_set(str(folder), shards, FeatureSpec(n_particles=SLOTS), SHARD_ROWS, MEAN_PARTICLES)
    manifest.write(str(folder))


def take_turns(alone: Crew, worlds: Mapping[str, Crew], rounds: int, steps: int) -> Turns:
    """Return what all workers said of their turns: one alone, then the other, both by themselves, both of each world.

    A first round compiles and warms up, and is left out.
    """
    turns: Turns = []
    for turn in range(rounds + 1):
        for source in SOURCES:
            call: dict[str, Any] = {"source": source, "steps": steps, "warm_up": WARM_UP}
            singles = [Crew([worker]).do("train", precision="float32", **call)[0] for worker in alone.workers]
            both = alone.do("train", precision="float32", **call)
            together = {}
            for way, precision in VARIANTS:
                with worlds[way].awake():
                    together[key(way, precision)] = worlds[way].do("train", precision=precision, **call)
            if turn:
                turns.append({"source": source, "singles": singles, "both": both, **together})
        print(f"turn {turn} of {rounds}", file=sys.stderr, flush=True)
    return turns


def summary(turns: Turns, batch_size: int) -> Answer:
    """Return medians over the rounds: rates, efficiencies, time splits, and what is exchanged."""
    lines = [_line(turns, source, way, precision, batch_size) for source in SOURCES for way, precision in VARIANTS]
    memory = [turn for turn in turns if turn["source"] == "memory"]
    return {
        "batch_size": batch_size,
        "rounds": len(memory),
        "steps": len(memory[0]["singles"][0]["steps"]),
        "lines": lines,
        "exchange": {
            precision: {name: turns[0][key(DIRECT, precision)][0][name] for name in ("collectives", "gradient_bytes")}
            for way, precision in VARIANTS
            if way == DIRECT
        },
        "alone_s": statistics.median(step for turn in memory for one in turn["singles"] for step in one["steps"]),
        "shared_s": statistics.median(step for turn in memory for one in turn["both"] for step in one["steps"]),
        "spread_s": spread([one["steps"] for turn in memory for one in turn["singles"]]),
    }


def _line(turns: Turns, source: str, way: str, precision: str, batch_size: int) -> Answer:
    """Return the figures of one source of batches and one variant of the exchange."""
    variant = key(way, precision)
    rounds = [_rates(turn, variant, batch_size) for turn in turns if turn["source"] == source]
    found = np.median(rounds, axis=0).tolist()
    ratios = np.array([_efficiencies(*rates) for rates in rounds])
    times = [one["times"] for turn in turns if turn["source"] == source for one in turn[variant]]
    mean = Times(**{name: statistics.fmean(each[name] for each in times) for name in times[0]})
    return {
        "source": source,
        "way": way,
        "precision": precision,
        **dict(zip(("alone", "both", "together"), found, strict=True)),
        "efficiency": float(np.median(ratios[:, 0])),
        "efficiency_range": [float(ratios[:, 0].min()), float(ratios[:, 0].max())],
        "apart_efficiency": float(np.median(ratios[:, 1])),
        "shares": mean.shares(),
        "exchange_s": mean.exchange / len(turns[0]["singles"][0]["steps"]),
    }


def _rates(turn: dict[str, Any], variant: str, batch_size: int) -> tuple[float, float, float]:
    """Return the jets a second of one worker, of two by themselves and of two together, of all workers each."""

    def rate(answer: Answer) -> float:
        return batch_size * len(answer["steps"]) / answer["seconds"]

    alone = statistics.fmean(map(rate, turn["singles"]))
    together = sum(batch_size * len(one["steps"]) for one in turn[variant])
    return alone, sum(map(rate, turn["both"])), together / max(one["seconds"] for one in turn[variant])


def _efficiencies(alone: float, both: float, together: float) -> tuple[float, float]:
    """Return the scaling efficiency of two workers together, and of two that have nothing in common but the machine."""
    return tuple(scaling_efficiency({1: alone, WORKERS: rate})[WORKERS] for rate in (together, both))  # type: ignore[return-value]


def calibrate(worlds: Mapping[str, Crew], repeats: int) -> Answer:
    """Return the median seconds of sums over the two ranks by size, way and type, their lines, and those of a hop."""
    with worlds[DIRECT].awake():
        found: Answer = {"hop_s": worlds[DIRECT].do("hop", repeats=HOPS)[0]["seconds"]}
    for way, dtype in VARIANTS:
        world = worlds[way]
        sizes = [size for size in SIZES if way == HOROVOD or size * WORKERS <= DIRECT_SUM_BYTES]
        with world.awake():
            seconds = [
                # A sum ends when the slower rank has it.
                statistics.median(np.max([answer["seconds"] for answer in _sums(world, size, dtype, repeats)], axis=0))
                for size in sizes
            ]
        found[key(way, dtype)] = {"sizes": sizes, "seconds": seconds, "fit": asdict(fit_line(sizes, seconds))}
    return found


def _sums(world: Crew, size: int, dtype: str, repeats: int) -> list[Answer]:
    large = size >= LARGE
    repeats = max(3, repeats // 5) if large else repeats
    return world.do("allreduce", size=size, dtype=dtype, chain=1 if large else CHAIN, repeats=repeats)
