"""One-line reasons for what fails in a task: Spark reports the whole stack of Java and Python."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from py4j.protocol import Py4JJavaError, Py4JNetworkError  # type: ignore[import-untyped]
from pyspark import SparkContext
from pyspark.errors import PySparkException

from sparton.errors import DataError

PYTHON_REASON = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*): (?P<reason>.+)$", re.MULTILINE)
UNREADABLE = re.compile(r"\[(?:FAILED_READ_FILE|CANNOT_READ_FILE_FOOTER)[^\]]*\].*?(?P<path>[\w-]+:/\S+?)[.,]?\s")
NOT_PARQUET = re.compile(r"(?P<path>[\w-]+:/\S+) is not a Parquet file")
OTHER_TYPE = re.compile(
    r"(?:reading|in) file (?P<path>\S+?)\.? .*?[Cc]olumn:? `?\[(?P<column>[^\]]*)\]`?[.,] "
    r"Expected(?: Spark type|:) (?P<expected>\w+), (?:actual Parquet type|Found:) (?P<found>\w+)"
)
JAVA_REASON = re.compile(r"^: [\w.$]+(?:Exception|Error): (?P<reason>.+)$", re.MULTILINE)
NO_CONNECTOR = re.compile(r"Class org\.apache\.hadoop\.fs\.\S+ not found|No FileSystem for scheme \S+")
NO_SPACE = "No space left on device"
LOST = re.compile(r"(?:ExecutorLostFailure|Python worker exited unexpectedly).*")
TRACEBACK = "Traceback (most recent call last):"
OWN_ERRORS = ("DataError", "SpartonError")
"""Errors whose text says all; the name of the class adds nothing."""


@contextlib.contextmanager
def executor_errors(action: str) -> Iterator[None]:
    """Turn the failure of a Spark job within the block into a :class:`DataError` with its reason.

    Parameters
    ----------
    action
        What was going on, for the message.

    Raises
    ------
    DataError
        With the last line of the Python traceback, or else the first line of Spark's own message.
    """
    try:
        yield
    except (PySparkException, Py4JJavaError) as error:
        raise DataError(f"{action}: {_reason(str(error))}") from error
    except (Py4JNetworkError, ConnectionError) as error:
        if not _driver_ended():
            raise
        raise DataError(
            f"{action}: Spark's own process (Java) has ended, killed or out of memory (spark.driver.memory); run again"
        ) from error


def _driver_ended() -> bool:
    """Tell whether the JVM that this process started is no more; False where another started it."""
    process = getattr(SparkContext._gateway, "proc", None)
    return process is not None and process.poll() is not None


def _reason(text: str) -> str:
    _, found, trace = text.partition(TRACEBACK)
    if found:
        # The traceback ends where Java's stack begins or, after a chained cause, with another traceback.
        for match in PYTHON_REASON.finditer(trace):
            if match["kind"].rpartition(".")[2] in OWN_ERRORS:
                return match["reason"].strip()
            return f"{match['kind']}: {match['reason'].strip()}"
    if other := OTHER_TYPE.search(text):
        path = re.sub(r"^file:/+", "/", other["path"])
        return (
            f"{path}: column {other['column']} is {other['found']}, expected {other['expected']} as in the files "
            "before it; write the file with that type"
        )
    if unreadable := UNREADABLE.search(text) or NOT_PARQUET.search(text):
        path = re.sub(r"^file:/+", "/", unreadable["path"])
        return f"{path}: cannot be read, it is damaged or not Parquet; restore the file or make it again"
    if missing := NO_CONNECTOR.search(text):
        return (
            f"{missing[0]}: Spark lacks Hadoop's connector for this storage (spark.jars.packages): hadoop-aws for "
            "s3a:// (write that for s3://), hadoop-azure for abfss://"
        )
    java = JAVA_REASON.search(text)
    line = java["reason"] if java else (text.strip() or "Spark gave no reason").splitlines()[0]
    if lost := LOST.search(line):
        return f"a task was lost, killed or out of memory, and no attempt is left: {lost[0]}"
    if NO_SPACE in line:  # Java does not say where
        return f"{NO_SPACE}, of the output or of Spark's scratch folders (spark.local.dir, SPARK_LOCAL_DIRS)"
    return line
