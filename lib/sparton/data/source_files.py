"""The files that a set is made from: which ones are new, and where in them a row lies."""

from __future__ import annotations

import itertools
import logging
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from pyspark.errors import AnalysisException
from pyspark.sql import functions as F

from sparton import storage
from sparton.data.encoder import FILE, ROW
from sparton.data.executors import executor_errors
from sparton.data.manifest import SourceFile
from sparton.data.pieces import RowGroup, spark_schema
from sparton.data.sources import identity
from sparton.data.tasks import dealt, each
from sparton.errors import DataError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession
    from pyspark.sql.types import StructType

Value = TypeVar("Value")

HIDDEN = ("_", ".")  # Spark does not read names that start so

ENDINGS = (".parquet", ".parq", ".pq")
"""How names of Parquet files end, unless they have no ending at all."""

SHOWN_FILES = 3
"""Files that a message names, of many."""

SOURCE_ARROW = pa.schema(
    [
        pa.field("path", pa.string()),
        pa.field("sha256", pa.string()),
        pa.field("bytes", pa.int64()),
        pa.field("rows", pa.int64()),
        pa.field("version", pa.string()),
        pa.field("groups", pa.binary()),
        pa.field("schema", pa.binary()),
    ]
)

STAT_THREADS = 16

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Source:
    """A file of an input table, what identifies its content and how it is laid out.

    Attributes
    ----------
    path, file
        Where it is below the table's folder, and its SHA-256, size and rows.
    version
        What storage told of it before its checksum was made (:func:`sparton.storage.version`).
    groups
        Its row groups.
    schema
        Its columns; None where pyarrow cannot read some of them.
    """

    path: str
    file: SourceFile
    version: str = ""
    groups: tuple[RowGroup, ...] = ()
    schema: pa.Schema | None = None


@dataclass(frozen=True)
class StoredTable:
    """Some files of a table below ``folder``."""

    spark: SparkSession
    folder: str
    sources: tuple[Source, ...]

    @cached_property
    def frame(self) -> DataFrame:
        """The rows as Spark reads them; a file that is damaged or gone is an error, whatever the session says."""
        paths = [storage.spark_source(storage.join(self.folder, source.path)) for source in self.sources]
        reader = self.spark.read.option("ignoreCorruptFiles", "false").option("ignoreMissingFiles", "false")
        return reader.option("basePath", storage.spark_url(self.folder)).parquet(*paths)

    @cached_property
    def schema(self) -> StructType:
        """The columns as Spark has them.

        Spark is asked only where that is not plain: where files differ or have columns that pyarrow reads otherwise,
        or folders are named ``column=value``, which gives columns that are in no file.
        """
        first = self.sources[0].schema
        plain = all(source.schema == first and "=" not in source.path for source in self.sources)
        found = spark_schema(first) if plain and first is not None else None
        return self.frame.schema if found is None else found

    @property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return list(self.schema.names)


def find_sources(
    spark: SparkSession, folder: str, known: Mapping[str, str] | None = None, held: Collection[str] = ()
) -> list[Source]:
    """Return the Parquet files of a table, by content, which is read and compared with what a record says of it.

    Hidden files are passed over, as Spark does; those whose names end otherwise than in :data:`ENDINGS`, with a
    warning.

    Parameters
    ----------
    spark
        The session whose executors read the files.
    folder
        Folder of the table.
    known
        SHA-256 (hex) of files by relative path, where a record of them exists.
    held
        SHA-256 of files that will not be used: of those, only the footers are read.

    Raises
    ------
    DataError
        If there is no file, or one is not readable as Parquet, or not what its record says.
    """
    identify = partial(_identify, folder=storage.absolute(folder), known=dict(known or {}), held=frozenset(held))
    parts = dealt(_paths(folder), spark.sparkContext.defaultParallelism)
    with executor_errors(f"reading the files of {folder}"):
        rows = each(spark, parts, identify, SOURCE_ARROW).collect()
    return _sources(row.asDict() for row in rows)


