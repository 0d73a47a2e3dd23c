"""Footers of a folder's Parquet files: rows and columns, and what is wrong with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from sparton import storage

THREADS = 16  # footers wait for the storage, not for the processor


@dataclass(frozen=True)
class Footer:
    """Rows and columns of one file, or why it cannot be read."""

    path: str
    rows: int = 0
    schema: pa.Schema | None = None
    problem: str = ""


def read_footers(folder: str, files: Sequence[str]) -> list[Footer]:
    """Read the footers of files, whose paths are relative to the folder."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(lambda path: _footer(storage.join(folder, path)), files))


def footer_problems(footers: Sequence[Footer], expected_rows: Mapping[str, int]) -> list[str]:
    """Return one line for each file that is unreadable, has other columns than the first or other rows than expected.

    ``expected_rows`` are those of full paths; files that are not in it may have any number.
    """
    problems = [footer.problem for footer in footers if footer.problem]
    readable = [footer for footer in footers if footer.schema is not None]
    for footer in readable:
        if footer.schema != readable[0].schema:
            problems.append(f"{footer.path}: columns differ from those of {readable[0].path}")
        expected = expected_rows.get(footer.path, footer.rows)
        if footer.rows != expected:
            problems.append(f"{footer.path}: {footer.rows} rows, expected {expected}")
    return problems


def _footer(path: str) -> Footer:
    try:
        with storage.open_file(path) as stream:
            metadata = pq.read_metadata(stream)
            return Footer(path, metadata.num_rows, metadata.schema.to_arrow_schema())
    except (OSError, ValueError) as error:
        return Footer(path, problem=f"{path}: not readable as Parquet ({' '.join(str(error).split())})")
