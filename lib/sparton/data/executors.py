"""One-line reasons for what fails in a task: Spark reports the whole stack of Java and Python."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator

from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
from pyspark.errors import PySparkException

from sparton.errors import DataError

PYTHON_REASON = re.compile(r"^(?P<kind>[A-Za-z_][\w.]*): (?P<reason>.+)$", re.MULTILINE)
UNREADABLE = re.compile(r"\[(?:FAILED_READ_FILE|CANNOT_READ_FILE_FOOTER)[^\]]*\].*?(?P<path>[\w-]+:/\S+?)[.,]?\s")
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


def _reason(text: str) -> str:
    _, found, trace = text.partition(TRACEBACK)
    if found:
        # The traceback ends where Java's stack begins or, after a chained cause, with another traceback.
        for match in PYTHON_REASON.finditer(trace):
            if match["kind"].rpartition(".")[2] in OWN_ERRORS:
                return match["reason"].strip()
            return f"{match['kind']}: {match['reason'].strip()}"
    if unreadable := UNREADABLE.search(text):
        path = re.sub(r"^file:/+", "/", unreadable["path"])
        return f"{path}: cannot be read, it is damaged or not Parquet; restore the file or make it again"
    return text.strip().splitlines()[0] if text.strip() else "Spark gave no reason"
