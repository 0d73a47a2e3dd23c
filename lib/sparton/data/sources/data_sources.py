"""Python data sources of Spark 4 and later; import it through :mod:`sparton.data.sources.spark_sources`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import ClassVar

import pyarrow as pa
from pyspark.sql.datasource import DataSource, DataSourceReader, InputPartition
from pyspark.sql.pandas.types import from_arrow_schema
from pyspark.sql.types import StructType

from sparton.data.ingest_plan import Part
from sparton.data.sources.reading import ReadPlan, examine_here, parse_options, plan_read, read_task
from sparton.data.sources.table import table_schema

PLANNED_SLOTS = 16
"""Partitions are planned without knowing the cluster: for this many tasks at a time."""


@dataclass
class _Partition(InputPartition):
    parts: tuple[Part, ...]


class _Reader(DataSourceReader):
    def __init__(self, plan: ReadPlan) -> None:
        self._plan = plan

    def partitions(self) -> Sequence[InputPartition]:
        return [_Partition(parts) for parts in self._plan.tasks]

    def read(self, partition: InputPartition | None) -> Iterator[pa.RecordBatch]:
        # Spark passes None where there is no partition at all.
        return read_task(self._plan, partition.parts if isinstance(partition, _Partition) else ())


class JetsDataSource(DataSource):
    """Jets of one format; subclasses name it."""

    format_name: ClassVar[str]

    @classmethod
    def name(cls) -> str:
        """Return the name for ``spark.read.format``."""
        return cls.format_name

    def schema(self) -> StructType:
        """Return the columns of the jets table and the further ones that the options name."""
        source, _, _ = parse_options(self.format_name, self.options)
        return from_arrow_schema(table_schema(source.extra_columns))

    def reader(self, schema: StructType) -> DataSourceReader:
        """Examine the files (each is read once for its checksum) and plan the partitions."""
        source, settings, paths = parse_options(self.format_name, self.options)
        return _Reader(plan_read(source, settings, examine_here(source, paths), PLANNED_SLOTS))


class Hls4mlDataSource(JetsDataSource):
    """``hls4ml``."""

    format_name = "hls4ml"


class LhcoDataSource(JetsDataSource):
    """``lhco``."""

    format_name = "lhco"


class TopTaggingDataSource(JetsDataSource):
    """``toptagging``."""

    format_name = "toptagging"


class JetClassDataSource(JetsDataSource):
    """``jetclass``."""

    format_name = "jetclass"


class PfNanoDataSource(JetsDataSource):
    """``pfnano``."""

    format_name = "pfnano"


class FlatDataSource(JetsDataSource):
    """``flat``."""

    format_name = "flat"


class ParquetJetsDataSource(JetsDataSource):
    """``jets``: the format ``parquet``, whose name Spark keeps for its own."""

    format_name = "parquet"

    @classmethod
    def name(cls) -> str:
        """Return the name for ``spark.read.format``."""
        return "jets"


DATA_SOURCES: tuple[type[JetsDataSource], ...] = (
    Hls4mlDataSource,
    LhcoDataSource,
    TopTaggingDataSource,
    JetClassDataSource,
    PfNanoDataSource,
    FlatDataSource,
    ParquetJetsDataSource,
)
