"""The distributions of a table that later ones are compared with."""

from __future__ import annotations

from typing import Final, Literal

from sparton import storage
from sparton.config import Config, validate
from sparton.data.validation.profile import Profile
from sparton.errors import ConfigError, DataError

NAME: Final = "_reference.json"


class ReferenceColumn(Config):
    """The histogram of a column: ``counts`` of the bins between the inner ``edges``; the outer bins are open."""

    edges: tuple[float, ...]
    counts: tuple[int, ...]


class Reference(Config):
    """What a reference folder holds in ``_reference.json``: rows of the table and histograms by column."""

    kind: Literal["reference"] = "reference"
    schema_version: Literal[1] = 1
    table: str
    rows: int
    columns: dict[str, ReferenceColumn]

    @classmethod
    def of(cls, table: str, profile: Profile, edges: dict[str, tuple[float, ...]]) -> Reference:
        """Return the reference that a profile with these inner edges makes."""
        columns = {
            name: ReferenceColumn(edges=inner, counts=tuple(profile.histogram(name, len(inner) + 1)))
            for name, inner in edges.items()
        }
        return cls(table=table, rows=profile.count("rows"), columns=columns)

    def write(self, folder: str) -> None:
        """Write it into a folder, atomically."""
        storage.make_dirs(folder)
        storage.write_json(storage.join(folder, NAME), self.model_dump(mode="json"))


def read_reference(folder: str) -> Reference:
    """Read a reference folder.

    Raises
    ------
    DataError
        If there is none, or it is damaged.
    """
    path = storage.join(folder, NAME)
    if not storage.exists(path):
        raise DataError(f"{path}: no such file; make a reference with 'sparton validate --write-reference {folder}'")
    values = storage.read_json(path)
    try:
        return validate(Reference, values if isinstance(values, dict) else {}, path)
    except ConfigError as error:
        raise DataError(f"{error}; the reference is damaged, write it again") from None
