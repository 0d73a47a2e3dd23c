"""Prepare against the disk and one sort, and ingest of HLS4ML files against a plain script, as stages run them."""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from parts.contest import Contestant, Line, compete
from parts.disk import read_bandwidth, write_bandwidth, writer
from sparton import pipeline
from sparton.config import validate
from sparton.data.schema import JETS_ARROW
from sparton.data.sources.hls4ml import JET_COLUMNS, LABELS, PARTICLE_COLUMNS
from sparton.pipeline import PipelineSettings
from sparton.pipeline.session import spark_session
from tests.layouts import write_hls4ml
from tests.synthetic import jets_table, random_jets

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

JETS_PER_FILE = 8000
READ_ROWS = 2048
WARM_UP_JETS = 200
WARM_UP_FILES = 8
"""Enough that every slot gets some: each has a Python worker of its own to start."""

JETS_PER_HLS4ML = 10_000
PREPARE_GOAL = "no bar: beside disk and sort"
PLAIN_COLUMNS = ("jet_pt", "jet_eta", "jet_mass", "px", "py", "pz", "energy", "n_constituents", "label")


def contest_prepare(folder: Path, jets: int, rounds: int) -> list[Line]:
    """Prepare a jets table, sort its packed rows once, and write as many bytes: the last of these is the floor."""
    table, packed = folder / "jets", folder / "packed"
    rows = _write_jets(table, jets)
    _write_packed(packed, table)
    settings = _settings(folder, f"local[{os.cpu_count()}]")
    spark = spark_session(settings.spark, "benchmark")
    size = rows * settings.prepare.features.row_bytes
    turn = itertools.count()

    def sort() -> None:
        frame = spark.read.parquet(str(packed)).repartition(8, "key").sortWithinPartitions("key")
        frame.write.mode("overwrite").parquet(str(folder / "sorted"))

    def prepare() -> None:
        pipeline.prepare(settings, input=str(table), output=str(folder / f"set{next(turn)}"))

    contestants = [
        Contestant("one Spark sort of the packed rows", sort, rows, size, "reference; a third of the bytes"),
        Contestant("disk: write and fsync of the tensors", writer(folder / "raw", size), rows, size),
        Contestant("sparton prepare", prepare, rows, size, "whole stage, read back and checked"),
    ]
    pin(os.cpu_count() or 1)
    try:
        return compete("prepare", contestants, rounds, write_bandwidth(folder), {"sparton prepare": PREPARE_GOAL})
    finally:
        spark.stop()


