"""One line for what fails in a task."""

from __future__ import annotations

import re

import pytest
from pyspark.errors import PySparkException

from sparton.data.executors import executor_errors
from sparton.errors import DataError

PYTHON = """[UDF] Job aborted.
Traceback (most recent call last):
  File "x.py", line 3, in read
    raise DataError("b.h5: no jets")
sparton.errors.DataError: b.h5: no jets

\tat org.apache.spark.api.python.BasePythonRunner
"""
JAVA = """Job aborted due to stage failure: Task 0 failed 1 times, last: Lost task 0.0 (host executor driver):
org.apache.spark.SparkException: [FAILED_READ_FILE.NO_HINT] Encountered error while reading file {url}.  SQLSTATE: KD001
\tat org.apache.spark.sql.errors.QueryExecutionErrors$.cannotReadFilesError
"""
LOST = """An error occurred while calling o62.collectToPython.
: org.apache.spark.SparkException: Job aborted due to stage failure: Task 0 in stage 0.0 failed 4 times, most recent \
failure: Lost task 0.0 in stage 0.0 (TID 0) (127.0.0.1 executor 0): {cause}
Driver stacktrace:
\tat org.apache.spark.scheduler.DAGScheduler.abortStage(DAGScheduler.scala:2935)
"""
EXECUTOR = "ExecutorLostFailure (executor 0 exited caused by one of the running tasks) Reason: exited with code 137"
WORKER = "org.apache.spark.SparkException: Python worker exited unexpectedly (crashed). Consider setting"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (LOST.format(cause=EXECUTOR), f"reading: a task was lost, .* no attempt is left: {re.escape(EXECUTOR)}$"),
        (LOST.format(cause=WORKER), "reading: a task was lost, .* left: Python worker exited unexpectedly"),
        (LOST.format(cause="java.io.IOException: No space left on device"), "reading: No space left .*spark.local.dir"),
        (
            "x\n: java.lang.RuntimeException: Class org.apache.hadoop.fs.s3a.S3AFileSystem not found",
            "lacks .* hadoop-aws",
        ),
        ('No FileSystem for scheme "s3"\nat x', 'reading: No FileSystem for scheme "s3": Spark lacks'),
        (LOST.format(cause="java.io.IOException: x"), "reading: Job aborted due to stage failure: .*IOException: x"),
        (PYTHON, "reading: b.h5: no jets"),
        (PYTHON.replace("DataError: b.h5: no jets", "SpartonError: needs fastjet"), "reading: needs fastjet"),
        (JAVA.format(url="file:///data/part-0.parquet"), "reading: /data/part-0.parquet: cannot be read"),
        (JAVA.format(url="s3a://bucket/a.b/part-0.parquet"), "reading: s3a://bucket/a.b/part-0.parquet: cannot be"),
        (
            LOST.format(cause="java.lang.RuntimeException: file:/d/2.parquet is not a Parquet file (length is 7)"),
            "reading: /d/2.parquet: cannot be read",
        ),
        (
            "[CANNOT_READ_FILE_FOOTER] Could not read footer: file:/d/p.parquet. SQLSTATE",
            "/d/p.parquet: cannot",
        ),
        (
            "[FAILED_READ_FILE.PARQUET_COLUMN_DATA_TYPE_MISMATCH] Encountered error while reading file "
            "file:///d/a.b.parquet. Data type mismatches when reading Parquet column `[a]`. Expected Spark type "
            "double, actual Parquet type BINARY. SQLSTATE: KD001",
            r"reading: /d/a\.b\.parquet: column a is BINARY, expected double",
        ),
        (
            "Parquet column cannot be converted in file file:///d/a.parquet. "
            "Column: [a], Expected: double, Found: INT32.",
            r"reading: /d/a\.parquet: column a is INT32, expected double",
        ),
        ("Out of memory\nat x", "reading: Out of memory"),
        ("", "Spark gave no reason"),
    ],
)
def test_reason_is_one_line(text: str, reason: str) -> None:
    with pytest.raises(DataError) as caught, executor_errors("reading"):
        raise PySparkException(text)
    assert re.search(reason, str(caught.value))
    assert len(str(caught.value).splitlines()) == 1
