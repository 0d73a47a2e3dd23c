"""The scaling study of distributed training: efficiency of two workers, a model up to 1,024, and large batches.

``efficiency`` and ``model`` measure, and want two idle cores; each worker is pinned to one. ``large-batch`` trains with
the batches of many workers; what is done of it is not done again. With ``--save`` the results go into ``docs``.
"""

from __future__ import annotations

import argparse
import logging
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markdown import Markdown

from parts import scaling_pages
from parts.contest import memory_bandwidth
from parts.scaling_measure import DIRECT, WORKERS, calibrate, crews, key, summary, take_turns, write_table
from parts.scaling_scenarios import predict

ROOT = Path(__file__).resolve().parents[1]
EFFICIENCY, MODEL, LARGE_BATCH = "efficiency", "model", "large-batch"

Result = dict[str, Any]


def main(arguments: list[str] | None = None) -> int:
    """Do the parts that were asked for, print their tables and keep them on demand."""
    options = _options(arguments)
    docs = Path(options.docs)
    results = scaling_pages.read(docs)
    before = set(results)
    done: Result = {}
    if EFFICIENCY in options.only or MODEL in options.only:
        done |= measured(options, results)
    if LARGE_BATCH in options.only:
        done["large_batch"] = large_batch(options)
    console = Console(width=190)
    for name, lines in scaling_pages.sections(done).items():
        console.rule(name)
        console.print(Markdown("\n".join(lines)))
    if options.save:
        scaling_pages.write(docs, results | done)
        console.print(f"{docs / scaling_pages.PAGE}: {', '.join(sorted(before | set(done)))}")
    return 0


def measured(options: argparse.Namespace, kept: Result) -> Result:
    """Return efficiency and calibration as far as they were asked for, and what the model makes of them.

    Raises
    ------
    SystemExit
        If there are fewer than two cores, or nothing to base the model on.
    """
    cores = sorted(os.sched_getaffinity(0))[:WORKERS]
    if len(cores) < WORKERS:
        raise SystemExit(f"scaling needs {WORKERS} cores to pin workers to; this process may use {len(cores)}")
    if EFFICIENCY not in options.only and EFFICIENCY not in kept:
        raise SystemExit("--only model needs the step times of an earlier --only efficiency --save; add efficiency")
    done: Result = {}
    environment = dict(options.environment)
    machine = _machine() | {"environment": environment}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        table = Path(folder) / "set"
        write_table(table, options.batch_size, options.steps)
        with crews(table, options.batch_size, cores, environment) as (alone, worlds):
            if EFFICIENCY in options.only:
                with worlds[DIRECT].awake():
                    machine["workers"] = [*alone.do("place"), *worlds[DIRECT].do("place")]
                turns = take_turns(alone, worlds, options.rounds, options.steps)
                done["efficiency"] = summary(turns, options.batch_size) | {"machine": machine}
            if MODEL in options.only:
                done["calibration"] = calibrate(worlds, options.repeats)
    if MODEL in options.only:
        found: Result = (kept | done)["efficiency"]
        predicted = predict(found, done["calibration"])
        # The model exchanges in float32 and knows no input.
        line = next(
            one
            for one in found["lines"]
            if one["source"] == "memory" and key(one["way"], one["precision"]) == "direct float32"
        )
        two = predicted["scenarios"]["loopback"]["efficiency"]["ring"][predicted["workers"].index(WORKERS)]
        done["model"] = predicted | {"check": {"model": two, "measured": line["efficiency"]}}
    return done


def large_batch(options: argparse.Namespace) -> Result:
    """Train what is not trained yet, and return what came out."""
    from parts.large_batch import study
    from parts.recipes import settings

    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s", datefmt="%H:%M:%S")
    return study(settings(options.workspace), tuple(options.epochs), options.seed, options.threads)


def _machine() -> Result:
    names = [line.partition(":")[2].strip() for line in _processor_lines() if line.startswith("model name")]
    return {
        "cores": os.cpu_count(),
        "processor": names[0] if names else "unknown processor",
        "load": os.getloadavg()[0],
        "copied_bytes_per_second": memory_bandwidth(),
    }


def _processor_lines() -> list[str]:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []


def _assignment(text: str) -> tuple[str, str]:
    name, found, value = text.partition("=")
    if not name or not found:
        raise argparse.ArgumentTypeError(f"expected NAME=VALUE. Received: {text}")
    return name, value


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--only", nargs="+", choices=(EFFICIENCY, MODEL, LARGE_BATCH), default=[EFFICIENCY, MODEL],
        help="parts of the study; large-batch takes some 20 minutes and is not among the defaults",
    )  # fmt: skip
    parser.add_argument("--rounds", type=int, default=5, help="efficiency: turns of each, after one that is not timed")
    parser.add_argument("--steps", type=int, default=24, help="efficiency: timed steps of a turn")
    parser.add_argument("--batch-size", type=int, default=256, help="efficiency: jets of each worker in a step")
    parser.add_argument("--repeats", type=int, default=100, help="model: timed sums of each size")
    parser.add_argument(
        "--environment", type=_assignment, nargs="+", default=[], metavar="NAME=VALUE",
        help="further variables of the two workers together, such as HOROVOD_CYCLE_TIME=0.1 (ms, Horovod's own is 1), "
        "or DIRECT_SUM_BYTES for launch.direct_sum_bytes",
    )  # fmt: skip
    parser.add_argument("--folder", help="efficiency: where temporary data go; by default where the system keeps such")
    parser.add_argument("--workspace", help="large-batch: folder of jets, set and runs; that of make quality otherwise")
    parser.add_argument(
        "--epochs", nargs=2, type=int, default=(3, 1), metavar=("PRE", "JOINT"), help="large-batch: epochs of all runs"
    )
    parser.add_argument("--seed", type=int, default=1, help="large-batch: seed of all runs")
    parser.add_argument("--threads", type=int, default=1, help="large-batch: threads of TensorFlow's operations")
    parser.add_argument("--docs", default=str(ROOT / "docs"), help="folder of the page and of its raw results")
    parser.add_argument("--save", action="store_true", help="write the results into the page")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
