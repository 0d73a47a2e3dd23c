"""``info``: what is in a published folder, and whether it is intact."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from rich.console import Console
from rich.table import Table

from sparton import publication, storage
from sparton.data.ingest import RECORD as INGEST_RECORD
from sparton.data.ingest import read_ingest_record
from sparton.data.quarantine import QUARANTINE_ARROW
from sparton.errors import DataError, UsageError
from sparton.pipeline.bundles import DESCRIPTION, bundle_kind
from sparton.pipeline.footers import Footer, footer_problems, read_footers
from sparton.pipeline.generation import METADATA as GENERATED
from sparton.pipeline.progress import format_value
from sparton.pipeline.record import bad_files, read_record

KINDS = {
    "generate": "jets table",
    "ingest": "jets table",
    "prepare": "training set",
    "validate": "validation",
    "train": "model bundle",
    "cluster": "bundle of clusters",
    "stream-cluster": "bundle of clusters",
    "import-checkpoint": "model bundle",
    "export": "SavedModel",
    "assign": "assignments",
    "evaluate": "report",
}
METHODS = {"kmeans": "k-means", "pcm": "possibilistic c-means"}
TABLE_FIGURES = {
    "mean_inertia": "mean squared distance",
    "mean_cost": "mean cost",
    "merged": "centroids merged",
    "dead": "centroids without rows",
}
"""Numbers of a table's clusters that are shown, by their names in the bundle."""
STRAY = "not written by the stage that made the folder; remove it"
SUMS = "SHA256SUMS"
SHOWN_ROWS = 20  # of a quarantine
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
    comparable
        False where nothing says what the folder should hold.
    rejected
        The first rows of a quarantine.
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
    comparable: bool = True
    rejected: list[dict[str, Any]] = field(default_factory=list)