def find_sources_here(folder: str, known: Mapping[str, str] | None = None) -> list[Source]:
    """Return what :func:`find_sources` does, without Spark: this process reads the files."""
    identify = partial(_source, storage.absolute(folder), known=dict(known or {}), held=frozenset())
    with ThreadPoolExecutor(STAT_THREADS) as pool:
        return _sources(pool.map(identify, _paths(folder)))


def read_sources(spark: SparkSession, folder: str, sources: Sequence[Source]) -> StoredTable:
    """Return some files of a table as a table."""
    return StoredTable(spark, storage.absolute(folder), tuple(sources))


def require_unchanged(folder: str, sources: Sequence[Source]) -> None:
    """Check, when all rows of files were read, that the files still are what they were before.

    Storage is asked for size and version; a file is read once more for its checksum only where these differ.

    Raises
    ------
    DataError
        Naming a file that was replaced.
    """

    def is_same(source: Source) -> bool:
        path = storage.join(folder, source.path)
        if not storage.exists(path):
            return False
        size, version = storage.version(path)
        same = (size, version) == (source.file.bytes, source.version)
        return same or (size == source.file.bytes and storage.sha256(path) == source.file.sha256)

    with ThreadPoolExecutor(STAT_THREADS) as pool:
        for source, same in zip(sources, pool.map(is_same, sources), strict=True):
            if not same:
                raise DataError(f"{storage.join(folder, source.path)}: it was replaced while it was read; run it again")


def located(df: DataFrame) -> DataFrame:
    """Return a table with the place of each row; null where the table does not come straight from files."""
    if FILE in df.columns:
        return df
    try:
        return df.withColumns({FILE: F.col("_metadata.file_path"), ROW: F.col("_metadata.row_index")})
    except AnalysisException:
        return df.withColumns({FILE: F.lit(None).cast("string"), ROW: F.lit(None).cast("long")})


def by_path(source: Source) -> str:
    """Return what files are in order by: Spark takes the columns of a table from the first one."""
    return source.path


def listed_files(paths: Sequence[str]) -> str:
    """Return the first of some paths, and how many more there are."""
    more = f" and {len(paths) - SHOWN_FILES} more" if len(paths) > SHOWN_FILES else ""
    return ", ".join(paths[:SHOWN_FILES]) + more


def file_codes(folder: str, sources: Sequence[Source], held: Sequence[SourceFile] = ()) -> dict[str, int]:
    """Return the bits that stand for each file in the ids of its rows, by :func:`place_of` its path.

    They come from the content. Where two contents begin alike, the one that came later gets others, so that no two
    files share them; files of an extension come after those of the set, and change none.

    Parameters
    ----------
    folder, sources
        The files to read below a folder.
    held
        Those that the set was made from, in the order of its manifest.

    Raises
    ------
    DataError
        If a file has more rows than an id has numbers for.
    """
    owners: dict[int, str] = {}
    codes: dict[str, int] = {}
    for sha256 in (*(file.sha256 for file in held), *(source.file.sha256 for source in sources)):
        tries = (identity.file_bits(sha256, salt) for salt in itertools.count())
        codes[sha256] = next(bits for bits in tries if owners.setdefault(bits, sha256) == sha256)
    limit = identity.max_rows(several=False)
    for source in sources:
        if source.file.rows > limit:
            raise DataError(
                f"{source.path}: {source.file.rows} rows, expected at most {limit} where ids are made; split the file, "
                "or name an id column (table.id)"
            )
    return {_place(folder, source): codes[source.file.sha256] for source in sources}


def checksums(folder: str, sources: Sequence[Source]) -> dict[str, str]:
    """Return the SHA-256 (hex) of files below a folder by :func:`place_of` their paths."""
    return {_place(folder, source): source.file.sha256 for source in sources}


def at_place(url: str, values: Mapping[str, Value]) -> Value | None:
    """Return what is kept under :func:`place_of` a file, given its URL as Spark has it; None where nothing is."""
    place = place_of(unquote(url))
    if place not in values:
        place = "/" + place[1:].partition("/")[2]  # hdfs:///a is hdfs://host:port/a to Spark
    return values.get(place)


