"""Benchmarks of the way of the data: feeding, prepare and ingest against what the machine and its peers can do."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

from parts.contest import Line, memory_bandwidth, save, show
from parts.feeding import contest_feeding
from parts.memory import contest_memory
from parts.spark import contest_ingest, contest_prepare

RESULTS = Path(__file__).parent / "results"


def main(arguments: list[str] | None = None) -> int:
    """Run the contests that were asked for and print one table."""
    # Petastorm speaks of interfaces that the pinned pyarrow still has.
    warnings.filterwarnings("ignore", category=FutureWarning)
    options = _options(arguments)
    bandwidth = memory_bandwidth()
    title = f"data: {os.cpu_count()} cores, one core copies memory at {bandwidth / 1e9:.1f} GB/s"
    lines: list[Line] = []
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name in options.only:
            lines += CONTESTS[name](Path(folder), options, bandwidth)
    show(lines, title)
    if options.save:
        save(lines, title, str(RESULTS / "data"))
    return 0


def _feeding(folder: Path, options: argparse.Namespace, bandwidth: float) -> list[Line]:
    return contest_feeding(
        folder, options.shards, options.unischema_rows, options.batch_sizes, options.rounds, bandwidth
    )


def _memory(folder: Path, options: argparse.Namespace, bandwidth: float) -> list[Line]:
    return contest_memory(folder, options.memory_shards, options.batch_sizes[0], bandwidth)


def _prepare(folder: Path, options: argparse.Namespace, bandwidth: float) -> list[Line]:
    return contest_prepare(folder, options.jets, options.spark_rounds)


def _ingest(folder: Path, options: argparse.Namespace, bandwidth: float) -> list[Line]:
    return contest_ingest(folder, options.hls4ml_jets, options.spark_rounds)


CONTESTS: dict[str, Callable[[Path, argparse.Namespace, float], list[Line]]] = {
    "feeding": _feeding,
    "memory": _memory,
    "prepare": _prepare,
    "ingest": _ingest,
}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", nargs="+", choices=list(CONTESTS), default=list(CONTESTS), help="contests to run")
    parser.add_argument("--rounds", type=int, default=5, help="timed turns of each contestant")
    parser.add_argument("--shards", type=int, default=240, help="feeding: shards of 8192 jets")
    parser.add_argument("--batch-sizes", type=int, nargs="+", default=[512, 4096], help="feeding: jets of a batch")
    parser.add_argument("--unischema-rows", type=int, default=4096, help="feeding: jets of Petastorm's own data set")
    parser.add_argument("--memory-shards", type=int, default=12, help="memory: shards of the smaller run")
    parser.add_argument("--spark-rounds", type=int, default=3, help="prepare, ingest: timed turns of each contestant")
    parser.add_argument("--jets", type=int, default=40_000, help="prepare: jets of the table")
    parser.add_argument("--hls4ml-jets", type=int, default=40_000, help="ingest: jets of the HDF5 file (13 kB each)")
    parser.add_argument("--folder", help="where temporary data go; by default where the system keeps such")
    parser.add_argument("--save", action="store_true", help=f"keep the table in {RESULTS.name}/data.md and .json")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
