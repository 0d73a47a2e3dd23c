"""From any table of numbers to a table set: float32 features in exact, shuffled shards with a manifest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
from pyspark.sql.types import ArrayType, DataType, IntegralType, NumericType, StructType

from sparton import storage
from sparton.data.encoder import FILE, ROW
from sparton.data.featurize import FEATURE_DTYPE, MAX_BINARY_BYTES
from sparton.data.manifest import TABLE_KIND, TableManifest, read_set
from sparton.data.prepare import write_set
from sparton.data.rows import Wanted, rows_from, selected
from sparton.data.schema import require_columns
from sparton.data.settings import TableSettings
from sparton.data.source_files import (
    Source,
    StoredTable,
    by_path,
    checksums,
    file_codes,
    listed_files,
    require_unchanged,
)
from sparton.data.table_encoder import ARRAY, ID, TARGET, WEIGHT, TableEncoder
from sparton.data.writing import Target
from sparton.errors import DataError, UsageError

if TYPE_CHECKING:
    from pyspark.sql import DataFrame, SparkSession

STORED_TYPES = {ID: pa.int64(), ARRAY: pa.list_(pa.float32())}
"""What columns other than single numbers are read as."""


def write_table_set(
    spark: SparkSession,
    table: DataFrame | StoredTable,
    settings: TableSettings,
    folder: str,
    inputs: Mapping[str, str] | None = None,
    sources: Sequence[Source] = (),
    source_folder: str = "",
    extend: bool = False,
) -> TableManifest:
    """Write the set of a table: ``split=<name>/shard-00000.parquet`` and ``_manifest.json``.

    Parameters
    ----------
    spark
        The session that ``table`` belongs to.
    table
        The table; it is read twice (three times where ids repeat) and must give the same rows each time. The tasks
        read files themselves, other DataFrames come through Spark.
    settings
        Which columns to take and how to store them.
    folder
        Empty or missing folder on storage that all machines share.
    inputs
        Fingerprints of the inputs by role, for the manifest.
    sources, source_folder
        The files below a folder that the table was read from. Needed where ids are made from them, and by the
        quarantine for the checksum of each row's file.
    extend
        Add the rows to the set in ``folder``, a staging folder of :func:`sparton.publication.extend`.

    Returns
    -------
    TableManifest
        As written.

    Raises
    ------
    UsageError
        If the folder is not empty, the set to extend was made with other settings, or the table has no ids and does
        not come from files.
    DataError
        If a column is missing or not numeric, none is named and files differ in theirs, too many rows are rejected, a
        file of ``sources`` was replaced meanwhile, or what was written cannot be read back. The quarantine stays.
    """
    folder = storage.absolute(folder)
    previous = _previous(folder) if extend else None
    if previous is None:
        require_same_numbers(source_folder, sources, settings)
    names = previous.feature_names if previous else feature_names(table.schema, settings)
    held = previous.sources if previous else ()
    made = {} if settings.id else file_codes(source_folder, sources, held)
    if not settings.id and not made:
        raise UsageError("the table has no files to make ids from; name an id column (table.id)")
    encoder = encoder_of(names, settings, made)
    rows = rows_from(table, wanted_columns(table.schema, encoder))
    target = Target(spark, encoder, settings, folder, previous, checksums(source_folder, sources))
    files = [source.file for source in sources]
    common = write_set(target, rows, "table", names, inputs or {}, files)
    require_unchanged(source_folder, sources)
    manifest = TableManifest(**common)
    manifest.write(folder)
    return manifest


def encoder_of(names: tuple[str, ...], settings: TableSettings, codes: Mapping[str, int]) -> TableEncoder:
    """Return the encoder of a table.

    Parameters
    ----------
    names
        Names of the features (:func:`feature_names`).
    settings
        Which columns the table has beside them.
    codes
        What ids are made from (:func:`sparton.data.source_files.file_codes`) where it has none.
    """
    scalars = {ID: settings.id, TARGET: settings.target, WEIGHT: settings.weight}
    return TableEncoder(names, {key: name for key, name in scalars.items() if name}, settings.array, codes)


def feature_names(table: StructType, settings: TableSettings) -> tuple[str, ...]:
    """Return the names of the features: the columns taken, or ``name[0]``, ``name[1]`` ... of an array column.

    Raises
    ------
    DataError
        If no column is left, or a row's features are so large that a shard of them exceeds 2 GiB.
    """
    if settings.array is not None:
        return value_names(settings.array, settings.length or 0)
    other = {settings.id, settings.target, settings.weight}
    numeric = [item.name for item in table if isinstance(item.dataType, NumericType) and item.name not in other]
    names = settings.columns or tuple(numeric)
    if not names:
        raise DataError(f"table: no numeric columns; found {table.simpleString()}. Name table.columns or table.array")
    if len(names) * FEATURE_DTYPE.itemsize * settings.rows_per_shard > MAX_BINARY_BYTES:
        most = MAX_BINARY_BYTES // (len(names) * FEATURE_DTYPE.itemsize)
        raise DataError(
            f"table: {len(names)} features make a shard exceed 2 GiB; set table.rows_per_shard to at most {most}"
        )
    return names


def require_same_numbers(folder: str, sources: Sequence[Source], settings: TableSettings) -> None:
    """Check that files have the same numeric columns, where these are the features since none is named.

    Spark takes the columns of one file, so that those which others have would be left out without a word.

    Raises
    ------
    DataError
        Naming files and columns that differ.
    """
    schemas = {source.path: source.schema for source in sorted(sources, key=by_path) if source.schema is not None}
    if not schemas or settings.columns is not None or settings.array is not None:
        return
    other = {settings.id, settings.target, settings.weight}
    several = {id(schema): schema for schema in schemas.values()}  # most files share theirs
    numbers = {key: {field.name for field in schema if is_number(field.type)} for key, schema in several.items()}
    found = {path: numbers[id(schema)] - other for path, schema in schemas.items()}
    first = next(iter(found))
    differing = [path for path, names in found.items() if names != found[first]]
    if differing:
        different = {"lacks": found[first] - found[differing[0]], "also has": found[differing[0]] - found[first]}
        told = " and ".join(f"{verb} {', '.join(sorted(names))}" for verb, names in different.items() if names)
        raise DataError(
            f"{folder}: {differing[0]} {told}, compared with the numeric columns of {first} (files that differ: "
            f"{listed_files(differing)}); name the columns that are the features (table.columns), or give all files "
            "the same ones"
        )


def is_number(kind: pa.DataType) -> bool:
    """Tell whether a column of an Arrow type is one of numbers to Spark, which sees what it is stored as."""
    if isinstance(kind, pa.BaseExtensionType):
        return is_number(kind.storage_type)
    if pa.types.is_dictionary(kind):
        return is_number(kind.value_type)
    return pa.types.is_decimal(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind)


def value_names(array: str, length: int) -> tuple[str, ...]:
    """Return the names of the values of an array column."""
    return tuple(f"{array}[{index}]" for index in range(length))


def project(rows: DataFrame, encoder: TableEncoder) -> DataFrame:
    """Return a located table with the columns that the encoder reads, as int64 and float32.

    Raises
    ------
    DataError
        If a column is missing or has another type.
    """
    return selected(rows, wanted_columns(rows.schema, encoder))


def wanted_columns(schema: StructType, encoder: TableEncoder) -> dict[str, Wanted]:
    """Return the columns of a table that the encoder reads, by its names for them.

    Raises
    ------
    DataError
        If a column is missing or has another type.
    """
    types = {item.name: item.dataType for item in schema}
    given = {**encoder.scalars, **({ARRAY: encoder.array} if encoder.array else {})}
    if not encoder.array:
        given |= dict(zip(encoder.feature_columns, encoder.names, strict=True))
    require_columns([name for name in types if name not in (FILE, ROW)], given.values(), "table")
    for key, name in given.items():
        _require_type(key, name, types[name])
    return {key: Wanted(name, STORED_TYPES.get(key, pa.float32())) for key, name in given.items()}


def _previous(folder: str) -> TableManifest:
    manifest = read_set(folder)
    if not isinstance(manifest, TableManifest):
        raise UsageError(f"{folder}: kind is {manifest.kind!r}, expected {TABLE_KIND!r}; extend it with --kind jets")
    return manifest


def _require_type(key: str, name: str, found: DataType) -> None:
    if key == ARRAY:
        good = isinstance(found, ArrayType) and isinstance(found.elementType, NumericType)
        expected = "an array of numbers"
    else:
        good = isinstance(found, IntegralType if key == ID else NumericType)
        expected = "whole numbers" if key == ID else "numbers"
    if not good:
        raise DataError(
            f"table: column {name} is {found.simpleString()}, expected {expected}; name another one or cast it"
        )
