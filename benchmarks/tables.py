"""Prepare a large plain table: time, bytes per second and memory, beside one plain Spark sort of the same bytes.

The sort is one pass of the bytes through an exchange and back to disk; prepare also checks every value, counts rows
before it moves them, computes statistics and reads back what it wrote. The floor is the bytes' way to disk, once. The
goal is to end within the heap: there is no bar for the time.

    python benchmarks/tables.py                      # 10 million rows x 50 columns: 6 GB of heap, 10 GB of disk
    python benchmarks/tables.py --rows 200000        # a quick look
    python benchmarks/tables.py --partitions 1       # all rows in one input partition
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parts.disk import write_bandwidth

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROWS_PER_GROUP = 100_000
POLL_S = 0.2
MB, GB = 1e6, 1e9


@dataclass(frozen=True)
class Measurement:
    """Seconds of a step, and the largest resident memory (bytes) of the JVM and of all Python workers together."""

    name: str
    seconds: float
    jvm: int
    workers: int


class Memory:
    """Watches the resident memory of the processes below this one."""

    def __init__(self) -> None:
        self.jvm = self.workers = 0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Memory:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stop.wait(POLL_S):
            jvm = workers = 0
            for pid in _descendants(os.getpid()):
                name, resident = _process(pid)
                if name == "java":
                    jvm += resident
                elif name.startswith("python"):
                    workers += resident
            self.jvm, self.workers = max(self.jvm, jvm), max(self.workers, workers)


def main() -> None:
    """Run the benchmark and print its table."""
    options = _options()
    os.nice(10)
    folder = Path(tempfile.mkdtemp(prefix="sparton-tables-", dir=options.folder))
    try:
        _run(options, folder)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _run(options: argparse.Namespace, folder: Path) -> None:
    from sparton.data.settings import TableSettings
    from sparton.data.source_files import find_sources, read_sources
    from sparton.data.tables import write_table_set
    from sparton.pipeline.session import SparkSettings, spark_session

    table = folder / "table"
    size = write_table(table, options.rows, options.columns, options.partitions)
    conf = {"spark.driver.memory": options.heap, "spark.local.dir": str(folder / "spill")}
    spark = spark_session(SparkSettings(master=f"local[{options.cores}]", conf=conf), "benchmark of tables")
    settings = TableSettings(splits={"train": 1.0})

    def prepare() -> None:
        sources = find_sources(spark, str(table))
        rows = read_sources(spark, str(table), sources)
        manifest = write_table_set(spark, rows, settings, str(folder / "set"), {}, sources, str(table))
        assert manifest.counts.kept == options.rows

    def sort() -> None:
        spark.read.parquet(str(table)).orderBy("x0").write.parquet(str(folder / "sorted"))

    spark.range(10).count()
    measured = [_measure("prepare --kind table", prepare)]
    shuffled = shuffle_bytes(spark)
    print(f"after prepare: {shuffled}")
    shutil.rmtree(folder / "set")
    measured.append(_measure("one Spark sort", sort))
    spark.stop()
    _print(measured, options, size, write_bandwidth(folder))


def write_table(folder: Path, rows: int, columns: int, partitions: int) -> int:
    """Write a table of normal float32 columns ``x0 ..`` in ``partitions`` files; return its size in bytes."""
    folder.mkdir(parents=True)
    schema = pa.schema([pa.field(f"x{index}", pa.float32()) for index in range(columns)])
    limits = np.linspace(0, rows, partitions + 1).astype(int)
    for number in range(partitions):
        rng = np.random.default_rng(number)
        with pq.ParquetWriter(folder / f"part-{number:03d}.parquet", schema, use_dictionary=False) as writer:
            for start in range(limits[number], limits[number + 1], ROWS_PER_GROUP):
                count = min(ROWS_PER_GROUP, limits[number + 1] - start)
                values = rng.standard_normal((columns, count), np.float32)
                writer.write_table(pa.table(list(values), schema=schema))
    return sum(path.stat().st_size for path in folder.iterdir())


def shuffle_bytes(spark: SparkSession) -> dict[str, str]:
    """Return what all stages so far wrote to shuffles and spilled."""
    totals: dict[str, Any] = {"shuffleWriteBytes": 0, "memoryBytesSpilled": 0, "diskBytesSpilled": 0}
    context: Any = spark.sparkContext
    quantiles = context._gateway.new_array(context._jvm.double, 0)
    stages = context._jsc.sc().statusStore().stageList(None, False, False, quantiles, None)
    for index in range(stages.size()):
        for name in totals:
            totals[name] += getattr(stages.apply(index), name)()
    return {name: f"{value / GB:.2f} GB" for name, value in totals.items()}


def _measure(name: str, action: Callable[[], None]) -> Measurement:
    with Memory() as memory:
        started = time.perf_counter()
        action()
        seconds = time.perf_counter() - started
    print(f"{name}: {seconds:.1f} s", flush=True)
    return Measurement(name, seconds, memory.jvm, memory.workers)


def _print(measured: list[Measurement], options: argparse.Namespace, size: int, bandwidth: float) -> None:
    print(
        f"{options.rows:,} rows x {options.columns} float32 columns, {size / GB:.2f} GB in {options.partitions} files, "
        f"local[{options.cores}], heap {options.heap}; new data reach the disk at {bandwidth / MB:,.0f} MB/s"
    )
    heading = f"{'step':24}{'s':>9}{'rows/s':>12}{'MB/s':>9}{'x sort':>9}{'floor s':>9}{'of floor':>10}"
    print(f"{heading}{'JVM GB':>9}{'workers GB':>12}")
    sort, floor = measured[-1].seconds, size / bandwidth
    for step in measured:
        rates = f"{options.rows / step.seconds:12,.0f}{size / MB / step.seconds:9.1f}{step.seconds / sort:9.2f}"
        reached = f"{floor:9.2f}{floor / step.seconds:10.3f}"
        print(f"{step.name:24}{step.seconds:9.1f}{rates}{reached}{step.jvm / GB:9.2f}{step.workers / GB:12.2f}")


def _descendants(root: int) -> list[int]:
    parents: dict[int, list[int]] = {}
    for path in Path("/proc").iterdir():
        if path.name.isdigit():
            try:
                found = re.search(r"\) \S (\d+)", (path / "stat").read_text())
            except OSError:
                continue
            if found:
                parents.setdefault(int(found[1]), []).append(int(path.name))
    below, pending = [], [root]
    while pending:
        children = parents.get(pending.pop(), [])
        below += children
        pending += children
    return below


def _process(pid: int) -> tuple[str, int]:
    """Return a process's name and resident memory in bytes, nothing where it has ended."""
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return "", 0
    name, resident = re.search(r"Name:\s+(\S+)", status), re.search(r"VmRSS:\s+(\d+)", status)
    return (name[1] if name else ""), int(resident[1]) * 1024 if resident else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=10_000_000)
    parser.add_argument("--columns", type=int, default=50)
    parser.add_argument("--partitions", type=int, default=10, help="files of the input")
    parser.add_argument("--cores", type=int, default=2)
    parser.add_argument("--heap", default="6g", help="memory of the JVM")
    parser.add_argument("--folder", default=None, help="where to put the data (default: the system's)")
    return parser.parse_args()


if __name__ == "__main__":
    main()
