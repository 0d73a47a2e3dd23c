"""What a folder of states is of: ``stream.json``, so that none is gone on with by another stream or other settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from sparton import storage
from sparton.config import validate
from sparton.errors import DataError, UsageError
from sparton.sgd.settings import ClusterSettings, KMeansSettings, PossibilisticSettings

FILE: Final = "stream.json"
FORMAT: Final = 1


@dataclass(frozen=True)
class Known:
    """What a folder says.

    Attributes
    ----------
    asked
        What the stream was begun with: everything that decides its states. JSON-able.
    cluster
        The settings of the clusters, those that came from a bundle included.
    schema
        Schema of the stream when it was begun, as JSON of Spark's.
    """

    asked: Mapping[str, Any]
    cluster: ClusterSettings
    schema: str

    @property
    def features(self) -> tuple[str, ...]:
        """Names of the features."""
        return tuple(self.asked["features"])


def read(folder: str) -> Known | None:
    """Return what a folder says; None where it says nothing.

    Raises
    ------
    DataError
        If that is damaged, or of another version.
    """
    path = storage.join(folder, FILE)
    if not storage.exists(path):
        return None
    found = storage.read_json(path)
    version = found.get("format") if isinstance(found, dict) else None
    if version != FORMAT:
        raise DataError(f"{path}: format {version!r}, expected {FORMAT}; name another folder for the states")
    kind: type[Any] = KMeansSettings if found["cluster"]["method"] == "kmeans" else PossibilisticSettings
    return Known(found["asked"], validate(kind, found["cluster"], path), found["schema"])


def claim(folder: str, mine: Known) -> None:
    """Mark a missing or empty folder; another one must be of the same stream.

    Raises
    ------
    UsageError
        If there is something else in it.
    DataError
        If it is of another stream or of other settings.
    """
    known = read(folder)
    if known is None and (found := storage.list_files(folder)):
        raise UsageError(
            f"{folder}: {found[0]} is in it, but no {FILE}; name a missing or an empty folder for the states"
        )
    others = _differences(known.asked, mine.asked) if known else []
    if others:
        raise DataError(
            f"{folder}: the states are of another stream: {'; '.join(others)}. Go on with what it was begun with, or "
            "name another folder for the states"
        )
    if known is None or known.cluster != mine.cluster:  # before the first state a bundle may have changed
        content = {"format": FORMAT, "asked": mine.asked, "cluster": mine.cluster.model_dump(mode="json")}
        storage.write_json(storage.join(folder, FILE), content | {"schema": mine.schema})


def _differences(known: Mapping[str, Any], found: Mapping[str, Any], above: str = "") -> list[str]:
    """Return one sentence for each setting in which two streams differ."""
    sentences: list[str] = []
    for name in sorted(known.keys() | found.keys()):
        one, other = known.get(name), found.get(name)
        if isinstance(one, Mapping) and isinstance(other, Mapping):
            sentences += _differences(one, other, f"{above}{name}.")
        elif one != other:
            sentences.append(f"{above}{name} is {other!r}, it was begun with {one!r}")
    return sentences
