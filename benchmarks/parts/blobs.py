"""Gaussian clouds: the table that methods of clustering are compared on, in memory and as Parquet files."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

DEVIATION = 2.0
HALF_WIDTH = 10.0
FILES = 8
ROWS_PER_GROUP = 250_000


@dataclass(frozen=True)
class Blobs:
    """``rows`` rows of ``features`` in ``clusters`` clouds of variance 4, whose centres fill [-10, 10]^d."""

    rows: int
    features: int
    clusters: int
    seed: int = 0

    @property
    def names(self) -> list[str]:
        """Columns of the table."""
        return [f"x{number}" for number in range(self.features)]

    def values(self) -> NDArray[np.float32]:
        """Return the rows in random order, float32 [n, d]."""
        rng = np.random.default_rng(self.seed)
        centers = rng.uniform(-HALF_WIDTH, HALF_WIDTH, (self.clusters, self.features)).astype(np.float32)
        values = rng.standard_normal((self.rows, self.features), np.float32)
        values *= np.float32(DEVIATION)
        values += centers[rng.integers(0, self.clusters, self.rows)]
        return values

    def write(self, folder: Path, values: NDArray[Any]) -> None:
        """Write rows as Parquet files, a column for each feature."""
        folder.mkdir(parents=True)
        limits = np.linspace(0, self.rows, FILES + 1).astype(int)
        for number in range(FILES):
            part = values[limits[number] : limits[number + 1]]
            table = pa.table([np.ascontiguousarray(column) for column in part.T], names=self.names)
            pq.write_table(
                table, folder / f"part-{number:03d}.parquet", use_dictionary=False, row_group_size=ROWS_PER_GROUP
            )
        os.sync()  # else the disk is busy while whoever reads first is timed
