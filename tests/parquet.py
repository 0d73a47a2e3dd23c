"""Parquet files as other programs than pyarrow write them."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

KEY, ASIDE, UNUSED = b"ARROW:schema", b"ARROW.schema", b"ARROW,schema"


def write_fixed(path: Path, columns: Mapping[str, Any], kinds: Mapping[str, pa.DataType], group: int = 1000) -> None:
    """Write columns whose footer says that some are of other types of Arrow's, which pyarrow does not write so."""
    table = pa.table(dict(columns))
    told = pa.schema([field.with_type(kinds.get(field.name, field.type)) for field in table.schema])
    noted = table.replace_schema_metadata({ASIDE: base64.b64encode(told.serialize().to_pybytes())})
    pq.write_table(noted, path, row_group_size=group)
    path.write_bytes(path.read_bytes().replace(KEY, UNUSED).replace(ASIDE, KEY))
