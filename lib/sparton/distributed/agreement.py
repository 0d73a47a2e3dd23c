"""A cheap proof that all ranks hold the same model: bit-exact fingerprints of every variable, compared.

And before it that they were given the same: settings come from the configuration of each process, and data from what
each host finds at the same path.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sparton.distributed.world import Connection
from sparton.errors import TrainingError, WorkerError

FINGERPRINT_BYTES = 8  # variables that differ have equal fingerprints once in 2^64 cases


def check(connection: Connection, variables: Mapping[str, Any] | Sequence[Any]) -> None:
    """Raise unless all ranks hold bit-equal variables; one small exchange, and none with a single rank.

    Parameters
    ----------
    connection
        The world and its collectives; every rank must call.
    variables
        Arrays, tensors or variables (TensorFlow's or Keras') by name, or a sequence of variables, which are named by
        their ``path`` or ``name``.

    Raises
    ------
    WorkerError
        Naming the first variable that differs and the ranks that differ from rank 0.
    """
    if connection.world.size == 1:
        return
    named = variables if isinstance(variables, Mapping) else _named(variables)
    own = np.array([len(named), *(fingerprint(name, value) for name, value in named.items())], np.int64)
    rows = _rows(connection.collectives.allgather(own))
    differing = {rank: _differences(rows[0], row) for rank, row in enumerate(rows) if not np.array_equal(row, rows[0])}
    if differing:
        raise WorkerError(_describe(list(named), differing))


def check_given(connection: Connection, given: Mapping[str, str]) -> None:
    """Raise unless all ranks were given the same; one small exchange, and none with a single rank.

    Parameters
    ----------
    connection
        The world and its collectives; every rank must call.
    given
        Fingerprints, or short texts, by the words for what they are of; equally many in equal order on all ranks.

    Raises
    ------
    TrainingError
        Naming the first that differs and the ranks that differ from rank 0.
    """
    if connection.world.size == 1:
        return
    own = np.array([[fingerprint("", value) for value in given.values()]], np.int64)
    rows = connection.collectives.allgather(own)
    for name, column in zip(given, rows.T, strict=True):
        ranks = np.flatnonzero(column != column[0]).tolist()
        if ranks:
            raise TrainingError(
                f"{name} of ranks {ranks} differs from that of rank 0; all processes must be started with one "
                "configuration and find the same files at each path"
            )


def fingerprint(name: str, value: Any) -> int:
    """Return 64 bits (as a signed integer) of the hash of a variable's name, type, shape and bytes."""
    array = _array(value)
    header = f"{name}|{array.dtype}|{array.shape}|".encode()
    digest = hashlib.blake2b(header + array.tobytes(), digest_size=FINGERPRINT_BYTES).digest()
    return int.from_bytes(digest, "little", signed=True)


def _array(value: Any) -> NDArray[Any]:
    return np.asarray(value.numpy() if hasattr(value, "numpy") else value)


def _named(variables: Sequence[Any]) -> dict[str, Any]:
    """Name variables by path; equal names get their position, so that none is lost."""
    names = [str(getattr(variable, "path", None) or variable.name) for variable in variables]
    unique = [name if names.count(name) == 1 else f"{name} (number {index})" for index, name in enumerate(names)]
    return dict(zip(unique, variables, strict=True))


def _rows(gathered: NDArray[Any]) -> list[NDArray[Any]]:
    """Cut the gathered vector into the ranks' own, each of which starts with its count."""
    rows, start = [], 0
    while start < len(gathered):
        end = start + 1 + int(gathered[start])
        rows.append(gathered[start + 1 : end])
        start = end
    return rows


def _differences(reference: NDArray[Any], row: NDArray[Any]) -> list[int]:
    common = min(len(reference), len(row))
    differing = np.flatnonzero(reference[:common] != row[:common]).tolist()
    return [*differing, *range(common, max(len(reference), len(row)))]


def _describe(names: list[str], differing: dict[int, list[int]]) -> str:
    first = min(indices[0] for indices in differing.values())
    ranks = [rank for rank, indices in differing.items() if first in indices]
    count = len({index for indices in differing.values() for index in indices})
    name = names[first] if first < len(names) else f"number {first} (unknown to this rank)"
    return (
        f"variable {name!r} on ranks {ranks} differs from rank 0 ({count} of {len(names)} variables differ): "
        "the ranks no longer hold one model; resume from the last checkpoint"
    )
