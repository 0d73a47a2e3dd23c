"""Spark reads the formats: the data sources of Spark 4 and the function for 3.5 give what the ingest gives."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pyarrow.parquet as pq
import pyspark
import pytest

from sparton.config import load_config
from sparton.data.schema import JETS_SCHEMA
from sparton.data.sources.reading import parse_options
from sparton.data.sources.spark_sources import read_jets, register, repeated_jet_ids
from sparton.errors import ConfigError, DataError, UsageError
from sparton.pipeline import PipelineSettings, ingest
from tests import layouts
from tests.synthetic import jets_table, random_jets

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

needs_spark_4 = pytest.mark.skipif(pyspark.__version__ < "4", reason="Spark 3.5 has no Python data sources")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("files")
    for name, seed in (("a", 1), ("b", 2)):
        layouts.write_hls4ml(path / f"{name}.h5", *random_jets(100, seed=seed))
    layouts.write_jetclass(path / "c.root", *random_jets(50, seed=3), jet_sdmass=np.arange(50.0))
    pq.write_table(jets_table(30, seed=4), path / "d.parquet")
    return path


def rows(frame: DataFrame) -> list[dict[str, object]]:
    return sorted((row.asDict() for row in frame.collect()), key=lambda row: str(row["jet_id"]))


@needs_spark_4
def test_data_source_function_and_ingest_agree(spark: SparkSession, folder: Path, tmp_path: Path) -> None:
    register(spark)
    source = spark.read.format("hls4ml").option("task_bytes", 500_000).load(str(folder))
    assert source.schema == JETS_SCHEMA
    assert source.rdd.getNumPartitions() > 2
    found = rows(source)
    assert len(found) == 200
    assert rows(read_jets(spark, str(folder), "hls4ml")) == found
    settings = load_config(PipelineSettings, None, [f"workspace={tmp_path}"])
    ingest(settings, input=str(folder))
    assert rows(spark.read.parquet(str(tmp_path / "jets"))) == found


@needs_spark_4
def test_options_and_further_columns(spark: SparkSession, folder: Path) -> None:
    register(spark)
    options = {"jet_columns": json.dumps(["jet_sdmass"]), "labels": json.dumps(["W", "Z"]), "on_bad": "drop"}
    found = spark.read.format("jetclass").options(**options).load(str(folder / "c.root"))
    assert found.columns[-1] == "jet_sdmass"
    assert {row["label"] for row in found.select("label").distinct().collect()} == {"W", "Z"}
    assert rows(found) == rows(read_jets(spark, str(folder / "c.root"), "jetclass", options))
    own = spark.read.format("jets").load(str(folder / "d.parquet"))
    assert sorted(row["jet_id"] for row in own.select("jet_id").collect()) == list(range(30))


def test_bad_jets_and_files_fail_unless_dropped(spark: SparkSession, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "bad.h5"
    layouts.write_hls4ml(path, *random_jets(20, seed=5))
    with h5py.File(path, "a") as file:
        file["jets"][7, 3] = np.nan
    with pytest.raises(Exception, match=r"row 7 is rejected \(not_finite: jet_mass is not finite\)"):
        read_jets(spark, str(path), "hls4ml").count()
    (tmp_path / "empty.h5").touch()
    with pytest.raises(DataError, match=r"empty\.h5: empty_file"):
        read_jets(spark, str(tmp_path), "hls4ml")
    assert read_jets(spark, str(tmp_path), "hls4ml", {"on_bad": "drop"}).count() == 19


def test_identifiers_that_files_bring_along_and_that_repeat_are_found(spark: SparkSession, tmp_path: Path) -> None:
    for name, first in (("a", 0), ("b", 28)):
        pq.write_table(jets_table(30, seed=first, first_id=first), tmp_path / f"{name}.parquet")
    jets = read_jets(spark, str(tmp_path), "parquet")
    assert sorted(map(tuple, repeated_jet_ids(jets).collect())) == [(28, 2), (29, 2)]


def test_wrong_options() -> None:
    with pytest.raises(ConfigError, match="did you mean 'radius'"):
        parse_options("lhco", {"path": "x", "radios": "1"})
    with pytest.raises(ConfigError, match="on_bad"):
        parse_options("lhco", {"path": "x", "on_bad": "ignore"})
    with pytest.raises(
        ConfigError, match=r"unknown option 'xyzzy'; known: .*radius.*on_bad, labels, salt, task_bytes, paths"
    ):
        parse_options("lhco", {"path": "x", "xyzzy": "1"})
    for paths in ("a,b", '"a"', "[1]", "[a"):
        with pytest.raises(ConfigError, match="JSON"):
            parse_options("lhco", {"paths": paths})
    with pytest.raises(UsageError, match="format 'hls4' is unknown; did you mean 'hls4ml'"):
        parse_options("hls4", {"path": "x"})
    with pytest.raises(UsageError, match="no path"):
        parse_options("lhco", {})
    source, settings, paths = parse_options("lhco", {"paths": '["a", "b"]', "radius": "0.8", "labels": '["signal"]'})
    assert (source.options.radius, settings.labels, paths) == (0.8, ("signal",), ["a", "b"])  # type: ignore[attr-defined]
