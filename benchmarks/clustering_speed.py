"""How fast k-means is, beside Spark MLlib, scikit-learn and FAISS, on the same rows of Gaussian clouds.

Three contests in one run: from Parquet files to centroids in processes of their own, start-up included; rows in memory,
methods in turns, full iterations as often as it takes to come within 1 % of Lloyd's best; and one assignment pass
against the machine's matrix products. Memory is shown with a tenth of the rows too.

    python benchmarks/clustering_speed.py                    # 2 million x 32, k = 100
    python benchmarks/clustering_speed.py --case b           # 10 million x 16, k = 1,000: 10 GB of memory
    python benchmarks/clustering_speed.py --contests pass    # the assignment pass alone
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import tempfile
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from parts.blobs import Blobs
from parts.clustering_contest import NEAR, contest, first_centroids, inertia_of, one_pass
from parts.processes import Taken, measure
from sparton import storage
from sparton.data.manifest import read_set
from sparton.data.settings import TRAIN
from sparton.sgd.bundle import load
from sparton.sgd.settings import KMeansSettings

Array = NDArray[Any]

RESULTS = Path(__file__).parent / "results"
PROCESS = Path(__file__).parent / "parts" / "clustering_process.py"
MB = 1e6


@dataclass(frozen=True)
class Case:
    """The rows, and the settings of ours; ``limit`` iterations of Lloyd's method at most.

    ``own_starts``: whether full iterations from other starts take part in memory.
    """

    blobs: Blobs
    batch: int
    decay: float
    passes: int
    limit: int
    own_starts: bool = True

    @property
    def settings(self) -> KMeansSettings:
        """Ours."""
        return KMeansSettings(
            n_clusters=self.blobs.clusters,
            scaling="none",
            epochs=self.passes,
            batch_size=self.batch,
            decay=self.decay,
            seed=1,
        )

    @property
    def work(self) -> float:
        """Operations of one assignment pass, 2 n k d: the floor of any pass."""
        return 2.0 * self.blobs.rows * self.blobs.clusters * self.blobs.features


CASES = {
    "a": Case(Blobs(2_000_000, 32, 100), batch=16_384, decay=0.97, passes=1, limit=50),
    "b": Case(Blobs(10_000_000, 16, 1000), batch=65_536, decay=0.97, passes=1, limit=12, own_starts=False),
}


def main(arguments: list[str] | None = None) -> int:
    """Run the contests that were asked for and print their tables."""
    options = _options(arguments)
    case = CASES[options.case]
    blobs = case.blobs
    values = blobs.values()
    title = f"{blobs.rows:,} x {blobs.features}, k = {blobs.clusters}, {os.cpu_count()} cores"
    kept = RESULTS / f"clustering_speed_{options.case}.json"
    results: dict[str, Any] = storage.read_json(str(kept)) if kept.exists() else {}
    results |= {"title": title, "work of a pass": case.work}
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        for name in options.contests:
            print(f"{name}: {title}", flush=True)
            results[name], table = CONTESTS[name](case, values, Path(folder), options)
            Console(width=150).print(table)
            if options.save:
                storage.make_dirs(str(RESULTS))
                storage.write_json(str(kept), results)
    return 0


def _pass(case: Case, values: Array, folder: Path, options: argparse.Namespace) -> tuple[Any, Table]:
    found = one_pass(values, first_centroids(values, case.settings), options.rounds)
    table = Table("one pass", "rows/s", "GFLOP/s", "of the product of 4096 x 4096", title="Assignment")
    table.add_row(
        "nearest centroids",
        f"{found.rows_per_second:,.0f}",
        f"{found.rate / 1e9:.0f}",
        f"{found.rate / found.square_products:.2f} (asked: 0.5)",
    )
    for name, rate in (
        ("matrix products of these shapes alone", found.same_products),
        ("square", found.square_products),
    ):
        table.add_row(name, "", f"{rate / 1e9:.0f}", f"{rate / found.square_products:.2f}")
    return asdict(found), table


def _memory(case: Case, values: Array, folder: Path, options: argparse.Namespace) -> tuple[Any, Table]:
    found, best = contest(values, case.settings, options.rounds, case.limit, case.own_starts)
    ours = found[0].seconds
    table = Table("rows in memory", "s", "of ours", "inertia", "over the best", "within 1 %", title="In memory")
    for one in found:
        known = math.isfinite(one.seconds)
        table.add_row(
            one.name,
            f"{one.seconds:.2f}" if known else "",
            f"{one.seconds / ours:.2f}" if known else "",
            f"{one.inertia:.4g}",
            f"{one.inertia / best:.4f}",
            "yes" if one.inertia <= NEAR * best else "no",
        )
    floor = case.work / one_pass(values, first_centroids(values, case.settings), 1).square_products
    table.caption = f"floor of a pass, 2 n k d at the rate of square matrix products: {floor:.2f} s"
    return {"best": best, "floor": floor, "methods": [asdict(one) for one in found]}, table


def _parquet(case: Case, values: Array, folder: Path, options: argparse.Namespace) -> tuple[Any, Table]:
    blobs = case.blobs
    source = folder / "table"
    blobs.write(source, values)
    chosen = {
        "k": blobs.clusters, "passes": case.passes, "batch": case.batch, "decay": case.decay,
        "iterations": options.iterations, "seed": 1,
    }  # fmt: skip
    lines: list[tuple[str, Taken, Array | None]] = []

    def tell(name: str, taken: Taken, centroids: Array | None) -> None:
        lines.append((name, taken, centroids))
        print(f"  {name}: {taken.seconds:.1f} s, {taken.peak / MB:,.0f} MB", flush=True)

    def way(name: str) -> tuple[Taken, Array | None]:
        target = folder / f"{name}.npy"
        command = [sys.executable, str(PROCESS), name, str(source), str(target), json.dumps(chosen)]
        taken = measure(command, folder, options.limit)
        return taken, np.load(target) if taken.ended else None

    turns = range(options.rounds)
    files = [_cluster(case, folder, source, f"files-{turn}", options.limit) for turn in turns]
    tell(f"sparton cluster on the files, {case.passes} pass", *_middle(files))
    tell("sparton prepare: once for any number of trainings", _prepare(folder, source, options.limit), None)
    data, small = folder / "w" / "set", folder / "tenth"
    _part_of(data, small)
    whole = [_cluster(case, folder, data, f"whole-{turn}", options.limit) for turn in turns]
    tell(f"sparton cluster on the set, {case.passes} pass", *_middle(whole))
    tenth = [_cluster(case, folder, small, f"tenth-{turn}", options.limit) for turn in turns]
    tell("the same with a tenth of the rows", *_middle(tenth))
    tell("pyarrow and MiniBatchKMeans, as it comes", *_middle([way("mini_batch") for _ in turns]))
    tell("SGDKMeans.fit on the table", *way("estimator"))
    tell("SGDKMeans(inMemory=True).fit", *way("in_memory"))
    tell(f"Spark MLlib KMeans, {options.iterations} iterations", *way("mllib"))
    return _parquet_table(values, lines)


def _middle(turns: list[tuple[Taken, Array | None]]) -> tuple[Taken, Array | None]:
    """Return the turn of median time."""
    return sorted(turns, key=lambda turn: turn[0].seconds)[len(turns) // 2]


def _parquet_table(values: Array, lines: list[tuple[str, Taken, Array | None]]) -> tuple[Any, Table]:
    inertias = [None if centroids is None else inertia_of(values, centroids) for _, _, centroids in lines]
    mllib = lines[-1][1]
    headings = ("from Parquet, a process of its own", "s", "MLlib's time over it", "inertia", "peak MB")
    table, rows = Table(*headings, title="From Parquet, start-up included"), []
    for (name, taken, _), inertia in zip(lines, inertias, strict=True):
        sign = "" if taken.ended else "> "
        table.add_row(
            name,
            f"{sign}{taken.seconds:.1f}",
            f"{'' if mllib.ended else '> '}{mllib.seconds / taken.seconds:.1f}",
            "" if inertia is None else f"{inertia:.4g}",
            f"{taken.peak / MB:,.0f}",
        )
        rows.append({"name": name, "inertia": inertia, **asdict(taken)})
    return rows, table


def _prepare(folder: Path, source: Path, limit: float) -> Taken:
    command = [
        *_sparton("prepare", folder, folder / "w"),
        "--input",
        str(source),
        "--set",
        "spark.conf={spark.driver.memory: 6g}",
    ]
    return measure(command, folder, limit)


def _cluster(case: Case, folder: Path, data: Path, name: str, limit: float) -> tuple[Taken, Array | None]:
    chosen = case.settings.model_dump()
    named = ("n_clusters", "scaling", "epochs", "batch_size", "decay", "patience", "seed")
    sets = [f"--set=cluster.{key}={json.dumps(chosen[key])}" for key in named]
    command = [*_sparton("cluster", folder, folder / f"w-{name}"), "--input", str(data), *sets]
    taken = measure(command, folder, limit)
    return taken, load(str(folder / f"w-{name}" / "model")).clusters.centers


def _sparton(command: str, folder: Path, workspace: Path) -> list[str]:
    config = folder / "table.yaml"
    config.write_text("kind: table\ntable:\n  splits: {train: 1.0}\n")
    return [sys.executable, "-m", "sparton", command, "--config", str(config), "--workspace", str(workspace)]


def _part_of(data: Path, target: Path) -> None:
    """Make a set of the first tenth of the shards of another, without copying them."""
    manifest = read_set(str(data))
    shards = manifest.shards(TRAIN)
    target.mkdir()
    for entry in data.glob("split=*"):
        (target / entry.name).symlink_to(entry)
    manifest.model_copy(update={"splits": {TRAIN: shards[: max(1, len(shards) // 10)]}}).write(str(target))


CONTESTS: dict[str, Callable[[Case, Array, Path, argparse.Namespace], tuple[Any, Table]]] = {
    "pass": _pass,
    "memory": _memory,
    "parquet": _parquet,
}


def _options(arguments: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--case", choices=CASES, default="a", help="which rows")
    parser.add_argument("--contests", nargs="+", choices=CONTESTS, default=list(CONTESTS), help="contests to run")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each method in memory")
    parser.add_argument("--iterations", type=int, default=20, help="of MLlib's k-means")
    parser.add_argument("--limit", type=float, default=1800.0, help="seconds after which a process is ended")
    parser.add_argument("--folder", default=None, help="where to put the data (default: the system's)")
    parser.add_argument("--save", action="store_true", help="keep the results as JSON in results/, beside earlier ones")
    return parser.parse_args(arguments)


if __name__ == "__main__":
    sys.exit(main())
