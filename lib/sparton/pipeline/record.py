"""The record of a published folder, ``_stage.json``: which stage made it, from what, with the checksum of each file."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

from sparton import storage
from sparton.config import Config, fingerprint
from sparton.errors import DataError

RECORD = "_stage.json"
CHECKSUM_THREADS = 8


class FileEntry(Config):
    """One file of a published folder: path relative to it, size in bytes and SHA-256 (hex)."""

    path: str
    bytes: int
    sha256: str


class StageRecord(Config):
    """Provenance of a published folder."""

    stage: str
    version: str
    identity: str
    created: str
    settings: dict[str, Any]
    inputs: dict[str, str]
    input_fingerprints: dict[str, str]
    summary: dict[str, Any]
    files: list[FileEntry]


def read_record(folder: str) -> StageRecord | None:
    """Return the record of a published folder, or None where there is none.

    Raises
    ------
    DataError
        If the record is damaged.
    """
    path = storage.join(folder, RECORD)
    if not storage.exists(path):
        return None
    try:
        return StageRecord.model_validate(storage.read_json(path))
    except ValueError as error:
        raise DataError(f"{path}: not a stage record ({error}); run the stage again") from None


def bad_files(folder: str, files: list[FileEntry], checksums: bool = True) -> list[str]:
    """Return one line for each file that is missing, has another size or another checksum."""
    with ThreadPoolExecutor(CHECKSUM_THREADS) as pool:
        problems = pool.map(lambda entry: _problem(folder, entry, checksums), files)
        return [problem for problem in problems if problem]


def content_fingerprint(folder: str) -> str:
    """Return a fingerprint of a folder's content: checksums of its files, or names, sizes and times.

    File names do not enter where checksums do: Spark gives equal files new names on each run.
    """
    record = read_record(folder)
    if record is not None:
        return fingerprint(sorted(entry.sha256 for entry in record.files))
    files = [storage.join(folder, path) for path in storage.list_files(folder)]
    return fingerprint([[path, storage.size(path), storage.modified(path)] for path in files])


def recorded_sums(folder: str) -> dict[str, str]:
    """Return the SHA-256 of files by relative path, as the stage that made a folder has recorded it; else nothing."""
    record = read_record(folder)
    return {entry.path: entry.sha256 for entry in record.files} if record else {}


def _problem(folder: str, entry: FileEntry, checksums: bool) -> str | None:
    path = storage.join(folder, entry.path)
    if not storage.exists(path):
        return f"{path}: missing"
    found = storage.size(path)
    if found != entry.bytes:
        return f"{path}: {found} bytes, expected {entry.bytes}"
    if checksums and storage.sha256(path) != entry.sha256:
        return f"{path}: checksum differs from the one recorded"
    return None
