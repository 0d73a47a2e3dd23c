"""The errors that a user can cause or meet, each with the exit status its command ends with.

A message names what was wrong (file, column or option), what was found, what was expected and the way out.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class SpartonError(Exception):
    """A failure with a one-line reason; commands end with :attr:`exit_status`."""

    exit_status = 1


class UsageError(SpartonError):
    """The command line or a call was wrong (unknown option, missing input, contradicting arguments)."""

    exit_status = 2


class ConfigError(UsageError):
    """A configuration file or override holds an unknown key or a value out of range."""


class DataError(SpartonError):
    """Input data, a manifest or a checksum is not what the contract says."""


class RulesError(SpartonError):
    """A table does not keep the rules of the configuration; ``folder`` holds the outcome of each."""

    exit_status = 3

    def __init__(self, message: str, folder: str) -> None:
        super().__init__(message)
        self.folder = folder


class TrainingError(SpartonError):
    """Training cannot go on: a loss is not finite, a worker failed or slots are missing."""


class WorkerError(TrainingError):
    """A worker was lost, did not start, waited in vain or differs from the others: a new start may go well."""


REPEATED = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    ImportError,
    LookupError,
    NameError,
    SyntaxError,
    TypeError,
    ValueError,
)
"""Errors of a program, which happen again when it runs again."""


def is_mendable(error: BaseException) -> bool:
    """Tell whether what failed may go well when it is tried again: bad settings, bad data and bugs do not."""
    if isinstance(error, SpartonError):
        return isinstance(error, WorkerError)
    return isinstance(error, Exception) and not isinstance(error, REPEATED)


@contextlib.contextmanager
def naming(path: str) -> Iterator[None]:
    """Let errors of the system that do not say which file they are about (a full disk does not) name ``path``."""
    try:
        yield
    except OSError as error:
        if error.errno is not None and error.filename is None:
            error.filename = path
        raise
