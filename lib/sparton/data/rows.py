"""The rows that a set is made from, in as many passes as are asked for, whatever they lie in.

Tables of Parquet files are read by pyarrow in the tasks, straight into Arrow: nothing is turned into Spark's rows and
back. Any other DataFrame, and files that Spark reads otherwise than pyarrow does, come through Spark.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple, Protocol

import pyarrow as pa
from pyspark.sql import functions as F
from pyspark.sql.pandas.types import from_arrow_schema, from_arrow_type, to_arrow_type

from sparton import storage
from sparton.data.encoder import FILE, ROW
from sparton.data.pieces import Piece, Read, read_piece, spark_type, split_pieces
from sparton.data.source_files import Source, StoredTable, located
from sparton.data.tasks import each

if TYPE_CHECKING:
    from pyspark.sql import DataFrame
    from pyspark.sql.types import DataType

Task = Callable[[Iterable[pa.RecordBatch]], Iterator[pa.RecordBatch]]
"""What a Spark task makes of the batches of its partition."""


class Wanted(NamedTuple):
    """A column that is read: its name in the table, and the type that it is cast to (None: it stays as it is)."""

    name: str
    type: pa.DataType | None = None


class Rows(Protocol):
    """Rows of an input with the columns that an encoder reads, :data:`FILE` and :data:`ROW` included.

    Attributes
    ----------
    frame
        The rows as Spark reads them.
    are_files
        Whether the tasks read them from files, so that Spark makes no batches of them.
    """

    @property
    def frame(self) -> DataFrame: ...  # noqa: D102
    @property
    def are_files(self) -> bool: ...  # noqa: D102

    def mapped(self, columns: Sequence[str], task: Task, schema: pa.Schema) -> DataFrame:
        """Return what ``task`` makes of these columns of the rows, with the columns of ``schema``."""


@dataclass(frozen=True)
class FrameRows:
    """Rows that come through Spark."""

    frame: DataFrame
    are_files: bool = False

    def mapped(self, columns: Sequence[str], task: Task, schema: pa.Schema) -> DataFrame:
        """Return what ``task`` makes of these columns of the rows, with the columns of ``schema``."""
        return self.frame.select(*dict.fromkeys(columns)).mapInArrow(task, from_arrow_schema(schema))


@dataclass(frozen=True)
class FileRows:
    """Rows that tasks read from Parquet files, those of each of ``tasks`` by one.

    Attributes
    ----------
    table, wanted
        The files, and the columns.
    tasks
        What to read.
    are_files
        They are.
    """

    table: StoredTable
    wanted: Mapping[str, Wanted]
    tasks: tuple[tuple[Piece, ...], ...]
    are_files: bool = True

    @property
    def frame(self) -> DataFrame:
        """The rows as Spark reads them."""
        return selected(located(self.table.frame), self.wanted)

    def mapped(self, columns: Sequence[str], task: Task, schema: pa.Schema) -> DataFrame:
        """Return what ``task`` makes of these columns of the rows, with the columns of ``schema``."""
        types = {item.name: item.dataType for item in self.table.schema}
        chosen = {name: self.wanted[name] for name in columns if name not in (FILE, ROW)}
        reads = {key: Read(read.name, read.type or to_arrow_type(types[read.name])) for key, read in chosen.items()}
        run = partial(_read, columns=reads, file=FILE in columns, row=ROW in columns, task=task)
        return each(self.table.spark, self.tasks, run, schema)


def rows_from(table: DataFrame | StoredTable, wanted: Mapping[str, Wanted]) -> Rows:
    """Return the rows of a table with the columns ``wanted``, by the names that they get, which it must have."""
    if not isinstance(table, StoredTable):
        return FrameRows(selected(located(table), wanted))
    types = {item.name: item.dataType for item in table.schema}
    used = {read.name: types[read.name] for read in wanted.values()}
    if not all(_reads_alike(source, used) for source in table.sources):
        return FrameRows(selected(located(table.frame), wanted))
    files = [(storage.join(table.folder, source.path), source.groups) for source in table.sources]
    pieces = split_pieces(files, table.spark.sparkContext.defaultParallelism)
    return FileRows(table, wanted, tuple(pieces))


def selected(frame: DataFrame, wanted: Mapping[str, Wanted]) -> DataFrame:
    """Return a located DataFrame with the columns ``wanted``, by the names that they get, and the place of each row."""
    columns = []
    for key, read in wanted.items():
        column = F.col("`" + read.name.replace("`", "``") + "`")
        columns.append((column if read.type is None else column.cast(from_arrow_type(read.type))).alias(key))
    return frame.select(*columns, FILE, ROW)


def _reads_alike(source: Source, used: Mapping[str, DataType]) -> bool:
    """Tell whether pyarrow finds in a file what Spark does: columns of these names, of the types that Spark has.

    Folders named ``column=value`` give columns that are in no file, or others than those in it.
    """
    if source.schema is None or "=" in source.path:
        return False
    places = {name: source.schema.get_field_index(name) for name in used}
    return all(
        place >= 0 and spark_type(source.schema.field(place).type) == used[name] for name, place in places.items()
    )


def _read(
    pieces: tuple[Piece, ...], columns: Mapping[str, Read], file: bool, row: bool, task: Task
) -> Iterator[pa.RecordBatch]:
    return task(batch for piece in pieces for batch in read_piece(piece, columns, file, row))
