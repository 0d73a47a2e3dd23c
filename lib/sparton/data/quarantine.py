"""Rows and files that are set aside: where each came from and why, and how many of them are too many.

The quarantine is a Parquet table in the folder ``_quarantine`` of what a stage publishes; readers of the data skip it,
since its name starts with an underscore.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from sparton import storage
from sparton.errors import DataError

FOLDER = "_quarantine"

DEFAULT_MAX_REJECTED = 0.01

QUARANTINE_ARROW = pa.schema(
    [
        pa.field("file", pa.string(), nullable=False),
        pa.field("row", pa.int64()),
        pa.field("jet_id", pa.int64()),
        pa.field("reason", pa.string(), nullable=False),
        pa.field("detail", pa.string()),
        pa.field("sha256", pa.string()),
    ]
)
"""One row a rejected file or row: the file or table that it came from, its row there (from 0; null: the whole file),
the ``jet_id`` where it had one, the reason (one of the stage's documented words), what was found and expected, and
the SHA-256 (hex) of the file where a file was read."""


def rejected_rows(
    file: str,
    row: NDArray[np.int64] | None,
    reason: NDArray[np.str_],
    detail: NDArray[np.object_] | str | None = None,
    jet_id: NDArray[np.int64] | None = None,
    sha256: str | None = None,
) -> pa.RecordBatch:
    """Return the quarantine's rows for rows [n] of one file, whose reasons are ``reason`` [n].

    ``detail`` is common to them or one for each.
    """
    count = reason.size
    columns = [
        pa.repeat(pa.scalar(file), count),
        pa.nulls(count, pa.int64()) if row is None else pa.array(row, pa.int64()),
        pa.nulls(count, pa.int64()) if jet_id is None else pa.array(jet_id, pa.int64()),
        pa.array(reason.tolist(), pa.string()),
        pa.array(detail if isinstance(detail, np.ndarray) else [detail] * count, pa.string()),
        pa.repeat(pa.scalar(sha256, pa.string()), count),
    ]
    return pa.RecordBatch.from_arrays(columns, schema=QUARANTINE_ARROW)


def rejected_file(file: str, reason: str, detail: str, sha256: str | None = None) -> pa.RecordBatch:
    """Return the quarantine's row for a file of which nothing could be used."""
    return rejected_rows(file, None, np.array([reason]), detail, sha256=sha256)


def rejected_by_reason(folder: str) -> dict[str, int]:
    """Return the number of rows in a quarantine for each reason; the folder may be missing."""
    counts: Counter[str] = Counter()
    for path in storage.list_files(folder) if storage.is_folder(folder) else []:
        with storage.open_file(storage.join(folder, path)) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(columns=["reason"]):
                counts += Counter(batch.column("reason").to_pylist())
    return dict(counts)


def enforce_limit(
    rejected: Mapping[str, int],
    total: int,
    max_rejected: float,
    what: str,
    unit: str = "rows",
    example: str = "",
    option: str = "--max-rejected",
) -> None:
    """Check that no more than a fraction of the rows was rejected.

    Parameters
    ----------
    rejected
        Rejected rows by reason.
    total
        All rows, rejected ones included.
    max_rejected
        Largest fraction that is accepted.
    what
        What was read, for the message.
    unit
        What is counted.
    example
        One that was rejected, and why.
    option
        What raises the limit.

    Raises
    ------
    DataError
        Naming the reasons with their counts and the option that raises the limit.
    """
    count = sum(rejected.values())
    if count <= max_rejected * total:
        return
    reasons = ", ".join(f"{name} {number}" for name, number in sorted(rejected.items(), key=lambda item: -item[1]))
    first = f" The first is {example}." if example else ""
    raise DataError(
        f"{what}: {count} of {total} {unit} rejected ({reasons}), over the limit of {max_rejected:g} of them; "
        f"nothing was published.{first} Mend the input, or raise the limit with {option}"
    )