def contest_ingest(folder: Path, jets: int, rounds: int) -> list[Line]:
    """Ingest HLS4ML files of the published size by the stage on one and two cores, and by a script of few lines.

    The floor is reading the files' bytes once, on one core.
    """
    files, tiny = folder / "hls4ml", folder / "tiny"
    for path, numbers, count in (
        (files, range(-(-jets // JETS_PER_HLS4ML)), JETS_PER_HLS4ML),
        (tiny, range(WARM_UP_FILES), WARM_UP_JETS),
    ):
        path.mkdir()
        for number in numbers:
            write_hls4ml(path / f"jets_{number:03d}.h5", *random_jets(count, seed=number))
    sources = sorted(files.iterdir())
    jets, size = len(sources) * JETS_PER_HLS4ML, sum(path.stat().st_size for path in sources)
    contestants = [
        Contestant(
            "h5py to pyarrow, one core",
            lambda: _plain(sources, folder / "plain.parquet"),
            jets,
            size,
            "reference",
            lambda: pin(1),
        ),
        *(_ingest(folder, cores, files, tiny, jets, size) for cores in (1, 2)),
    ]
    goals = {"sparton ingest, 1 core": ">= 0.7", "sparton ingest, 2 cores": "twice that of 1 core"}
    return compete("ingest", contestants, rounds, read_bandwidth(sources), goals)


def _ingest(folder: Path, cores: int, files: Path, tiny: Path, jets: int, size: int) -> Contestant:
    settings = _settings(folder, f"local[{cores}]")
    turn = itertools.count()

    def call(path: Path) -> None:
        pipeline.ingest(settings, input=str(path), output=str(folder / f"ingested-{cores}-{next(turn)}"))

    def session() -> None:
        """Start Spark and its Python workers, which is not what is measured."""
        session_on(folder, cores, fresh=True)
        pin(cores)
        call(tiny)

    name = f"sparton ingest, {cores} core{'s' if cores > 1 else ''}"
    return Contestant(name, lambda: call(files), jets, size, "whole stage, screened and checked", session)


def session_on(folder: Path, cores: int, fresh: bool = False) -> SparkSession:
    """Return the session on so many cores, a new one if asked for."""
    from pyspark.sql import SparkSession

    active = SparkSession.getActiveSession()
    if active is not None and fresh:
        active.stop()
    return spark_session(_settings(folder, f"local[{cores}]").spark, "benchmark")


def pin(cores: int) -> None:
    """Hold this process, Spark's JVM and all that they start to so many cores."""
    from pyspark import SparkContext

    gateway = SparkContext._gateway
    for process in (os.getpid(), *([gateway.proc.pid] if gateway is not None else [])):
        for thread in os.listdir(f"/proc/{process}/task"):
            with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setaffinity(int(thread), range(cores))


def _settings(folder: Path, master: str) -> PipelineSettings:
    content = {"workspace": str(folder / "workspace"), "spark": {"master": master}}
    return validate(PipelineSettings, content, "benchmark")


def _write_jets(folder: Path, jets: int) -> int:
    folder.mkdir()
    files = -(-jets // JETS_PER_FILE)
    for number in range(files):
        table = jets_table(JETS_PER_FILE, seed=number, first_id=number * JETS_PER_FILE)
        pq.write_table(table, folder / f"part-{number:05d}.parquet")
    return files * JETS_PER_FILE


def _write_packed(folder: Path, jets: Path) -> None:
    """Write what has to cross the exchange at least: a key, and the four-momenta as one binary column."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for path in sorted(jets.iterdir()):
        table = pq.read_table(path)
        lists = [table.column(name).combine_chunks() for name in ("px", "py", "pz", "energy")]
        momenta = np.stack([column.values.to_numpy() for column in lists], axis=1)
        offsets = (lists[0].offsets.to_numpy() * momenta.shape[1] * momenta.itemsize).astype(np.int32)
        buffers = [None, pa.py_buffer(offsets), pa.py_buffer(np.ascontiguousarray(momenta))]
        content = pa.Array.from_buffers(pa.binary(), table.num_rows, buffers)
        key = rng.integers(0, 2**62, table.num_rows)
        pq.write_table(pa.table({"key": key, "constituents": content}), folder / path.name)


def _plain(sources: list[Path], target: Path) -> None:
    """Do what a script of few lines does: no checks, no identifiers, one core."""
    momenta = [PARTICLE_COLUMNS.index(f"j1_{name}") for name in ("px", "py", "pz", "e")]
    values = [JET_COLUMNS.index(name) for name in ("j_pt", "j_eta", "j_mass")]
    labels = np.array(list(LABELS.values()))
    schema = pa.schema([JETS_ARROW.field(name) for name in PLAIN_COLUMNS])
    with pq.ParquetWriter(target, schema, compression="snappy") as writer:
        for file, start in _pieces(sources):
            particles, jets = (file[name][start : start + READ_ROWS] for name in ("jetConstituentList", "jets"))
            real = particles[:, :, momenta[3]] > 0
            counts = real.sum(axis=1)
            offsets = pa.array(np.concatenate([[0], np.cumsum(counts)]).astype(np.int32))
            lists = [pa.array(particles[:, :, index][real].astype(np.float32)) for index in momenta]
            label = labels[jets[:, [JET_COLUMNS.index(name) for name in LABELS]].argmax(axis=1)]
            columns: list[Any] = [
                *(pa.array(jets[:, index].astype(np.float32)) for index in values),
                *(pa.ListArray.from_arrays(offsets, column) for column in lists),
                pa.array(counts.astype(np.int32)),
                pa.array(label),
            ]
            writer.write_table(pa.table(columns, schema=schema))


def _pieces(sources: list[Path]) -> Iterator[tuple[h5py.File, int]]:
    for source in sources:
        with h5py.File(source) as file:
            for start in range(0, len(file["jets"]), READ_ROWS):
                yield file, start
