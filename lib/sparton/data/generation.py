"""Jets generated on Spark executors, as the jets table.

The work is cut into fixed chunks of a process's jets. A chunk has a seed of its own, derived from the table's seed, the
process and the chunk's number, and fills one partition; so the table is the same for every number of executors. The
seeds of a process's chunks are all different, so no chunk repeats another one.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from sparton.data.schema import JETS_ARROW, JETS_SCHEMA
from sparton.errors import SpartonError, UsageError
from sparton.physics import libraries, pythia
from sparton.physics.generator import generate_jets
from sparton.physics.jets import Jets
from sparton.physics.processes import find
from sparton.physics.settings import GenerationSettings

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

PROCESS_SHIFT = 48
CHUNK_SHIFT = 24
"""An identifier is ``process code << 48 | chunk << 24 | row or event in the chunk``."""

MAX_CHUNKS = min(1 << PROCESS_SHIFT - CHUNK_SHIFT, pythia.MAX_SEED)
"""Chunks of a process that have identifiers and seeds of their own."""


METADATA_KEY = "generation"


@dataclass(frozen=True)
class Chunk:
    """The jets that one task generates: ``number`` counts the chunks of a process from 0."""

    process: str
    number: int
    n_jets: int
    seed: int


def generate_table(spark: SparkSession, settings: GenerationSettings) -> DataFrame:
    """Generate the jets table of ``sparton.data.schema.JETS_SCHEMA``, one partition a chunk in a fixed order.

    Each action on the result generates the jets anew, the same ones; write it before working with it.

    Parameters
    ----------
    spark
        The session whose executors run Pythia; they need the extra ``sparton[gen]``, as the driver does.
    settings
        What to generate.

    Raises
    ------
    SpartonError
        If Pythia or FastJet is missing on the driver. What fails on an executor (such as a DataError for a selection
        that is too tight) reaches the driver as Spark's exception, whose text holds the message.
    """
    versions = libraries.versions()
    chunks = plan_chunks(settings)
    numbers = spark.range(0, len(chunks), 1, numPartitions=len(chunks))
    task = functools.partial(_generate, chunks=chunks, settings=settings, versions=versions)
    return numbers.mapInArrow(task, JETS_SCHEMA)


def generation_metadata(settings: GenerationSettings) -> dict[str, Any]:
    """Return what a generated table must be stored with, ready for JSON.

    Returns
    -------
    dict
        ``source``, ``versions`` of Pythia and FastJet, ``seed``, ``settings`` and ``commands``: for each process the
        lines that configured Pythia, but for the seeds of the tasks, which follow from ``seed``.
    """
    versions = libraries.versions()
    return {
        "source": source(versions),
        "versions": versions,
        "seed": settings.seed,
        "settings": settings.model_dump(mode="json"),
        "commands": {name: pythia.commands(find(name), settings) for name in settings.processes},
    }


def tagged(table: DataFrame, metadata: dict[str, Any]) -> DataFrame:
    """Return the table with ``metadata`` on its first column, as JSON under the key :data:`METADATA_KEY`.

    Spark writes the metadata of columns into the footer of each Parquet file (in its own entry
    ``org.apache.spark.sql.parquet.row.metadata``), so a file tells where it is from when it is alone.
    """
    return table.withMetadata(table.columns[0], {METADATA_KEY: json.dumps(metadata)})


def source(versions: dict[str, str]) -> str:
    """Return the value of the table's column ``source``."""
    return f"pythia-{versions['pythia8mc']}"


def plan_chunks(settings: GenerationSettings) -> list[Chunk]:
    """Return the chunks in the order of the table: by process as in the settings, then by number.

    Raises
    ------
    UsageError
        If there are more chunks of a process than :data:`MAX_CHUNKS`.
    """
    size, total = settings.jets_per_task, settings.jets_per_process
    count = -(-total // size)
    if count > MAX_CHUNKS:
        raise UsageError(
            f"jets_per_process={total} and jets_per_task={size} make {count} tasks of each process, expected at most "
            f"{MAX_CHUNKS}; raise jets_per_task"
        )
    return [
        Chunk(process, number, min(size, total - number * size), chunk_seed(settings.seed, process, number))
        for process in settings.processes
        for number in range(count)
    ]


def chunk_seed(seed: int, process: str, number: int) -> int:
    """Return Pythia's seed of a chunk, 1 to 900 000 000.

    The chunks of a process take consecutive seeds, in a circle, from a point that the table's seed and the process
    are hashed to (SHA-256): no two chunks below :data:`MAX_CHUNKS` share one. Pythia's random numbers of neighbouring
    seeds are unrelated.
    """
    digest = hashlib.sha256(f"{seed}/{process}".encode()).digest()
    return (int.from_bytes(digest[:8], "big") + number) % pythia.MAX_SEED + 1


def jets_to_batch(jets: Jets, chunk: Chunk, origin: str) -> pa.RecordBatch:
    """Return the rows of the jets table for the jets of a chunk; ``origin`` is the column ``source``."""
    process = find(chunk.process)
    first_id = process.code << PROCESS_SHIFT | chunk.number << CHUNK_SHIFT
    offsets = pa.array(jets.offsets.astype(np.int32))

    def constituents(values: np.ndarray[Any, Any]) -> pa.ListArray:
        return pa.ListArray.from_arrays(offsets, pa.array(values))

    columns = {
        "jet_id": pa.array(first_id + np.arange(len(jets))),
        "event_id": pa.array(first_id + jets.event_index),
        "jet_pt": pa.array(jets.jet_pt),
        "jet_eta": pa.array(jets.jet_eta),
        "jet_phi": pa.array(jets.jet_phi),
        "jet_mass": pa.array(jets.jet_mass),
        "px": constituents(jets.px),
        "py": constituents(jets.py),
        "pz": constituents(jets.pz),
        "energy": constituents(jets.energy),
        "pdg_id": constituents(jets.pdg_id),
        "n_constituents": pa.array(jets.n_constituents),
        "label": pa.repeat(process.label, len(jets)),
        "source": pa.repeat(origin, len(jets)),
    }
    return pa.RecordBatch.from_arrays([columns[name] for name in JETS_ARROW.names], schema=JETS_ARROW)


def _generate(
    batches: Iterable[pa.RecordBatch],
    chunks: list[Chunk],
    settings: GenerationSettings,
    versions: dict[str, str],
) -> Iterator[pa.RecordBatch]:
    """Turn chunk numbers into jets; runs in an executor's Python worker."""
    found = libraries.versions()
    if found != versions:
        raise SpartonError(
            f"an executor has {found}, the driver {versions}; events change between versions, so install the same "
            "ones everywhere"
        )
    for batch in batches:
        for number in batch.column("id").to_pylist():
            chunk = chunks[number]
            jets = generate_jets(chunk.process, chunk.n_jets, chunk.seed, settings)
            yield jets_to_batch(jets, chunk, source(versions))
