"""Sorting outside memory: a session that must spill writes the same bytes as one that need not."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from sparton.data.manifest import read_set
from sparton.data.settings import TableSettings
from sparton.data.source_files import find_sources, read_sources
from sparton.data.tables import write_table_set

if TYPE_CHECKING:
    from pyspark.sql import SparkSession

ROWS = 4000
SETTINGS = TableSettings(rows_per_shard=500, splits={"train": 1.0})

SPILLING = """
import json, sys
from sparton.data.settings import TableSettings
from sparton.data.source_files import find_sources, read_sources
from sparton.data.tables import write_table_set
from sparton.pipeline.session import SparkSettings, spark_session
table, folder, settings = sys.argv[1:]
conf = {"spark.shuffle.spill.numElementsForceSpillThreshold": "300", "spark.local.dir": folder + "-spill"}
spark = spark_session(SparkSettings(master="local[2]", conf=conf), "spilling")
sources = find_sources(spark, table)
write_table_set(spark, read_sources(spark, table, sources), TableSettings(**json.loads(settings)), folder, {},
                sources, table)
context = spark.sparkContext
stages = context._jsc.sc().statusStore().stageList(
    None, False, False, context._gateway.new_array(context._jvm.double, 0), None)
print("spilled", sum(stages.apply(index).diskBytesSpilled() for index in range(stages.size())))
spark.stop()
"""


def test_a_session_that_spills_writes_the_same_set(spark: SparkSession, tmp_path: Path) -> None:
    (tmp_path / "table").mkdir()
    values = np.random.default_rng(0).standard_normal((6, ROWS)).astype(np.float32)
    pq.write_table(pa.table({f"x{index}": column for index, column in enumerate(values)}), tmp_path / "table" / "a")
    arguments = [str(tmp_path / "table"), str(tmp_path / "spilled"), json.dumps(SETTINGS.model_dump(mode="json"))]
    ended = subprocess.run([sys.executable, "-c", SPILLING, *arguments], capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stderr[-2000:]
    spilled = [line for line in ended.stdout.splitlines() if line.startswith("spilled")]
    assert int(spilled[0].split()[1]) > 0
    sources = find_sources(spark, str(tmp_path / "table"))
    rows = read_sources(spark, str(tmp_path / "table"), sources)
    made = write_table_set(spark, rows, SETTINGS, str(tmp_path / "set"), {}, sources, str(tmp_path / "table"))
    assert read_set(str(tmp_path / "spilled")).splits == made.splits
    assert made.rows("train") == ROWS
