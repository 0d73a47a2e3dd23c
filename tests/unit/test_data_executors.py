"""One line for what fails in a task."""

from __future__ import annotations

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


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (PYTHON, "reading: b.h5: no jets"),
        (PYTHON.replace("DataError: b.h5: no jets", "SpartonError: needs fastjet"), "reading: needs fastjet"),
        (JAVA.format(url="file:///data/part-0.parquet"), "reading: /data/part-0.parquet: cannot be read"),
        (JAVA.format(url="s3a://bucket/a.b/part-0.parquet"), "reading: s3a://bucket/a.b/part-0.parquet: cannot be"),
        (
            "[CANNOT_READ_FILE_FOOTER] Could not read footer: file:/d/p.parquet. SQLSTATE",
            "/d/p.parquet: cannot",
        ),
        ("Out of memory\nat x", "reading: Out of memory"),
        ("", "Spark gave no reason"),
    ],
)
def test_reason_is_one_line(text: str, reason: str) -> None:
    with pytest.raises(DataError) as caught, executor_errors("reading"):
        raise PySparkException(text)
    assert reason in str(caught.value)
    assert len(str(caught.value).splitlines()) == 1
