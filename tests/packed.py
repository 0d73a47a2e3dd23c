"""What travels through the exchange, unpacked."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql.functions import spark_partition_id

from sparton.data.encoder import Encoder
from sparton.data.packing import in_order, packed_schema

if TYPE_CHECKING:
    from pyspark.sql import DataFrame


def partitions_of(
    exchanged: DataFrame, encoder: Encoder, stored: bool = False, located: bool = False
) -> list[pa.Table]:
    """Return the rows that arrive in each partition, which must be those of one group, in their order."""
    blobs: dict[int, list[pa.Buffer]] = {}
    groups: dict[int, set[int]] = {}
    for row in exchanged.withColumn("partition", spark_partition_id()).collect():
        blobs.setdefault(row["partition"], []).append(pa.py_buffer(bytes(row["rows"])))
        groups.setdefault(row["partition"], set()).add(row["group"])
    assert all(len(found) == 1 for found in groups.values())
    assert len(set.union(*groups.values())) == len(groups)
    schema = packed_schema(encoder, stored, located)
    order = sorted(blobs, key=lambda partition: min(groups[partition]))
    return [pa.Table.from_batches(in_order(blobs[partition], schema), schema) for partition in order]