def place_of(url: str) -> str:
    """Return a URL without its scheme, in the one form that Spark, Hadoop and fsspec agree on."""
    return "/" + re.sub(r"^[a-z0-9]+:/*", "", url).lstrip("/")


def _place(folder: str, source: Source) -> str:
    return place_of(storage.spark_url(storage.join(folder, source.path)))


def _paths(folder: str) -> list[str]:
    """Return the visible files of a folder that are named as Parquet files are, and tell of the others."""
    visible = [path for path in storage.list_files(folder) if not _is_hidden(path)]
    paths = [path for path in visible if _is_parquet(path)]
    others = listed_files([path for path in visible if not _is_parquet(path)])
    if not paths:
        found = f"no files in it but {others}" if others else "no files in it"
        raise DataError(f"{folder}: {found}; expected a table of Parquet files, whose names end in {ENDINGS[0]}")
    if others:
        logger.warning("%s: passed over, since names of Parquet files end in %s: %s", folder, ENDINGS[0], others)
    return paths


def _is_parquet(path: str) -> bool:
    _, dot, ending = storage.name(path).rpartition(".")
    return f"{dot}{ending}".lower() in ENDINGS if dot else True


def _sources(rows: Iterable[Mapping[str, Any]]) -> list[Source]:
    """Return files that were looked at, by content."""
    schemas: dict[bytes, pa.Schema] = {}  # most files share theirs
    found = [
        Source(
            path=row["path"],
            file=SourceFile(sha256=row["sha256"], bytes=row["bytes"], rows=row["rows"]),
            version=row["version"],
            groups=tuple(RowGroup(*group) for group in np.frombuffer(row["groups"], np.int64).reshape(-1, 2).tolist()),
            schema=row["schema"] and schemas.setdefault(bytes(row["schema"]), _schema_of(row["schema"])),
        )
        for row in rows
    ]
    return sorted(found, key=lambda source: (source.file.sha256, source.path))


def _is_hidden(path: str) -> bool:
    return any(part.startswith(HIDDEN) for part in path.split("/"))


def _identify(
    paths: tuple[str, ...], folder: str, known: Mapping[str, str], held: Collection[str]
) -> Iterator[pa.RecordBatch]:
    found = [_source(folder, path, known, held) for path in paths]
    yield pa.RecordBatch.from_pylist(found, schema=SOURCE_ARROW)


def _source(folder: str, path: str, known: Mapping[str, str], held: Collection[str]) -> dict[str, Any]:
    full, recorded = storage.join(folder, path), known.get(path)
    try:
        size, version = storage.version(full)
        with storage.open_file(full) as stream:
            metadata = pq.read_metadata(stream)
    except (OSError, ValueError) as error:
        raise DataError(
            f"{full}: not readable as Parquet ({' '.join(str(error).split())}); remove or mend it"
        ) from None
    sha256 = recorded if recorded in held else storage.sha256(full)
    if recorded is not None and sha256 != recorded:
        raise DataError(
            f"{full}: SHA-256 is {sha256}, the record of the stage that wrote it says {recorded}; it was changed or "
            "damaged since: restore it, or run that stage again with --force"
        )
    groups = [
        (group.num_rows, group.total_byte_size) for group in map(metadata.row_group, range(metadata.num_row_groups))
    ]
    return {
        "path": path,
        "sha256": str(sha256),
        "bytes": size,
        "rows": metadata.num_rows,
        "version": version,
        "groups": np.array(groups, np.int64).tobytes(),
        "schema": _packed_schema(metadata),
    }


def _packed_schema(metadata: pq.FileMetaData) -> bytes | None:
    try:
        schema = metadata.schema.to_arrow_schema()
    except (pa.ArrowException, ValueError):
        return None  # Spark may know what to do with it
    return bytes(schema.remove_metadata().serialize().to_pybytes())


def _schema_of(packed: bytes) -> pa.Schema:
    return pa.ipc.read_schema(pa.py_buffer(packed))
