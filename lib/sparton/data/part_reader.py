"""Rows of a file, read: all of them, and out of the very content whose checksum was taken.

Storage is asked for the file's size and version after each part. As long as they are what they were before the checksum
was made, the content is the same, and nothing is read twice. Where they differ, or storage tells sizes alone, the file
is read once more for its checksum: in the second case only behind the last of its rows.
"""

from __future__ import annotations

from collections.abc import Iterator

from sparton import storage
from sparton.data.ingest_plan import Part, SourceFile, version_beside
from sparton.data.sources.block import BadFileError, JetBlock, Source, bad_file, read_blocks
from sparton.errors import DataError


def read_part(source: Source, file: SourceFile, part: Part) -> Iterator[JetBlock]:
    """Yield the jets of a part of a file, a block at a time.

    Raises
    ------
    BadFileError
        If the file cannot be read; ``changed`` if it is not the one that was examined any more.
    DataError
        If the reader left out rows.
    """
    rows = 0
    try:
        for block in read_blocks(source, file.path, part.start, part.stop):
            rows += block.rows
            yield block
    except BadFileError:
        require_unchanged(source, file, part)  # another content under its name is not damage
        raise
    require_unchanged(source, file, part)
    if rows != part.stop - part.start:
        raise DataError(
            f"{file.path}: {rows} rows were read, expected {part.stop - part.start} from row {part.start} on; "
            "the file has not changed, so the reader left some out"
        )


def require_unchanged(source: Source, file: SourceFile, part: Part) -> None:
    """Check that a file still is what it was when it was examined.

    Raises
    ------
    BadFileError
        ``changed`` if it is not, ``missing_file`` if it is gone.
    """
    with bad_file(()):
        if version_beside(source, file.path) != file.beside:
            raise BadFileError("changed", "a file beside it was replaced after both were examined")
        size, version = storage.version(file.path)
        told = version == file.version and (version != "" or part.stop != file.rows)
        same = size == file.bytes and (told or storage.sha256(file.path) == file.sha256)
    if not same:
        raise BadFileError("changed", f"its content was replaced after its checksum was taken ({file.sha256})")
