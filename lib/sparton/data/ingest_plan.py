"""What there is to read: checksum, size and structure of every file; and which task reads which rows."""

from __future__ import annotations

import itertools
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from sparton import storage
from sparton.data.sources import identity
from sparton.data.sources.block import BadFileError, Source, bad_file, measure
from sparton.data.sources.table import Origin

MIN_TASK_BYTES = 16 << 20
TASKS_PER_SLOT = 3


@dataclass(frozen=True)
class SourceFile:
    """A file as found.

    Attributes
    ----------
    path, bytes, sha256
        Where it is, its size, and the SHA-256 (hex) of its content.
    rows, step, row_bytes
        Its rows (None: not known), how many are stored together, and bytes of one in memory.
    reason, detail
        Why it cannot be used; empty where it can.
    version
        What storage tells of the content (:func:`sparton.storage.version`), asked before the checksum was made.
    beside
        The same of the files whose content enters its jets, with their sizes.
    bits
        What stands for it in identifiers; None before :func:`with_bits`.
    """

    path: str
    bytes: int
    sha256: str
    rows: int | None
    step: int
    row_bytes: int
    reason: str
    detail: str
    version: str = ""
    beside: str = ""
    bits: int | None = None


@dataclass(frozen=True)
class Part:
    """Rows ``start`` up to ``stop`` of the file with this number."""

    file: int
    start: int
    stop: int


def examine_file(source: Source, path: str) -> SourceFile:
    """Read a file for its checksum and check its structure; what is wrong with it is in the result."""
    sha256, size, version, beside = "", 0, "", ""
    try:
        with bad_file(()):
            size, version = storage.version(path)
            beside = version_beside(source, path)
            sha256 = storage.sha256(path)
        if not size:
            raise BadFileError("empty_file", "0 bytes")
        extent = measure(source, path)
        _check_rows(source, extent.rows)
    except BadFileError as error:
        return SourceFile(path, size, sha256, None, 1, 1, error.reason, error.detail, version, beside)
    return SourceFile(path, size, sha256, extent.rows, extent.step, extent.row_bytes, "", "", version, beside)


def version_beside(source: Source, path: str) -> str:
    """Return what storage tells of the files whose content enters the jets of a file."""
    return "; ".join(f"{key} {storage.version(key)}" for key in source.beside(path))


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


def with_bits(files: Sequence[SourceFile], salt: int, held: Collection[int] = ()) -> list[SourceFile]:
    """Return the files with the bits that stand for the usable ones in identifiers, no two with the same.

    They come from the content. Where two contents begin alike, the one whose SHA-256 is larger gets others; those of
    files that a table holds already never change.

    Parameters
    ----------
    files
        As found, each content once.
    salt
        As in the settings.
    held
        Bits of the files that the table holds.
    """
    taken = set(held)
    drawn: dict[str, int] = {}
    for sha256 in sorted(file.sha256 for file in files if not file.reason):
        draws = (identity.file_bits(sha256, salt, turn) for turn in itertools.count())
        drawn[sha256] = next(bits for bits in draws if bits not in taken)
        taken.add(drawn[sha256])
    return [file if file.reason else replace(file, bits=drawn[file.sha256]) for file in files]


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


def origin_of(source: Source, file: SourceFile) -> Origin:
    """Return what the rows of a file are marked with.

    Raises
    ------
    ValueError
        If nothing stands for the file in identifiers yet.
    """
    if file.bits is None:
        raise ValueError(f"{file.path}: it has no bits for identifiers; see with_bits")
    return Origin(file.path, file.sha256, file.bits, source.several, source.name)


def _check_rows(source: Source, rows: int) -> None:
    limit = identity.max_rows(source.several)
    if rows > limit:
        raise BadFileError("too_many_rows", f"{rows} rows, expected at most {limit}; split the file")
