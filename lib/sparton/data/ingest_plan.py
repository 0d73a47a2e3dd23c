"""What there is to read: checksum, size and structure of every file; and which task reads which rows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from sparton import storage
from sparton.data.sources import identity
from sparton.data.sources.block import BadFileError, Source, bad_file, measure
from sparton.data.sources.table import Origin
from sparton.errors import DataError

MIN_TASK_BYTES = 16 << 20
TASKS_PER_SLOT = 3


@dataclass(frozen=True)
class SourceFile:
    """A file as found: ``rows`` None where they are not known, ``reason`` empty where it can be used."""

    path: str
    bytes: int
    sha256: str
    rows: int | None
    step: int
    row_bytes: int
    reason: str
    detail: str


@dataclass(frozen=True)
class Part:
    """Rows ``start`` up to ``stop`` of the file with this number."""

    file: int
    start: int
    stop: int


def examine_file(source: Source, path: str) -> SourceFile:
    """Read a file for its checksum and check its structure; what is wrong with it is in the result."""
    sha256, size = "", 0
    try:
        with bad_file(()):
            size = storage.size(path)
            sha256 = storage.sha256(path)
        if not size:
            raise BadFileError("empty_file", "0 bytes")
        extent = measure(source, path)
        _check_rows(source, extent.rows)
    except BadFileError as error:
        return SourceFile(path, size, sha256, None, 1, 1, error.reason, error.detail)
    return SourceFile(path, size, sha256, extent.rows, extent.step, extent.row_bytes, "", "")


def without_doubles(files: Sequence[SourceFile]) -> list[SourceFile]:
    """Return the files with all but the first of equal content marked as doubles."""
    seen: dict[str, str] = {}
    result = []
    for file in files:
        if not file.reason and file.sha256 in seen:
            result.append(replace(file, reason="duplicate_file", detail=f"same content as {seen[file.sha256]}"))
        else:
            if not file.reason:
                seen[file.sha256] = file.path
            result.append(file)
    return result


def check_identities(sha256s: dict[str, str], salt: int) -> None:
    """Check that no two files share the bits that stand for them in identifiers.

    Parameters
    ----------
    sha256s
        Paths by SHA-256.
    salt
        As in the settings.

    Raises
    ------
    DataError
        Naming two such files.
    """
    found: dict[int, str] = {}
    for sha256, path in sha256s.items():
        bits = identity.file_bits(sha256, salt)
        if bits in found:
            raise DataError(
                f"{path} and {found[bits]}: their checksums begin with the same {identity.FILE_BITS} bits, so their "
                "jets would share identifiers; set another ingest.salt"
            )
        found[bits] = path


def split_work(files: Sequence[SourceFile], task_bytes: int, slots: int) -> list[tuple[Part, ...]]:
    """Return the parts that each task reads: all rows of all usable files once, in order, evenly by bytes.

    Parameters
    ----------
    files
        As found; those with a reason are left out.
    task_bytes
        Bytes of input that a task reads at most, unless rows that are stored together have more.
    slots
        Tasks that can run at a time; there will be several times as many where the input is large.
    """
    usable = [(number, file) for number, file in enumerate(files) if file.reason == "" and file.rows]
    total = sum(file.bytes for _, file in usable)
    target = min(max(total // (slots * TASKS_PER_SLOT), MIN_TASK_BYTES), task_bytes)
    tasks: list[tuple[Part, ...]] = []
    open_parts: list[Part] = []
    room = target
    for number, file in usable:
        rows, per_row = file.rows or 0, file.bytes / (file.rows or 1)
        start = 0
        while start < rows:
            steps = max(int(room / per_row) // file.step, 0 if open_parts else 1)
            stop = min(start + steps * file.step, rows)
            if stop > start:
                open_parts.append(Part(number, start, stop))
                room -= int((stop - start) * per_row)
            if stop < rows or room <= 0:
                tasks.append(tuple(open_parts))
                open_parts, room = [], target
            start = stop
    return [*tasks, tuple(open_parts)] if open_parts else tasks


def origin_of(source: Source, file: SourceFile, salt: int) -> Origin:
    """Return what the rows of a file are marked with."""
    return Origin(file.path, file.sha256, identity.file_bits(file.sha256, salt), source.several, source.name)


def _check_rows(source: Source, rows: int) -> None:
    limit = identity.max_rows(source.several)
    if rows > limit:
        raise BadFileError("too_many_rows", f"{rows} rows, expected at most {limit}; split the file")
