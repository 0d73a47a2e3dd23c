"""``info``: what is in a published folder, and whether it is intact."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from sparton import storage
from sparton.data.ingest import RECORD as INGEST_RECORD
from sparton.data.ingest import read_ingest_record
from sparton.errors import DataError, UsageError
from sparton.pipeline.progress import format_value
from sparton.pipeline.stage import bad_files, read_record

KINDS = {
    "generate": "jets table",
    "ingest": "jets table",
    "prepare": "training set",
    "validate": "validation",
    "train": "model bundle",
    "assign": "assignments",
    "evaluate": "report",
}
SUMS = "SHA256SUMS"
LOG_WIDTH = 120  # characters, where there is no terminal to measure


@dataclass(frozen=True)
class FolderInfo:
    """What :func:`info` found.

    Attributes
    ----------
    folder, kind
        The folder and what it is.
    files, bytes, rows
        Number and size of its files, rows of its Parquet files (None without any).
    columns
        Name and type of each Parquet column.
    details
        Provenance and contents, as in the closing table of the stage.
    problems
        Missing or changed files, one line each; empty where all is good.
    verified
        True where checksums were compared, False where only names and sizes were.
    """

    folder: str
    kind: str
    files: int
    bytes: int
    rows: int | None
    columns: dict[str, str]
    details: dict[str, Any]
    problems: list[str] = field(default_factory=list)
    verified: bool = False


def info(folder: str, *, verify: bool = False) -> FolderInfo:
    """Describe a folder; with ``verify`` every file is read and its checksum compared.

    Raises
    ------
    UsageError
        If there is no such folder, or nothing in it that Sparton knows.
    """
    if not storage.is_folder(folder):
        raise UsageError(f"{folder}: no such folder")
    files = [path for path in storage.list_files(folder) if not storage.name(path).startswith(".")]
    record = read_record(folder)
    # What lies in folders such as _quarantine is no row of the table.
    parquet = [path for path in files if path.endswith(".parquet") and not path.startswith("_")]
    if record is None and not parquet and SUMS not in files:
        raise UsageError(f"{folder}: neither published by a stage nor a Parquet table nor a bundle; name such a folder")
    rows, columns = _parquet(folder, parquet)
    details: dict[str, Any] = {}
    problems: list[str] = []
    if record is not None:
        details = {"made by": f"sparton {record.stage} {record.version}", "created": record.created}
        details |= {f"from {role}": path for role, path in record.inputs.items()} | record.summary
        problems += bad_files(folder, record.files, checksums=verify)
    if storage.MANIFEST in files:
        manifest_details, bad_shards = _training_set(folder, verify)
        details |= manifest_details
        problems += bad_shards
    if INGEST_RECORD in files:
        details |= _ingested(folder)
    if SUMS in files and verify:
        problems += _bad_sums(folder)
    return FolderInfo(
        folder=folder,
        kind=_kind(record.stage if record else None, files),
        files=len(files),
        bytes=sum(storage.size(storage.join(folder, path)) for path in files),
        rows=rows,
        columns=columns,
        details=details,
        problems=sorted(set(problems)),
        verified=verify,
    )


def show(found: FolderInfo, as_json: bool = False) -> None:
    """Print a description on standard output.

    Raises
    ------
    DataError
        If the folder is not intact; the description is printed first.
    """
    if as_json:
        sys.stdout.write(json.dumps(asdict(found), indent=2) + "\n")
    else:
        _show_tables(found)
    if found.problems:
        raise DataError("; ".join(found.problems) + ". Run the stage that made it again")


def _show_tables(found: FolderInfo) -> None:
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH)
    table = Table(title=f"{found.folder}: {found.kind}", show_header=False, title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    if found.rows is not None:
        table.add_row("rows", format_value(found.rows))
    table.add_row("files", f"{found.files:,} ({found.bytes / 1e6:,.1f} MB)")
    for key, value in found.details.items():
        table.add_row(key, format_value(value))
    compared = "checksums" if found.verified else "names and sizes (--verify compares checksums)"
    table.add_row("compared", f"{compared}: {f'{len(found.problems)} bad' if found.problems else 'good'}")
    console.print(table)
    if found.columns:
        columns = Table(title="columns", title_justify="left")
        columns.add_column("name")
        columns.add_column("type")
        for name, kind in found.columns.items():
            columns.add_row(name, kind)
        console.print(columns)


def _kind(stage: str | None, files: list[str]) -> str:
    if stage in KINDS:
        return KINDS[stage]
    if storage.MANIFEST in files:
        return KINDS["prepare"]
    return KINDS["train"] if SUMS in files else "Parquet table"


def _parquet(folder: str, files: list[str]) -> tuple[int | None, dict[str, str]]:
    """Return rows and columns out of the footers, without reading data."""
    if not files:
        return None, {}
    rows = 0
    columns: dict[str, str] = {}
    for path in files:
        full = storage.join(folder, path)
        try:
            with storage.open_file(full) as stream:
                footer = pq.ParquetFile(stream)
                rows += footer.metadata.num_rows
                columns = columns or {name: str(kind) for name, kind in zip(*_fields(footer), strict=True)}
        except (OSError, ValueError) as error:
            raise DataError(f"{full}: not readable as Parquet ({error}); run the stage that made it again") from None
    return rows, columns


def _fields(footer: pq.ParquetFile) -> tuple[list[str], list[Any]]:
    schema = footer.schema_arrow
    return schema.names, schema.types


def _training_set(folder: str, verify: bool) -> tuple[dict[str, Any], list[str]]:
    from sparton.data.manifest import read_manifest

    manifest = read_manifest(folder)
    details = {
        "features": f"{manifest.n_particles} particles x {', '.join(manifest.feature_names)}",
        "targets": f"{manifest.n_targets} mass bins",
        "seed": manifest.seed,
    }
    return details, [bad.detail for bad in manifest.verify(folder, checksums=verify)]


def _ingested(folder: str) -> dict[str, Any]:
    """Return what an ingested table was made from."""
    record = read_ingest_record(folder)
    if record is None:
        return {}
    used = [source for source in record.sources if not source.reason]
    return {
        "format": record.format,
        "from": f"{len(used)} file(s), {sum(source.bytes for source in used) / 1e6:,.1f} MB",
    }


def _bad_sums(folder: str) -> list[str]:
    problems = []
    for line in storage.read_text(storage.join(folder, SUMS)).splitlines():
        expected, _, name = line.partition("  ")
        path = storage.join(folder, name)
        if not storage.exists(path):
            problems.append(f"{path}: missing")
        elif storage.sha256(path) != expected:
            problems.append(f"{path}: checksum differs from the one recorded")
    return problems
