"""Identifiers of ingested jets and of rows of plain tables: a function of the file's content and the row alone.

From the leading bit: the sign (0), the mark of an ingested row (1, which generated tables never have), 32 bits of the
file's SHA-256, 24 bits of the row and 6 of the jet in its row. Where a row is a jet, those 30 are all the row's. As
long as no two files share their bits, no two rows share an identifier; where two would, one gets others (``turn``).
"""

from __future__ import annotations

import hashlib

import numpy as np
from numpy.typing import NDArray

FILE_BITS = 32
PLACE_BITS = 6
ROW_BITS = 30
MARK = 1 << 62


def file_bits(sha256: str, salt: int = 0, turn: int = 0) -> int:
    """Return the bits that stand for a file with this SHA-256 (hex): others with each salt, and in each turn."""
    salted = hashlib.sha256(f"{sha256}/{salt}".encode()).hexdigest() if salt else sha256
    drawn = hashlib.sha256(f"{salted}#{turn}".encode()).hexdigest() if turn else salted
    return int(drawn[: FILE_BITS // 4], 16)


def max_rows(several: bool) -> int:
    """Return how many rows a file may have; ``several`` tells whether a row may hold several jets."""
    return 1 << (ROW_BITS - PLACE_BITS if several else ROW_BITS)


def identifiers(
    bits: int, row: NDArray[np.int64], place: NDArray[np.int64], several: bool
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return (jet_id, event_id), int64[n] each, all positive; an event's id is that of its first jet."""
    event = of_rows(bits, row << PLACE_BITS if several else row)
    return event + place if several else event, event


def of_rows(bits: int | NDArray[np.int64], row: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the identifiers of rows int64[n] below ``2 ** ROW_BITS`` of the files that ``bits`` stand for."""
    return MARK | bits << ROW_BITS | row