def info(folder: str, *, verify: bool = False) -> FolderInfo:
    """Describe a folder; with ``verify`` every file is read, and its footer and checksum compared.

    Raises
    ------
    UsageError
        If there is no such folder, or nothing in it that Sparton knows.
    DataError
        If its publication is under way or was interrupted.
    """
    publication.require_whole(folder)
    if not storage.is_folder(folder):
        raise UsageError(f"{folder}: {'a file, expected a folder' if storage.exists(folder) else 'no such folder'}")
    files = [path for path in storage.list_files(folder) if not storage.name(path).startswith(".")]
    record = read_record(folder)
    inner = [name for name in storage.list_folders(folder) if read_record(storage.join(folder, name))]
    if record is None and inner:
        raise UsageError(f"{folder}: a workspace; name one of the folders in it: {', '.join(inner)}")
    # What lies in folders such as _quarantine is no row of the table.
    parquet = [path for path in files if path.endswith(".parquet") and not path.startswith("_")]
    if record is None and not parquet and SUMS not in files:
        raise UsageError(f"{folder}: neither published by a stage nor a Parquet table nor a bundle; name such a folder")
    rows: int | None = None
    rejected: list[dict[str, Any]] = []
    columns: dict[str, str] = {}
    details: dict[str, Any] = {}
    problems: list[str] = []
    if record is not None:
        details = {"made by": f"sparton {record.stage} {record.version}", "created": record.created}
        details |= {f"from {role}": path for role, path in record.inputs.items()} | record.summary
        problems += bad_files(folder, record.files, checksums=verify)
        problems += _unknown_files(folder, files, {entry.path for entry in record.files})
    if storage.MANIFEST in files:
        rows, columns, manifest_details, bad_shards = _set(folder, verify, checksums=verify and record is None)
        details |= manifest_details
        problems += bad_shards
    elif parquet:
        footers = read_footers(folder, parquet)
        rows, columns = sum(footer.rows for footer in footers), _columns(footers)
        problems += footer_problems(footers, _ingested_rows(folder, files))
        if columns == _named(QUARANTINE_ARROW):
            rejected = _first_rows(folder, parquet)
        others = [path for path in files if path not in parquet and not path.startswith("_")]
        if record is None and others:
            details["not looked into"] = f"{len(others)} file(s) that are not Parquet"
    if INGEST_RECORD in files:
        details |= _ingested(folder)
    if SUMS in files:
        problems += _bad_sums(folder, verify)
        try:
            details |= _bundle(folder, files)
        except DataError as error:
            problems.append(str(error))
    if GENERATED in files:
        details |= _generated(folder)
    return FolderInfo(
        folder=folder,
        kind="quarantine" if rejected else _kind(record.stage if record else None, files),
        files=len(files),
        bytes=sum(storage.size(storage.join(folder, path)) for path in files),
        rows=rows,
        columns=columns,
        details=details,
        problems=_one_a_file(problems),
        verified=verify,
        comparable=record is not None or bool({SUMS, INGEST_RECORD, storage.MANIFEST} & set(files)),
        rejected=rejected,
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
        damaged = any(not problem.endswith(STRAY) for problem in found.problems)
        way_out = ". Run the stage that made it again with --force" if damaged else ""
        raise DataError("; ".join(found.problems) + way_out)


def _show_tables(found: FolderInfo) -> None:
    console = Console(width=None if sys.stdout.isatty() else LOG_WIDTH, markup=False)
    table = Table(title=f"{found.folder}: {found.kind}", show_header=False, title_justify="left")
    table.add_column("what", no_wrap=True)
    table.add_column("value", overflow="fold")
    if found.rows is not None:
        table.add_row("rows", format_value(found.rows))
    table.add_row("files, with metadata", f"{found.files:,} ({found.bytes / 1e6:,.1f} MB)")
    for key, value in found.details.items():
        table.add_row(key, format_value(value))
    table.add_row("compared", _compared(found))
    console.print(table)
    if found.columns:
        columns = Table(title="columns", title_justify="left")
        columns.add_column("name")
        columns.add_column("type")
        for name, kind in found.columns.items():
            columns.add_row(name, kind)
        console.print(columns)
    if found.rejected:
        _show_rejected(console, found.rejected)


def _show_rejected(console: Console, rows: list[dict[str, Any]]) -> None:
    shown = ("file", "row", "reason", "detail")
    table = Table(title="first rows", title_justify="left")
    for name in shown:
        table.add_column(name, overflow="fold")
    for row in rows:
        table.add_row(*("" if row[name] is None else str(row[name]) for name in shown))
    console.print(table)


def _first_rows(folder: str, files: list[str]) -> list[dict[str, Any]]:
    """Return the first rows of a quarantine, as many as a person reads."""
    rows: list[dict[str, Any]] = []
    for path in files:
        with storage.open_file(storage.join(folder, path)) as stream:
            for batch in pq.ParquetFile(stream).iter_batches(batch_size=SHOWN_ROWS):
                rows += batch.to_pylist()
                if len(rows) >= SHOWN_ROWS:
                    return rows[:SHOWN_ROWS]
    return rows


def _compared(found: FolderInfo) -> str:
    if not found.comparable and not found.problems:
        return "nothing: no record says what the folder should hold"
    what = "checksums and footers" if found.verified else "names and sizes (--verify compares checksums)"
    return f"{what}: {f'{len(found.problems)} bad' if found.problems else 'good'}"


def _kind(stage: str | None, files: list[str]) -> str:
    if stage in KINDS:
        return KINDS[stage]
    if storage.MANIFEST in files:
        return KINDS["prepare"]
    return KINDS["train"] if SUMS in files else "Parquet table"


def _columns(footers: list[Footer]) -> dict[str, str]:
    schema = next((footer.schema for footer in footers if footer.schema is not None), None)
    return _named(schema) if schema is not None else {}


def _named(schema: pa.Schema) -> dict[str, str]:
    return {name: str(kind) for name, kind in zip(schema.names, schema.types, strict=True)}


def _unknown_files(folder: str, files: list[str], known: set[str]) -> list[str]:
    """Return one line for each file that readers would take for part of the table but that no stage wrote."""
    found = [path for path in files if path not in known and not any(part[0] in "_." for part in path.split("/"))]
    return [f"{storage.join(folder, path)}: {STRAY}" for path in found]


def _one_a_file(problems: list[str]) -> list[str]:
    """Return one line for each file, out of lines that begin with their file's path."""
    found: dict[str, dict[str, None]] = {}
    for problem in problems:
        path, _, reason = problem.partition(": ")
        found.setdefault(path, {})[reason] = None
    return [f"{path}: {'; '.join(found[path])}" for path in sorted(found)]


def _set(folder: str, verify: bool, checksums: bool) -> tuple[int, dict[str, str], dict[str, Any], list[str]]:
    """Return rows, columns, details and problems of a set; without ``verify`` no shard is opened."""
    from sparton.data.manifest import Manifest, read_set
    from sparton.data.shards import bad_footers

    manifest = read_set(folder)
    shards = [shard for split in manifest.splits.values() for shard in split]
    problems = [bad.detail for bad in manifest.verify(folder, checksums=checksums)]
    if verify:
        problems += bad_footers(
            folder, [shard for shard in shards if storage.exists(storage.join(folder, shard.path))], manifest.row_schema
        )
    names = ", ".join(manifest.feature_names)
    details: dict[str, Any] = {"features": names, "seed": manifest.seed}
    if isinstance(manifest, Manifest):
        details["features"] = f"{manifest.n_particles} particles x {names}"
        details["targets"] = f"{manifest.n_targets} mass bins"
    if manifest.extensions:
        details["extended"] = manifest.extensions
    rejected = sum(manifest.counts.rejected.values())
    details["rows in the quarantine"] = rejected or "none"
    return sum(shard.rows for shard in shards), _named(manifest.row_schema), details, problems


def _ingested_rows(folder: str, files: list[str]) -> dict[str, int]:
    """Return the rows of each file that an ingest recorded, by full path."""
    record = read_ingest_record(folder) if INGEST_RECORD in files else None
    return {storage.join(folder, path): rows for path, rows in record.files.items()} if record else {}


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


def _bundle(folder: str, files: list[str]) -> dict[str, Any]:
    """Return what a bundle holds and what it was trained on."""
    if DESCRIPTION not in files:
        return {}
    return _table_bundle(folder) if bundle_kind(folder) == "table" else _jets_bundle(folder)


def _table_bundle(folder: str) -> dict[str, Any]:
    from sparton.sgd.bundle import METRICS, read_description

    found = read_description(folder)
    training, metrics = found.training, storage.read_json(storage.join(folder, METRICS))
    streamed = training.get("batches")
    trained_by = f"in {streamed:,} batches of a stream" if streamed else f"by {training['workers']} worker(s)"
    return {
        "method": f"{METHODS[found.kind]} by stochastic gradient descent",
        "clusters": len(found.centroids),
        "features": ", ".join(found.inputs.feature_names),
        "scaling": found.inputs.scaling,
        **{shown: metrics[name] for name, shown in TABLE_FIGURES.items() if name in metrics},
        "trained on": f"{training['rows']:,} rows {trained_by}",
        "versions": _versions(found.versions),
    }


def _versions(versions: dict[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())


def _jets_bundle(folder: str) -> dict[str, Any]:
    from sparton.ucluster.bundle import read_description

    found = read_description(folder)
    training = found.training
    if "checkpoint" in training:
        trained = f"elsewhere: {training['checkpoint']} after {training['steps']:,} steps"
    else:
        trained = f"{training['jets']:,} jets by {training['workers']} worker(s)"
    return {
        "network": found.model.network,
        "clusters": found.model.n_clusters,
        "embedding": f"{found.model.embedding} dimension(s)",
        "input": f"{found.inputs.n_particles} particles x {len(found.inputs.feature_names)} features",
        "trained on": trained,
        "versions": _versions(found.versions),
    }


def _generated(folder: str) -> dict[str, Any]:
    """Return what jets were generated with."""
    found = storage.read_json(storage.join(folder, GENERATED))
    chosen = {key: value for key, value in found["settings"].items() if value is not None}
    return {"versions": found["versions"], "settings": ", ".join(f"{key} {value}" for key, value in chosen.items())}


def _bad_sums(folder: str, checksums: bool) -> list[str]:
    problems = []
    for line in storage.read_text(storage.join(folder, SUMS)).splitlines():
        expected, _, name = line.partition("  ")
        path = storage.join(folder, name)
        if not storage.exists(path):
            problems.append(f"{path}: missing")
        elif checksums and storage.sha256(path) != expected:
            problems.append(f"{path}: checksum differs from the one recorded")
    return problems
