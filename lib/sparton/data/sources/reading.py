"""Jets of files as batches of the jets table, for Spark's readers: planned on the driver, read part by part."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Literal

import pyarrow as pa
from pydantic import Field

from sparton.config import Config, nearest, validate
from sparton.data.ingest_plan import (
    Part,
    SourceFile,
    examine_file,
    origin_of,
    split_work,
    with_bits,
    without_doubles,
)
from sparton.data.part_reader import read_part
from sparton.data.sources.block import BadFileError, Source
from sparton.data.sources.registry import OPTIONS, make_source, source_paths
from sparton.data.sources.table import Sorted, sort_out, table_schema
from sparton.errors import ConfigError, DataError, UsageError

CHECKSUM_THREADS = 8
NO_DAMAGE = ("changed", "missing_file", "permission_denied")
"""Why a file cannot be read although nothing in it is damaged: no reason to leave out a part of its rows."""

logger = logging.getLogger(__name__)


class ReadSettings(Config):
    """Options that all formats have when Spark reads them.

    Attributes
    ----------
    on_bad
        ``fail`` ends the query at the first file or jet that is rejected; ``drop`` leaves them out. Of a file whose
        damage shows only while it is read, ``drop`` leaves out the rows from there to the end of the partition's range.
    labels
        Labels that are known; None: any.
    salt
        Enters the identifiers; the one of the ingest gives the same.
    task_bytes
        Input of a partition at most.
    """

    on_bad: Literal["fail", "drop"] = "fail"
    labels: tuple[str, ...] | None = None
    salt: int = Field(default=0, ge=0)
    task_bytes: int = Field(default=256 << 20, ge=1)


@dataclass(frozen=True)
class ReadPlan:
    """Which parts of which files the partitions hold."""

    source: Source
    settings: ReadSettings
    files: tuple[SourceFile, ...]
    tasks: tuple[tuple[Part, ...], ...]

    @property
    def schema(self) -> pa.Schema:
        """Schema of the batches."""
        return table_schema(self.source.extra_columns)


def parse_options(name: str, options: Mapping[str, str]) -> tuple[Source, ReadSettings, list[str]]:
    """Return the reader, the settings and the paths that Spark's options name.

    Parameters
    ----------
    name
        The format.
    options
        As given to ``option()`` and ``load()``: ``path``, or ``paths`` as a JSON list, those of :class:`ReadSettings`,
        and those of the format. Lists and mappings are written as JSON.

    Raises
    ------
    UsageError
        If the format or an option is unknown, an option is wrong, or no path is given.
    """
    if name not in OPTIONS:
        hint = nearest(name, OPTIONS) or f"known: {', '.join(OPTIONS)}"
        raise UsageError(f"format {name!r} is unknown; {hint}")
    values = {key: _parse(value) for key, value in options.items() if key not in ("path", "paths")}
    common = {key: values.pop(key) for key in list(values) if key in ReadSettings.model_fields}
    known = [*OPTIONS[name].model_fields, *ReadSettings.model_fields, "paths"]
    for key in [*values, *common]:
        if key not in known:
            hint = nearest(key, known) or f"known: {', '.join(known)}"
            raise ConfigError(f"format {name}: unknown option {key!r}; {hint}")
    source = make_source(name, validate(OPTIONS[name], values, f"format {name}"))
    settings = validate(ReadSettings, common, f"format {name}")
    paths = _parse(options["paths"]) if "paths" in options else [options["path"]] if options.get("path") else []
    if not isinstance(paths, list) or not all(isinstance(path, str) for path in paths):
        raise ConfigError(f"format {name}: option paths is {options['paths']!r}, expected a JSON list of texts")
    if not paths:
        raise UsageError(f"format {name}: no path; give one to load()")
    return source, settings, paths


def plan_read(source: Source, settings: ReadSettings, files: Sequence[SourceFile], slots: int) -> ReadPlan:
    """Return the partitions of files that have been examined.

    Raises
    ------
    DataError
        If a file is bad and the settings say to fail.
    """
    marked = without_doubles(files)
    for file in marked:
        if file.reason and settings.on_bad == "fail":
            raise DataError(f"{file.path}: {file.reason} ({file.detail}); option on_bad=drop leaves such files out")
        if file.reason:
            logger.warning("%s: %s (%s), left out", file.path, file.reason, file.detail)
    named = with_bits(marked, settings.salt)
    return ReadPlan(source, settings, tuple(named), tuple(split_work(named, settings.task_bytes, slots)))


def examine_here(source: Source, inputs: Sequence[str]) -> list[SourceFile]:
    """Examine the files that paths, folders and patterns stand for, on this machine."""
    paths = source_paths(inputs, source)
    with ThreadPoolExecutor(CHECKSUM_THREADS) as pool:
        return list(pool.map(lambda path: examine_file(source, path), paths))


def read_task(plan: ReadPlan, parts: Sequence[Part]) -> Iterator[pa.RecordBatch]:
    """Yield the good jets of a partition.

    Raises
    ------
    DataError
        If a jet is rejected or a file turns out bad, and the settings say to fail; whatever they say, if a file was
        replaced since the partitions were planned (others may have given rows of its old content), or is out of reach.
    """
    for part in parts:
        file = plan.files[part.file]
        origin = origin_of(plan.source, file)
        row = part.start
        try:
            for block in read_part(plan.source, file, part):
                found = sort_out(block, origin, plan.settings.labels)
                if plan.settings.on_bad == "fail":
                    _require_good(found)
                yield found.good
                row += block.rows
        except BadFileError as error:
            if error.reason in NO_DAMAGE:
                raise DataError(
                    f"{file.path}: {error.reason} since the query was planned ({error.detail}); run it again"
                ) from None
            if plan.settings.on_bad == "fail":
                raise DataError(
                    f"{file.path}: {error.reason} ({error.detail}) met while reading; option on_bad=drop leaves out "
                    "the rows from there to the end of the partition's range"
                ) from None
            logger.warning(
                "%s: %s (%s), rows %d to %d left out", file.path, error.reason, error.detail, row, part.stop - 1
            )


def _require_good(found: Sorted) -> None:
    if found.rejected.num_rows:
        first = found.rejected.slice(0, 1).to_pylist()[0]
        why = ": ".join(filter(None, (first["reason"], first["detail"])))
        raise DataError(
            f"{first['file']}: row {first['row']} is rejected ({why}); "
            "option on_bad=drop leaves such jets out, sparton ingest lists them"
        )


def _parse(value: str) -> Any:
    if value[:1] not in ("[", "{"):
        return value
    try:
        return json.loads(value)
    except json.JSONDecodeError as error:
        raise ConfigError(f"option {value!r}: not readable as JSON ({error})") from None
