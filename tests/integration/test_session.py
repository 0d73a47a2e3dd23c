"""The session under spark-submit: what was submitted counts."""

from __future__ import annotations

import subprocess
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
