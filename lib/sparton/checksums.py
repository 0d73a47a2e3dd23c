"""``SHA256SUMS``: the checksums of a folder's files, written last and compared before anything is read."""

from __future__ import annotations

from collections.abc import Sequence

from sparton import storage
from sparton.errors import DataError

SUMS = "SHA256SUMS"


def write(folder: str, names: Sequence[str]) -> None:
    """Write the checksums of files in ``folder``."""
    lines = [f"{storage.sha256(storage.join(folder, name))}  {name}\n" for name in names]
    storage.write_text(storage.join(folder, SUMS), "".join(lines))


def verify(folder: str, names: Sequence[str], what: str) -> None:
    """Check that files are there and are what was written.

    Parameters
    ----------
    folder, names
        The files.
    what
        What the folder is to be, for messages.

    Raises
    ------
    DataError
        Naming the file that is missing or whose checksum is wrong.
    """
    path = storage.join(folder, SUMS)
    if not storage.exists(path):
        raise DataError(f"{path}: no such file; expected {what}")
    lines = (line.partition("  ") for line in storage.read_text(path).split("\n"))
    recorded = {name: digest for digest, _, name in lines}
    for name in names:
        file = storage.join(folder, name)
        if not storage.exists(file):
            raise DataError(f"{file}: no such file; the folder is incomplete, make it again or copy it whole")
        if recorded.get(name) != storage.sha256(file):
            raise DataError(f"{file}: SHA-256 is not the one in {SUMS}; the folder is damaged, copy it anew")
