"""Columns of the tables that pass between stages, for Arrow and for Spark.

Units are GeV and radians, phi in [-pi, pi). The Spark schemas are derived from the Arrow ones, so each column is
written down once.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from sparton.errors import DataError

JETS_ARROW = pa.schema(
    [
        pa.field("jet_id", pa.int64(), nullable=False),
        pa.field("event_id", pa.int64(), nullable=False),
        pa.field("jet_pt", pa.float32()),
        pa.field("jet_eta", pa.float32()),
        pa.field("jet_phi", pa.float32()),
        pa.field("jet_mass", pa.float32()),
        pa.field("px", pa.list_(pa.float32())),
        pa.field("py", pa.list_(pa.float32())),
        pa.field("pz", pa.list_(pa.float32())),
        pa.field("energy", pa.list_(pa.float32())),
        pa.field("pdg_id", pa.list_(pa.int32())),
        pa.field("n_constituents", pa.int32()),
        pa.field("label", pa.string()),
        pa.field("source", pa.string()),
    ]
)
"""One row a jet; the list columns hold its constituents by falling pT."""

TRAINING_ARROW = pa.schema(
    [
        pa.field("jet_id", pa.int64(), nullable=False),
        pa.field("features", pa.binary()),
        pa.field("n_particles", pa.int16()),
        pa.field("n_constituents", pa.int32()),
        pa.field("target", pa.int32()),
        pa.field("jet_mass", pa.float32()),
        pa.field("label", pa.string()),
    ]
)
"""One row a jet; ``features`` is little-endian float32 [n_particles slots, n_features], zero on padding.

``n_particles`` counts the particles in the tensor, ``n_constituents`` those of the jet, which may be more."""

TABLE_ARROW = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("features", pa.binary()),
        pa.field("target", pa.float32()),
        pa.field("weight", pa.float32()),
    ]
)
"""One row of a plain table; ``features`` is little-endian float32 [n_features], ``target`` may be null."""

ASSIGNMENTS_ARROW = pa.schema(
    [
        pa.field("jet_id", pa.int64(), nullable=False),
        pa.field("cluster", pa.int32()),
        pa.field("distance", pa.list_(pa.float32())),
        pa.field("score", pa.float32()),
        pa.field("embedding", pa.list_(pa.float32())),
    ]
)
"""One row a jet; ``distance`` to every centroid, ``score`` the distance to the nearest (large = unusual)."""

TABLE_ASSIGNMENTS_ARROW = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("cluster", pa.int32()),
        pa.field("distance", pa.list_(pa.float32())),
        pa.field("score", pa.float32()),
    ]
)
"""One row of a plain table; ``distance`` to every centroid (or null), ``score`` the distance to the nearest."""

TABLE_TYPICALITIES_ARROW = pa.schema(
    [
        *TABLE_ASSIGNMENTS_ARROW,
        pa.field("typicality", pa.list_(pa.float32())),
        pa.field("noise", pa.bool_()),
    ]
)
"""The same by possibilistic clusters: ``score`` is minus the logarithm of the largest of the typicalities, which are
null where ``distance`` is; ``noise`` tells whether that is too small, ``cluster`` is the most typical one all the same.
"""

JETS_SCHEMA: StructType = from_arrow_schema(JETS_ARROW)
TRAINING_SCHEMA: StructType = from_arrow_schema(TRAINING_ARROW)
ASSIGNMENTS_SCHEMA: StructType = from_arrow_schema(ASSIGNMENTS_ARROW)


def require_columns(found: Iterable[str], expected: Iterable[str], table: str) -> None:
    """Check that a table has the columns that a stage reads.

    Raises
    ------
    DataError
        Naming the missing columns, those found and the table.
    """
    present = list(found)
    missing = [column for column in expected if column not in present]
    if missing:
        raise DataError(
            f"{table}: missing column(s) {', '.join(missing)}; found {', '.join(present)}. "
            "The table must have the columns that the stage reads"
        )
