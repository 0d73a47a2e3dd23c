"""The jets table made on Spark executors: the same for every partitioning, and as the arrays it comes from."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql.types import StructType

from sparton.data import generation
from sparton.data.schema import JETS_ARROW, JETS_SCHEMA
from sparton.errors import SpartonError, UsageError
from sparton.physics import kinematics as kin
from sparton.physics import libraries, pythia
from sparton.physics.generator import generate_jets
from sparton.physics.processes import PROCESSES
from sparton.physics.settings import GenerationSettings

SETTINGS = GenerationSettings(processes=("W", "lhco-signal"), jets_per_process=30, jets_per_task=20, seed=11)


def parquet_files(folder: Path) -> list[Path]:
    """Files in the order of the partitions that wrote them."""
    return sorted(folder.glob("*.parquet"))


def read(folder: Path) -> pa.Table:
    """The table of a folder of Parquet files, in the files' order."""
    return pa.concat_tables([pq.read_table(file).replace_schema_metadata(None) for file in parquet_files(folder)])


@pytest.fixture(scope="module")
def folder(spark: SparkSession, tmp_path_factory: pytest.TempPathFactory) -> Path:
    target = tmp_path_factory.mktemp("jets") / "table"
    tagged(spark).write.parquet(str(target))
    return target


def tagged(spark: SparkSession) -> DataFrame:
    return generation.tagged(generation.generate_table(spark, SETTINGS), generation.generation_metadata(SETTINGS))


@pytest.fixture(scope="module")
def table(folder: Path) -> pa.Table:
    return read(folder)


def nullable(schema: StructType) -> StructType:
    """The schema as files give it back: Parquet readers let every column be null."""
    return StructType.fromJson(json.loads(schema.json().replace('"nullable":false', '"nullable":true')))


def test_the_schema_is_that_of_the_jets_table(spark: SparkSession, folder: Path) -> None:
    assert generation.generate_table(spark, SETTINGS).schema == JETS_SCHEMA
    assert spark.read.parquet(str(folder)).schema == nullable(tagged(spark).schema)


def test_the_table_is_the_chunks_generated_one_by_one(table: pa.Table) -> None:
    origin = generation.source(libraries.versions())
    batches = [
        generation.jets_to_batch(generate_jets(chunk.process, chunk.n_jets, chunk.seed, SETTINGS), chunk, origin)
        for chunk in generation.plan_chunks(SETTINGS)
    ]
    assert table.cast(JETS_ARROW).equals(pa.Table.from_batches(batches))


def test_partitions_do_not_matter(spark: SparkSession, table: pa.Table, tmp_path: Path) -> None:
    generation.generate_table(spark, SETTINGS).coalesce(1).write.parquet(str(tmp_path / "one"))
    assert len(parquet_files(tmp_path / "one")) == 1
    assert read(tmp_path / "one").equals(table)


def test_partition_i_is_chunk_i(folder: Path) -> None:
    numbers = [pq.read_table(file)["jet_id"].to_numpy() >> generation.CHUNK_SHIFT for file in parquet_files(folder)]
    found = [(np.unique(number & 0xFFFFFF).tolist(), number.size) for number in numbers]
    assert found == [([chunk.number], chunk.n_jets) for chunk in generation.plan_chunks(SETTINGS)]


def test_every_process_has_its_number_of_jets(table: pa.Table) -> None:
    frame = table.select(["jet_id", "event_id", "label", "n_constituents"]).to_pandas()
    assert frame["label"].value_counts().to_dict() == {"W": 30, "signal": 30}
    assert frame["jet_id"].is_unique
    assert frame.loc[frame["label"] == "signal", "event_id"].value_counts().eq(2).all()
    events = frame.groupby("label")["event_id"].agg(set)
    assert not events["W"] & events["signal"]
    np.testing.assert_array_equal(pc.list_value_length(table["px"]).to_numpy(), frame["n_constituents"])


def test_rows_agree_with_their_constituents(table: pa.Table) -> None:
    frame: pd.DataFrame = table.to_pandas()
    px, py, pz, energy = (frame[name].map(lambda row: row.astype(float).sum()) for name in ("px", "py", "pz", "energy"))
    np.testing.assert_allclose(frame["jet_pt"], np.hypot(px, py), rtol=1e-6)
    np.testing.assert_allclose(frame["jet_eta"], np.arcsinh(pz / np.hypot(px, py)), atol=1e-6)
    np.testing.assert_allclose(frame["jet_phi"], np.arctan2(py, px), atol=1e-6)
    np.testing.assert_allclose(frame["jet_mass"], np.sqrt(energy**2 - px**2 - py**2 - pz**2), rtol=1e-5)
    pt = kin.transverse_momentum(np.concatenate(frame["px"]), np.concatenate(frame["py"]))
    offsets = kin.offsets_from_counts(frame["n_constituents"])
    rises = np.diff(pt) > 0
    assert not np.delete(rises, offsets[1:-1] - 1).any()


