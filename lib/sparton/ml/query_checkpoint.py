"""The checkpoint that Spark keeps of a streaming query: whose it is, and how far it is said to be.

Spark writes ``offsets/N`` before it hands out the micro-batch N and ``commits/N`` after it; begun anew, it repeats the
last batch that has the first and not the second.
"""

from __future__ import annotations

import logging

from sparton import storage

METADATA, OFFSETS, COMMITS = "metadata", "offsets", "commits"

logger = logging.getLogger(__name__)


def query_of(checkpoint: str) -> str | None:
    """Return the identity of the query that a checkpoint belongs to; None where there is no checkpoint."""
    path = storage.join(checkpoint, METADATA)
    return str(storage.read_json(path)["id"]) if storage.exists(path) else None


def committed(checkpoint: str) -> int:
    """Return the number of the last micro-batch that Spark takes for done; -1 where there is none."""
    return max(_batches(checkpoint, COMMITS), default=-1)


def planned(checkpoint: str) -> int:
    """Return the number of the last micro-batch whose rows Spark has decided on; -1 where there is none."""
    return max(_batches(checkpoint, OFFSETS), default=-1)


def roll_back(checkpoint: str, batch: int) -> None:
    """Let Spark go on after ``batch``, which it has handed out before: it hands out again what came after it."""
    logger.warning(
        "%s: Spark has done batch %d, the last sound state is that of batch %d; going on from there",
        checkpoint,
        committed(checkpoint),
        batch,
    )
    # Commits go last: as long as one is left, an interrupted call is repeated. A checksum without its file would keep
    # Spark from writing that file.
    for kind, last in ((OFFSETS, batch + 1), (COMMITS, batch)):
        for number in sorted(_batches(checkpoint, kind), reverse=True):
            if number > last:
                for name in (f".{number}.crc", str(number)):
                    storage.remove(storage.join(checkpoint, kind, name))


def _batches(checkpoint: str, kind: str) -> list[int]:
    return [int(name) for name in storage.list_files(storage.join(checkpoint, kind)) if name.isdecimal()]
