"""The session: what was submitted counts, else what the settings of this session say."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
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


WAITING = """
import time
from sparton.pipeline.session import SparkSettings, spark_session

def slow(batches):
    time.sleep(120)
    yield from batches

session = spark_session(SparkSettings(master="local[1]"), "interrupted")
print("ready", flush=True)
try:
    session.range(1).mapInArrow(slow, "id long").collect()
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""


def test_ctrl_c_ends_a_job_as_an_interruption() -> None:
    """PySpark's own handler would ask on the connection that waits for the job, and fail there."""
    running = subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert running.stdout is not None
    try:
        assert running.stdout.readline() == "ready\n"
        time.sleep(3)  # until the job runs; before that there is none to cancel, which must end as well
        os.killpg(running.pid, signal.SIGINT)
        said, _ = running.communicate(timeout=60)
    finally:
        running.kill()
    assert (said, running.returncode) == ("interrupted\n", 0)