def test_a_longer_table_begins_with_the_shorter_one(spark: SparkSession, table: pa.Table, tmp_path: Path) -> None:
    longer = SETTINGS.model_copy(update={"processes": ("W",), "jets_per_process": 40})
    generation.generate_table(spark, longer).write.parquet(str(tmp_path / "longer"))
    rows = read(tmp_path / "longer")
    assert rows.num_rows == 40
    assert rows.slice(0, 30).equals(table.filter(pc.equal(table["label"], "W")))


def test_another_seed_gives_other_jets(spark: SparkSession, table: pa.Table) -> None:
    other = SETTINGS.model_copy(update={"processes": ("W",), "jets_per_process": 10, "seed": 12})
    masses = [row["jet_mass"] for row in generation.generate_table(spark, other).select("jet_mass").collect()]
    assert not set(masses) & set(table["jet_mass"].to_pylist())


def test_metadata_tells_how_to_make_the_table_again() -> None:
    metadata = json.loads(json.dumps(generation.generation_metadata(SETTINGS)))
    assert metadata["seed"] == 11
    assert metadata["source"] == f"pythia-{metadata['versions']['pythia8mc']}"
    assert metadata["versions"]["fastjet"]
    assert GenerationSettings.model_validate(metadata["settings"]) == SETTINGS
    assert list(metadata["commands"]) == ["W", "lhco-signal"]
    assert "WeakDoubleBoson:ffbar2WW = on" in metadata["commands"]["W"]
    assert "PartonLevel:MPI = off" in metadata["commands"]["W"]


def test_source_names_the_version_of_pythia(table: pa.Table) -> None:
    assert set(table["source"].to_pylist()) == {generation.generation_metadata(SETTINGS)["source"]}


def test_seeds_of_chunks_are_distinct_fixed_and_taken_by_pythia() -> None:
    seeds = {generation.chunk_seed(seed, name, number) for seed in (0, 1) for name in "WZ" for number in range(500)}
    assert len(seeds) == 2000
    assert min(seeds) >= 1
    assert max(seeds) <= pythia.MAX_SEED
    assert generation.chunk_seed(1, "W", 0) == 289130047


@settings(deadline=None)
@given(
    seed=st.integers(0, 2**40),
    process=st.sampled_from(sorted(PROCESSES)),
    numbers=st.lists(st.integers(0, generation.MAX_CHUNKS - 1), unique=True, min_size=2, max_size=50),
)
def test_no_two_chunks_of_a_process_share_a_seed(seed: int, process: str, numbers: list[int]) -> None:
    seeds = [generation.chunk_seed(seed, process, number) for number in numbers]
    assert len(set(seeds)) == len(numbers)
    assert 1 <= min(seeds) <= max(seeds) <= pythia.MAX_SEED


def test_a_hundred_million_jets_repeat_no_chunk() -> None:
    chunks = generation.plan_chunks(GenerationSettings(processes=("g",), jets_per_process=100_000_000))
    assert len({chunk.seed for chunk in chunks}) == len(chunks) == 100_000


def test_more_chunks_than_identifiers_are_refused() -> None:
    many = GenerationSettings(processes=("W",), jets_per_process=generation.MAX_CHUNKS + 1, jets_per_task=1)
    with pytest.raises(UsageError, match=r"make 16777217 tasks .* at most 16777216; raise jets_per_task"):
        generation.plan_chunks(many)


def test_the_footer_of_every_file_tells_how_it_was_made(folder: Path) -> None:
    metadata = generation.generation_metadata(SETTINGS)
    files = parquet_files(folder)
    assert len(files) == len(generation.plan_chunks(SETTINGS))
    for file in files:
        footer = json.loads(pq.read_schema(file).metadata[b"org.apache.spark.sql.parquet.row.metadata"])
        assert json.loads(footer["fields"][0]["metadata"][generation.METADATA_KEY]) == metadata


def table_of_two_executors(folder: Path) -> pa.Table:
    """Generate the table in a Spark application of its own, whose two executors are processes of their own."""
    script = (
        "from sparton.data.generation import generate_table\n"
        "from sparton.distributed import slots\n"
        "from sparton.physics.settings import GenerationSettings\n"
        "from sparton.pipeline.session import SparkSettings, spark_session\n"
        "spark = spark_session(SparkSettings(master='local-cluster[2,1,1024]'), 'generation')\n"
        "slots.require(spark.sparkContext, 2)\n"
        "found = spark.sparkContext._jsc.sc().statusTracker().getExecutorInfos()\n"
        "assert len(list(found)) == 3, list(found)  # and the driver\n"
        f"settings = GenerationSettings.model_validate_json({SETTINGS.model_dump_json()!r})\n"
        f"generate_table(spark, settings).write.parquet({str(folder)!r})\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    return read(folder)


def test_executors_do_not_matter(table: pa.Table, tmp_path: Path) -> None:
    """Two executors in processes of their own make the rows that the driver's process makes."""
    spread = table_of_two_executors(tmp_path / "spread")
    assert spread.num_rows == 60
    for column in table.column_names:
        assert spread[column].equals(table[column]), column


def test_executors_must_have_the_drivers_versions() -> None:
    chunks = generation.plan_chunks(SETTINGS)
    with pytest.raises(SpartonError, match="install the same"):
        next(generation._generate([], chunks, SETTINGS, {"pythia8mc": "8.1", "fastjet": "3"}))
