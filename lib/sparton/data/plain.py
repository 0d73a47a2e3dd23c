"""A table of Parquet files as they are, for Spark's tasks: its rows are checked as ``prepare`` checks them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
from pyspark import TaskContext

from sparton import storage
from sparton.data.encoder import FILE, ROW
from sparton.data.quarantine_writer import Quarantine, quarantine_file
from sparton.data.rows import Rows, rows_from
from sparton.data.schema import TABLE_ARROW
from sparton.data.settings import TableSettings
from sparton.data.source_files import (
    Source,
    checksums,
    file_codes,
    find_sources,
    read_sources,
    require_unchanged,
)
from sparton.data.table_encoder import TableEncoder
from sparton.data.tables import encoder_of, value_names, wanted_columns

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

ARRAY_VALUE = re.compile(r"(?P<array>.*)\[0\]")
"""How a feature is named that is the first value of an array column."""


def naming(settings: TableSettings, names: Sequence[str]) -> TableSettings:
    """Return settings that take features of these names: columns, or all values of one array column."""
    first = ARRAY_VALUE.fullmatch(names[0])
    if first and tuple(names) == value_names(first["array"], len(names)):
        return settings.model_copy(update={"columns": None, "array": first["array"], "length": len(names)})
    return settings.model_copy(update={"columns": tuple(names), "array": None, "length": None})


@dataclass(frozen=True)
class PlainTable:
    """The rows of a table, and what reads them.

    Attributes
    ----------
    folder, sources
        The table, and its files.
    """

    folder: str
    sources: tuple[Source, ...]
    _rows: Rows
    _encoder: TableEncoder

    @property
    def total(self) -> int:
        """Rows of all files."""
        return sum(source.file.rows for source in self.sources)

    @classmethod
    def open(
        cls, spark: SparkSession, folder: str, settings: TableSettings, names: Sequence[str], known: Mapping[str, str]
    ) -> PlainTable:
        """Return a table of which features of these names are read.

        Parameters
        ----------
        spark
            The session whose executors read.
        folder
            Folder of Parquet files.
        settings
            Names of the id, the target and the weight in it; ids are made as ``prepare`` makes them where it has none.
        names
            Features, in this order: columns, or ``name[0]``, ``name[1]`` ... of an array column.
        known
            SHA-256 (hex) of files by relative path, where a record of them exists.

        Raises
        ------
        DataError
            If there are no files, one is not readable as Parquet, or a column is missing or not numeric.
        """
        sources = find_sources(spark, folder, known)
        stored = read_sources(spark, folder, sources)
        codes = {} if settings.id else file_codes(folder, sources)
        encoder = encoder_of(tuple(names), naming(settings, names), codes)
        rows = rows_from(stored, wanted_columns(stored.schema, encoder))
        return cls(folder, tuple(sources), rows, encoder)

    def sound(self, quarantine_folder: str | None = None) -> DataFrame:
        """Return the rows that can be used, with the columns of a table set; the others go to a quarantine."""
        quarantine = None
        if quarantine_folder is not None:
            quarantine = Quarantine(storage.join(quarantine_folder, "0000"), checksums(self.folder, self.sources))
        task = partial(_sound, encoder=self._encoder, quarantine=quarantine)
        return self._rows.mapped((*self._encoder.columns, FILE, ROW), task, TABLE_ARROW)

    def require_unchanged(self) -> None:
        """Check, when all rows were read, that no file was replaced meanwhile.

        Raises
        ------
        DataError
            Naming one that was.
        """
        require_unchanged(self.folder, self.sources)


def _sound(
    batches: Iterable[pa.RecordBatch], encoder: TableEncoder, quarantine: Quarantine | None
) -> Iterator[pa.RecordBatch]:
    context = TaskContext.get()
    task = context.partitionId() if context else 0
    start = quarantine.start if quarantine else ""
    with quarantine_file(f"{start}-rejected-{task:05d}.parquet") as file:
        for batch in batches:
            sifted = encoder.sift(batch)
            if quarantine is not None and sifted.rejected.row.size:
                file.add(quarantine.rows(batch, encoder.source_ids(batch), sifted.rejected))
            packed = encoder.pack(sifted.content, np.arange(sifted.row.size))
            yield pa.RecordBatch.from_arrays([pa.array(sifted.ids), *packed], schema=TABLE_ARROW)
