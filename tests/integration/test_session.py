"""The session: what was submitted counts, else what the settings of this session say."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

SCRIPT = """
from sparton.pipeline.session import SparkSettings, spark_session

session = spark_session(SparkSettings(master="local[2]", conf={"spark.sql.shuffle.partitions": "3"}), "test")
for key in ("spark.master", "spark.sql.session.timeZone", "spark.sql.shuffle.partitions"):
    print("found", session.conf.get(key))
session.stop()
"""


def test_what_was_submitted_wins_over_defaults_and_the_configured_master(tmp_path: Path) -> None:
    (tmp_path / "job.py").write_text(SCRIPT)
    submitted = ["--conf", "spark.sql.session.timeZone=Asia/Tokyo", "--conf", "spark.sql.shuffle.partitions=9"]
    command = ["spark-submit", "--master", "local[1]", *submitted, str(tmp_path / "job.py")]
    run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    found = [line.removeprefix("found ") for line in run.stdout.splitlines() if line.startswith("found ")]
    assert found == ["local[1]", "Asia/Tokyo", "3"]


TWO_SESSIONS = """
from sparton.pipeline.session import SparkSettings, spark_session

for master in ("local[1]", "local[2]"):
    session = spark_session(SparkSettings(master=master), "test")
    print("found", session.conf.get("spark.master"), session.sparkContext.defaultParallelism)
    session.stop()
"""


def test_a_second_session_of_a_process_has_its_own_master(tmp_path: Path) -> None:
    run = subprocess.run([sys.executable, "-c", TWO_SESSIONS], capture_output=True, text=True, check=False, timeout=300)
    assert run.returncode == 0, run.stderr
    found = [line.removeprefix("found ") for line in run.stdout.splitlines() if line.startswith("found ")]
    assert found == ["local[1] 1", "local[2] 2"]
